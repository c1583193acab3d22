"""Any layout as (N, K) or (B, K, P): the class axis second, memory in order, so that a kernel knows two shapes.

classes last               (N, K)      rows
classes elsewhere          (B, K, P)   images, (N, C, H, W): P elements lie side by side
few classes, last          (1, K, N)   by strides alone: rows side by side, for vectors longer than a row
"""

import math
from functools import lru_cache

from multismooth.plan import mapped

MIN_CLASSES_FOR_ROWS = 16  # fewer classes than float32s in a vector register: PyTorch's softmax is 20 times faster across the rows


def strides(array):
    """In entries, for tensors and arrays alike."""
    return array.stride() if hasattr(array, "stride") else [step // array.itemsize for step in array.strides]


def dense(shape, steps, order):
    """Whether the axes in this order walk through memory without a gap."""
    expected = 1
    for k in reversed(order):
        if shape[k] != 1:
            if steps[k] != expected:
                return False
            expected *= shape[k]
    return True


def inverse(order):
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class Layout:
    """How arrays of the logits' shape, and of the elements', are seen; views wherever the layout lets them be."""

    def __init__(self, shape, steps, axis, narrow=MIN_CLASSES_FOR_ROWS):
        order = sorted(range(len(shape)), key=lambda k: -steps[k])
        if not dense(shape, steps, order):
            order = list(range(len(shape)))
        place, sizes = order.index(axis), [shape[k] for k in order]
        before, self.classes, after = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
        self.order, self.elements = tuple(order), tuple(k - (k > axis) for k in order if k != axis)
        self.straight = order == sorted(order)
        self.given = tuple(shape[k] for k in range(len(shape)) if k != axis)
        self.all, self.sizes = tuple(sizes), tuple(sizes[:place] + sizes[place + 1 :])
        self.lines = (before,) if after == 1 else (before, after)
        self.shape = (before, self.classes) if after == 1 else (before, self.classes, after)
        self.across = after == 1 and self.classes < narrow

    def entries(self, array, xp):
        """An array of the logits' shape."""
        seen = array if self.straight else xp.permute_dims(array, self.order)
        seen = seen if seen.shape == self.shape else xp.reshape(seen, self.shape)
        return seen.T[None] if self.across else seen

    def matches(self, array):
        """Whether an array of the logits' shape has their layout, so that `entries` of it is a view."""
        return dense(array.shape, strides(array), self.order)

    def as_logits(self, block, xp):
        """A block of memory as an array of the logits' shape and layout."""
        block = xp.reshape(block, self.all)
        return block if self.straight else xp.permute_dims(block, inverse(self.order))

    def back(self, results, xp):
        """Per-element results in the caller's order of axes."""
        results = xp.reshape(results, self.sizes)
        return results if self.straight else xp.permute_dims(results, inverse(self.elements))

    def plan(self, plan, logits, xp):
        """The plan in this layout; arrays of one number become it."""
        shape = self.given

        def element(value):
            if math.prod(value.shape) == 1 and shape and isinstance(number := value.item(), float):
                return number
            seen = value if value.shape == shape else xp.broadcast_to(value, shape)
            seen = seen if self.straight else xp.permute_dims(seen, self.elements)
            seen = seen if seen.shape == self.lines else xp.reshape(seen, self.lines)
            return seen[None] if self.across else seen

        def row(value):
            if math.prod(value.shape) == self.classes:
                return xp.reshape(value, (1, -1) if len(self.shape) == 2 and not self.across else (1, -1, 1))
            return self.entries(xp.broadcast_to(value, logits.shape), xp)

        return mapped(plan, element, row)


_layout = lru_cache(1024)(Layout)


def layout_of(logits, axis, narrow=MIN_CLASSES_FOR_ROWS):
    """The Layout of these logits; kept, because a small problem is computed in the time that making one takes.

    Fewer classes than `narrow`, where they are last, are seen across.
    """
    return _layout(logits.shape, tuple(strides(logits)), axis, narrow)
