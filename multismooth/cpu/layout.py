"""Any layout as (N, K) or (B, K, P), with the class axis second and memory in order: a kernel knows these two shapes.

classes last               (N, K)      rows
classes elsewhere          (B, K, P)   images, (N, C, H, W): P elements lie side by side
few classes, last          (1, K, N)   by strides alone: elements side by side, where a row is shorter than a vector
"""

import math
from functools import lru_cache

from multismooth.plan import mapped

# A shorter row does not fill a vector register of float32s. The elements then go side by side, as (1, K, N): PyTorch's
# softmax is 20 times faster so.
MIN_CLASSES_FOR_ROWS = 16


def strides(array):
    """Steps in entries, for tensors and NumPy arrays."""
    return array.stride() if hasattr(array, "stride") else [step // array.itemsize for step in array.strides]


def dense(shape, steps, order):
    """Whether the axes, from the slowest to the fastest in this order, walk through memory without a gap."""
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
    """How to turn arrays of the logits' shape, and of the elements' shape, into the kernels' shapes and back.

    The results are views wherever strides can express them. `min_classes_for_rows`: with fewer classes, where those
    are last, the elements go side by side.
    """

    def __init__(self, shape, steps, axis, min_classes_for_rows=MIN_CLASSES_FOR_ROWS):
        order = sorted(range(len(shape)), key=lambda k: -steps[k])
        if not dense(shape, steps, order):
            order = list(range(len(shape)))
        place, sizes = order.index(axis), [shape[k] for k in order]
        before, self.classes, after = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
        self.order, self.element_order = tuple(order), tuple(k - (k > axis) for k in order if k != axis)
        self.in_order = order == sorted(order)
        self.element_shape = tuple(shape[k] for k in range(len(shape)) if k != axis)
        self.ordered_shape, self.ordered_element_shape = tuple(sizes), tuple(sizes[:place] + sizes[place + 1 :])
        self.kernel_element_shape = (before,) if after == 1 else (before, after)
        self.kernel_shape = (before, self.classes) if after == 1 else (before, self.classes, after)
        self.transposed = after == 1 and self.classes < min_classes_for_rows

    def logits(self, array, xp):
        """An array of the logits' shape, in the kernels' shape."""
        ordered = array if self.in_order else xp.permute_dims(array, self.order)
        laid_out = ordered if ordered.shape == self.kernel_shape else xp.reshape(ordered, self.kernel_shape)
        return laid_out.T[None] if self.transposed else laid_out

    def matches(self, array):
        """Whether an array of the logits' shape has their order of memory, so that `logits` of it is a view."""
        return dense(array.shape, strides(array), self.order)

    def as_logits(self, block, xp):
        """A block of memory as an array of the logits' shape and order of memory."""
        block = xp.reshape(block, self.ordered_shape)
        return block if self.in_order else xp.permute_dims(block, inverse(self.order))

    def elements_back(self, results, xp):
        """A kernel's results per element, in the caller's shape."""
        results = xp.reshape(results, self.ordered_element_shape)
        return results if self.in_order else xp.permute_dims(results, inverse(self.element_order))

    def plan(self, plan, logits, xp):
        """The plan in the kernels' shapes. Floating arrays of one entry become numbers."""
        shape = self.element_shape

        def element(value):
            if math.prod(value.shape) == 1 and shape and isinstance(number := value.item(), float):
                return number
            spread = value if value.shape == shape else xp.broadcast_to(value, shape)
            ordered = spread if self.in_order else xp.permute_dims(spread, self.element_order)
            kernel_shape = self.kernel_element_shape
            laid_out = ordered if ordered.shape == kernel_shape else xp.reshape(ordered, kernel_shape)
            return laid_out[None] if self.transposed else laid_out

        def row(value):
            if math.prod(value.shape) == self.classes:
                return xp.reshape(value, (1, -1) if len(self.kernel_shape) == 2 and not self.transposed else (1, -1, 1))
            return self.logits(xp.broadcast_to(value, logits.shape), xp)

        return mapped(plan, element, row)


_cached_layout = lru_cache(1024)(Layout)


def layout_of(logits, axis, min_classes_for_rows=MIN_CLASSES_FOR_ROWS):
    """The Layout of these logits. It is cached: to make one takes as long as to compute a small problem."""
    return _cached_layout(logits.shape, tuple(strides(logits)), axis, min_classes_for_rows)
