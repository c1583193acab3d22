"""`kernels.negative_target` and `kernels.summed_loss` of small problems with labels, as lines of a recording.

They equal those bit by bit. What a kind of call knows saves operations: an element that is ignored has no entry to
write, and the entry of a label needs not be read where one row is shared by all elements.
"""

from operator import getitem

import numpy as np

from multismooth.cpu import kernels
from multismooth.plan import shared
from multismooth.recording import Recorded


def fits(plan, size):
    """Whether these functions compute a plan for so many logits."""
    unknown = (plan.u, plan.const, plan.z_loss, plan.softcap)
    return all(x is None for x in unknown) and size <= kernels.MAX_BLAS_ENTRIES


def negative_target(lp, plan, axis, xp):
    """−W = −a·u − b·v in the layout of log p."""
    a, b, v, labels, classes = plan.a, plan.b, plan.v, plan.labels, lp.shape[axis]
    g = xp.call(np.empty_like, lp, value=np.empty_like(lp.value), always=False)
    own = kernels.own_entries(labels, axis)
    if v is None:
        uniform = b * (-1 / classes)
        g[...] = xp.expand_dims(uniform, axis) if each(b) else uniform
        booleans = booleans_of(a, b)
        if booleans is None:
            g[own] = -a - b / classes
        else:  # the entries of other elements are 0 already
            (_, _, a), (_, _, b) = a.entry, b.entry
            g[entries_where(booleans, labels, axis, xp)] = -a - b / classes
        return g
    share = -v
    if each(b):
        xp.write("{1}({2}, {3}, {0})", g, np.multiply, xp.expand_dims(b, axis), share)
    else:
        g[...] = share = b * share
    if not shared(v):
        g[own] = g[own] - a
    else:
        row = xp.take(xp.reshape(share, (classes,)), labels, 0)
        g[own] = (b * row if each(b) else row) - a
    return g


def each(x):
    """Whether a coefficient has an entry for each element."""
    return isinstance(x, Recorded) and x.ndim > 0


def booleans_of(a, b):
    """The booleans that both coefficients are multiples of, as those of ignored labels are; None: there are none."""
    same = each(a) and each(b) and a.entry is not None and b.entry is not None and a.entry[0] is b.entry[0]
    return a.entry[0] if same else None


def entries_where(booleans, labels, axis, xp):
    """The index of the labels' entries in the logits, of the elements where this is True."""
    where = xp.call(np.ndarray.nonzero, booleans, value=np.nonzero(booleans.value), always=False)
    given = labels.chosen[1] if labels.chosen is not None and labels.chosen[0] is booleans else labels
    others = [xp.call(getitem, where, k, value=where.value[k], always=False) for k in range(booleans.ndim)]
    return (*others[:axis], given[where], *others[axis:])


def summed_loss(lp, plan, axis, xp):
    """Σ (a·nll + b·smooth) from log p."""
    b, v, classes = plan.b, plan.v, lp.shape[axis]
    loss = 0.0 - inner(plan.a, lp[kernels.own_entries(plan.labels, axis)], xp)
    if type(b) is float and b == 0.0:  # a −inf logit costs nothing without smoothing
        return loss
    if v is None and not each(b):
        return loss - inner(b / classes, lp, xp)
    return loss - inner(b, row_sums(lp, v, axis, xp), xp)


def row_sums(lp, row, axis, xp):
    """Σ_k row_k log p_k per element."""
    if axis == lp.ndim - 1 and (row is None or shared(row)):
        row = kernels.uniform_row(lp.shape[axis], lp.dtype) if row is None else xp.reshape(row, (-1,))
        return xp.method("dot", lp, row)
    return xp.call(kernels.row_sums, lp, row, axis, value=np.empty(np.delete(lp.shape, axis), lp.dtype), always=False)


def inner(x, y, xp):
    """Σ x·y, of a number or array x that broadcasts to the array y."""
    if not each(x):
        return x * product(kernels.ONES[y.dtype][: y.size], y, xp)
    if x.shape == y.shape:
        return product(x, y, xp)
    return xp.call(kernels.total, x, y, value=1.0, always=False)


def product(x, y, xp):
    """Σ x·y of two arrays of one size. `np.vdot` takes twice as long for short ones."""
    return xp.method("dot", x, y) if x.ndim == y.ndim == 1 else xp.function(np.vdot, x, y)
