"""From arguments to a checked `Problem`: the public functions, their checks, and the cache of kinds of calls."""
