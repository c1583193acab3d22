"""Finds out which convention a loss computes, from its answers to a few problems. `search.identify` starts it."""
