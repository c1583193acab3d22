"""The losses beside smoothing on a CPU, a chunk at a time in cache: compiled by Numba, or the formulas as written."""

import math
from functools import partial

import numpy as np

from multismooth.cpu.capped import cap, slope_
from multismooth.cpu.choice import numba
from multismooth.cpu.chunks import balanced_chunk_size, chunk_plan, chunk_slices, selected
from multismooth.cpu.layout import MIN_CLASSES_FOR_ROWS, layout_of
from multismooth.cpu.threads import share
from multismooth.namespace import XP
from multismooth.spec import Plan

ENTRIES = 2**18  # logits per chunk of the formulas: their dozen arrays of this size stay in the second cache level


def compiled():
    """The compiled kernels, or None without Numba."""
    if numba() is None:
        return None
    from multismooth.cpu.compiled import alternatives

    return alternatives


def carried(alternative, change):
    """The alternative with its arrays changed as a plan's are: a plan carries them."""
    strength, teacher = alternative.arrays()
    if teacher is None and (strength is None or isinstance(strength, float)):
        return alternative
    carrier = change(Plan(const=strength, u=teacher))
    return alternative.with_arrays(carrier.const, carrier.u)


def laid_out(layout, logits, plan, alternative, xp):
    """(logits, plan, alternative) in the shapes of the kernels."""

    def change(plan):
        return layout.plan(plan, logits, xp)

    return layout.logits(logits, xp), change(plan), carried(alternative, change)


def compiles(logits, plan, alternative, axis):
    """Whether the compiled kernels compute a call of NumPy arrays."""
    if logits.size == 0 or compiled() is None:
        return False
    return compiled().supports(*laid_out(layout_of(logits, axis), logits, plan, alternative, XP))


def by_formulas(z, plan, alternative, out, xp):
    """The losses of a chunk; its gradient goes to `out` unless that is None."""
    if out is None:
        return alternative.losses(z, plan, 1, xp)
    losses, out[...] = alternative.losses_and_gradient(z, plan, 1, xp)
    return losses


def repair(losses, which, z, plan, alternative, out, xp):
    """Overwrite what a kernel has computed where `which` is True, by the formulas."""

    def change(plan):
        return selected(plan, which, xp)

    rows = xp.moveaxis(z, 1, -1)[which]
    right = xp.zeros(rows.shape, dtype=losses.dtype)
    losses[which] = by_formulas(rows, change(plan), carried(alternative, change), right, xp)
    if out is not None:
        xp.moveaxis(out, 1, -1)[which] = right


def evaluate(name, logits, plan, alternative, axis, xp, gradient=None, workers=1, kernel=None, most=ENTRIES):
    """The losses per element, by "numba" or "chunked"; the gradient of their sum goes to `gradient`.

    `gradient` has the layout of the logits. "chunked" computes chunks of at most `most` logits, by a
    `kernel(z, plan, alternative, out)` if there is one, else by the formulas.
    """
    layout = layout_of(logits, axis, MIN_CLASSES_FOR_ROWS)
    z, plan, alternative = laid_out(layout, logits, plan, alternative, xp)
    target = None if gradient is None else layout.logits(gradient, xp)
    rows = compiled() if name == "numba" else None
    common = None if rows is None else rows.common_arguments(z, plan)
    kernel = kernel or partial(by_formulas, xp=xp)

    def run(index):
        def change(plan):
            return chunk_plan(plan, index)

        own, part, other = z[index], change(plan), carried(alternative, change)
        out = None if target is None else target[index]
        if part.softcap is None:
            return of_part(own, part, other, out)
        own = cap(own, part, 1, xp)
        losses = of_part(own, part._replace(softcap=None), other, out)
        if out is not None:
            slope_(out, own, part)
        return losses

    def of_part(z, plan, alternative, out):
        if rows is not None:
            losses = np.empty(z.shape[0], z.dtype)
            if rows.compute_part(z, plan, alternative, common, out, losses):
                return losses if plan.const is None else losses + plan.const
        return kernel(z, plan, alternative, out)

    size = balanced_chunk_size(math.prod(z.shape), most if rows is None else rows.PART, workers)
    parts = share(run, list(chunk_slices(z.shape, size)), workers)
    if len(parts) > 1 or z.ndim == 3:
        parts = [xp.concat([xp.reshape(part, (-1,)) for part in parts])]
    return layout.elements_back(parts[0], xp)
