"""How the kernels see an array: logits of any shape and strides become (B, K, P), mostly without a copy.

K is the class axis. B and P are the elements' axes: neighbours that one stride can walk are merged, and if a single
axis remains it is P.
"""

from functools import lru_cache
from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """(B, K, P), and the strides of the logits, of their gradient and of soft targets in the order B, P, K."""

    batch: int
    classes: int
    positions: int
    logits_strides: tuple[int, int, int]
    gradient_strides: tuple[int, int, int]
    target_strides: tuple[int, int, int] | None = None  # None: the targets are labels


def without_axis(sequence, axis):
    """The entries of all axes but one."""
    axis %= len(sequence)
    return tuple(entry for index, entry in enumerate(sequence) if index != axis)


@lru_cache(1024)
def layout_of(shape, axis, *strides):
    """The Layout of logits, their gradient and soft targets, by the strides of each; fewer will do.

    None if the elements need more than two axes.
    """
    axes: list[tuple[int, ...]] = []
    for size, *steps in zip(*(without_axis(sequence, axis) for sequence in (shape, *strides)), strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1:] == tuple(size * step for step in steps):
            size *= axes.pop()[0]
        axes.append((size, *steps))
    if len(axes) > 2:
        return None
    (batch, *first), (positions, *second) = [(1, *(0,) * len(strides))] * (2 - len(axes)) + axes
    logits, *others = ((b, p, steps[axis]) for b, p, steps in zip(first, second, strides, strict=True))
    return Layout(batch, shape[axis], positions, logits, *(others or [logits]))


def arranged(logits, targets, axis, with_gradient, out):
    """(logits, memory for their gradient or None, soft targets or None, their Layout).

    Without a Layout, contiguous copies are taken.
    """
    gradient = (out if can_hold_gradient(out, logits, targets) else torch.empty_like(logits)) if with_gradient else None
    strides = [x.stride() for x in (logits, logits if gradient is None else gradient, targets) if x is not None]
    layout = layout_of(logits.shape, axis, *strides)
    if layout is None:
        targets = None if targets is None else targets.contiguous()
        return arranged(logits.contiguous(), targets, axis, with_gradient, None)
    return logits, gradient, targets, layout


def can_hold_gradient(out, logits, targets):
    """Whether a kernel can write the gradient to the caller's tensor.

    The tensor must have a storage of its own, or be exactly the logits' memory.
    """
    if out is None or not (out.is_contiguous() or (out.stride() == logits.stride() and 0 not in out.stride())):
        return False
    if targets is not None and out.untyped_storage().data_ptr() == targets.untyped_storage().data_ptr():
        return False
    if out.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr():
        return True
    return out.data_ptr() == logits.data_ptr() and out.stride() == logits.stride()
