"""The losses beside smoothing on a CPU, a chunk at a time in cache: compiled by Numba, or the formulas as written."""

import math

import numpy as np

from multismooth.cpu.choice import numba
from multismooth.cpu.chunks import balanced_chunk_size, chunk_plan, chunk_slices
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


def laid_out(layout, logits, plan, alternative, xp):
    """(logits, plan, alternative) in the shapes of the kernels. A plan carries the alternative's arrays there."""
    strength, teacher = alternative.arrays()
    carrier = layout.plan(Plan(const=strength, u=teacher), logits, xp)
    return layout.logits(logits, xp), layout.plan(plan, logits, xp), alternative.with_arrays(carrier.const, carrier.u)


def part_of(alternative, index):
    """The part of a laid out alternative that belongs to one chunk."""
    strength, teacher = alternative.arrays()
    carrier = chunk_plan(Plan(const=strength, u=teacher), index)
    return alternative.with_arrays(carrier.const, carrier.u)


def compiles(logits, plan, alternative, axis):
    """Whether the compiled kernels compute a call of NumPy arrays."""
    if logits.size == 0 or compiled() is None:
        return False
    return compiled().supports(*laid_out(layout_of(logits, axis), logits, plan, alternative, XP))


def evaluate(name, logits, plan, alternative, axis, xp, gradient=None, workers=1):
    """The losses per element, by "numba" or "chunked"; the gradient of their sum goes to `gradient`.

    `gradient` has the layout of the logits.
    """
    layout = layout_of(logits, axis, MIN_CLASSES_FOR_ROWS)
    z, plan, alternative = laid_out(layout, logits, plan, alternative, xp)
    target = None if gradient is None else layout.logits(gradient, xp)
    kernel = compiled() if name == "numba" else None
    common = None if kernel is None else kernel.common_arguments(z, plan)

    def run(index):
        own, part, beside = z[index], chunk_plan(plan, index), part_of(alternative, index)
        out = None if target is None else target[index]
        if kernel is not None:
            losses = np.empty(own.shape[0], own.dtype)
            if kernel.compute_part(own, part, beside, common, out, losses):
                return losses if part.const is None else losses + part.const
        if out is None:
            return beside.losses(own, part, 1, xp)
        losses, out[...] = beside.losses_and_gradient(own, part, 1, xp)
        return losses

    size = balanced_chunk_size(math.prod(z.shape), ENTRIES if kernel is None else kernel.PART, workers)
    parts = share(run, list(chunk_slices(z.shape, size)), workers)
    if len(parts) > 1 or z.ndim == 3:
        parts = [xp.concat([xp.reshape(part, (-1,)) for part in parts])]
    return layout.elements_back(parts[0], xp)
