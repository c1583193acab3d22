"""`identify`: which convention a loss is, from its answers to probes."""
