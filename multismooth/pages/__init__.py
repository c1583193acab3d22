"""What the pages of the commands share: their style, their drawings."""
