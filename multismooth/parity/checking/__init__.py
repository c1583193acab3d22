"""Compares a loss with a convention (`check.check`), or with another loss (`check.compare`), on the same cases."""
