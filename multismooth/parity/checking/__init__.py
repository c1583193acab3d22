"""`check` and `compare`: two losses on the same cases, and what differs between them."""
