"""Any layout as (N, K) or (B, K, P): the class axis second, memory in order, so that a kernel knows two shapes.

classes last               (N, K)      rows
classes elsewhere          (B, K, P)   images, (N, C, H, W): P elements lie side by side
few classes, last          (1, K, N)   by strides alone: rows side by side, for vectors longer than a row
"""

import math

VECTOR = 16  # fewer classes than float32s in a vector register: PyTorch's softmax is 20 times faster across the rows
ROWS = ("u", "v", "mask")


def mapped(plan, element, row):
    """The plan with its per-element arrays and its rows (which broadcast to the logits) changed."""

    changed = {}
    for name, value in zip(plan._fields, plan, strict=True):
        if value is not None and type(value) is not float:
            changed[name] = row(value) if name in ROWS else element(value)
    return plan._replace(**changed)


def shared(row):
    """Whether a framed row is one for all elements."""
    return row.shape[0] == 1 and math.prod(row.shape) == row.shape[1]


def strides(array):
    """In entries, for tensors and arrays alike."""
    return array.stride() if hasattr(array, "stride") else [step // array.itemsize for step in array.strides]


def in_order(array, order):
    """Whether the axes in this order walk through memory without a gap."""
    steps, expected = strides(array), 1
    for k in reversed(order):
        if array.shape[k] != 1:
            if steps[k] != expected:
                return False
            expected *= array.shape[k]
    return True


class Frame:
    """How arrays of the logits' shape, and of the elements', are seen; views wherever the layout lets them be."""

    def __init__(self, logits, axis, xp):
        steps = strides(logits)
        order = sorted(range(logits.ndim), key=lambda k: -steps[k])
        if not in_order(logits, order):
            order = list(range(logits.ndim))
        place, sizes = order.index(axis), [logits.shape[k] for k in order]
        before, self.classes, after = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
        self.xp, self.order, self.elements = xp, order, [k - (k > axis) for k in order if k != axis]
        self.all, self.sizes = sizes, sizes[:place] + sizes[place + 1 :]
        self.across = after == 1 and self.classes < VECTOR
        self.shape = (before, self.classes) if after == 1 else (before, self.classes, after)

    def entries(self, array):
        """An array of the logits' shape."""
        seen = self.xp.reshape(self.xp.permute_dims(array, tuple(self.order)), self.shape)
        return self.xp.expand_dims(seen.T, axis=0) if self.across else seen

    def fits(self, array):
        """Whether an array of the logits' shape has their layout, so that `entries` of it is a view."""
        return in_order(array, self.order)

    def whole(self, block):
        """A block of memory as an array of the logits' shape and layout."""
        place = tuple(self.order.index(k) for k in range(len(self.order)))
        return self.xp.permute_dims(self.xp.reshape(block, tuple(self.all)), place)

    def back(self, results):
        """Per-element results in the caller's order of axes."""
        place = tuple(self.elements.index(k) for k in range(len(self.elements)))
        return self.xp.permute_dims(self.xp.reshape(results, tuple(self.sizes)), place)

    def plan(self, plan, logits):
        """The plan in this frame; 0-d arrays become the numbers that they are."""
        xp, shape = self.xp, [0] * len(self.elements)
        for k, size in zip(self.elements, self.sizes, strict=True):
            shape[k] = size

        def element(value):
            if value.ndim == 0 and shape and isinstance(number := value.item(), float):
                return number
            seen = xp.permute_dims(xp.broadcast_to(value, tuple(shape)), tuple(self.elements))
            seen = xp.reshape(seen, (self.shape[0], *self.shape[2:]))
            return xp.expand_dims(seen, axis=0) if self.across else seen

        def row(value):
            if math.prod(value.shape) == self.classes:
                return xp.reshape(value, (1, -1) if len(self.shape) == 2 and not self.across else (1, -1, 1))
            return self.entries(xp.broadcast_to(value, logits.shape))

        return mapped(plan, element, row)
