"""Which axes of a mesh a value varies over: a part of its type inside `jax.shard_map`.

A loop's carry must come out with the type that it went in with, and a cotangent must have that of its output; fresh
zeros and ones vary over nothing. Outside `shard_map`, or with `check_vma=False`, there are no such axes.
"""

import jax


def axes_of(tree):
    """The mesh axes over which any array of the tree varies."""
    return frozenset().union(*(_axes(x) for x in jax.tree.leaves(tree)))


def _axes(x):
    kind = jax.typeof(x)
    typed = getattr(kind, "manual_axis_type", None)  # JAX 0.10 and later; `vma` before
    return getattr(kind, "vma", frozenset()) if typed is None else typed.varying


def spread(tree, axes):
    """The same values, typed as varying over `axes`; backward sums over them."""

    def cast(x):
        missing = tuple(sorted(axes - _axes(x)))
        if not missing:
            return x
        return jax.lax.pcast(x, missing, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(x, missing)

    return jax.tree.map(cast, tree) if axes else tree


def typed_as(gradient, primal):
    """The gradient with respect to a value that varies over fewer axes: the sum over the others, as JAX's own is."""
    more = tuple(sorted(axes_of(gradient) - axes_of(primal)))
    return jax.lax.psum(gradient, more) if more else gradient
