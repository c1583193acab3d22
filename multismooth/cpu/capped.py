"""A soft cap on a CPU: any kernel computes blocks of capped logits, which are in cache.

    z = c·tanh(given/c),   ∂/∂given = ∂/∂z·(1 − (z/c)²)

So a cap needs a block of memory and no copy of the (N, K) logits. Numbers, tensors and NumPy arrays are written in
place, because fresh memory costs more than the arithmetic.
"""

from multismooth import spec
from multismooth.cpu.chunks import chunk_plan, chunk_slices
from multismooth.cpu.layout import layout_of

SMALLEST, LARGEST = 1e-6, 1e6  # caps whose squares leave room in float32
BLOCK = 2**18  # logits of a block: 1 MiB of float32, and as much again for what a kernel makes of it


def cap(given, plan, axis, xp, memory=None):
    """`spec.capped` in memory of its own, or in this one."""
    z = spec.readable(xp.astype(given, xp.float_of(given), copy=False), plan, axis, xp)
    z = z / plan.softcap if memory is None else xp.divide(z, plan.softcap, out=memory)
    xp.tanh(z, out=z)
    z *= plan.softcap
    return z


def slope_(gradient, z, plan):
    """The gradient by the capped logits z becomes that by the given ones, in place. z is used up."""
    c = plan.softcap
    if (
        hasattr(gradient, "addcmul_") and isinstance(c, float) and SMALLEST < c < LARGEST
    ):  # PyTorch's: one pass for three
        z.mul_(z)
        return gradient.addcmul_(z, gradient, value=-1 / (c * c))
    z /= c
    z *= z
    z *= gradient
    gradient -= z
    return gradient


def in_one_block(kernel, given, plan, axis, with_gradient, xp, own=None, memory=None):
    """(losses per element, gradient in the computing dtype or None) by `kernel(z, plan, axis, with_gradient, own)`.

    `own`, `memory`: for the gradient and for z, or None. `plan` has arrays of the namespace, and `kernel` may have its
    own.
    """
    z = cap(given, plan, axis, xp, memory)
    losses, gradient = kernel(z, plan, axis, with_gradient, own)
    return losses, slope_(gradient, z, plan) if with_gradient else None


def evaluate(kernel, logits, plan, axis, xp, gradient=None, upstream=1.0):
    """The losses per element; upstream times the gradient of their sum goes to `gradient`.

    `gradient` has the layout of the logits, or is the logits. `kernel` is as in `in_one_block`, with classes on axis 1.
    """
    layout, dtype = layout_of(logits, axis), xp.float_of(logits)
    given, plan = layout.logits(logits, xp), layout.plan(plan, logits, xp)
    target = None if gradient is None else layout.logits(gradient, xp)
    parts, rows = [], None
    for index in chunk_slices(given.shape, BLOCK):
        part, own = given[index], None
        if rows is None and given.ndim == 2:
            rows = xp.empty_like(part, dtype=dtype)  # once: to map fresh memory takes as long as tanh
        if target is not None:
            own = target[index] if target.dtype == dtype else xp.empty_like(part, dtype=dtype)
        memory = None if rows is None else rows[: part.shape[0]]
        losses, found = in_one_block(kernel, part, chunk_plan(plan, index), 1, target is not None, xp, own, memory)
        if target is not None and (upstream != 1.0 or found is not own or target.dtype != dtype):
            target[index] = found if upstream == 1.0 else found * upstream
        parts.append(xp.reshape(losses, (-1,)))
    return layout.elements_back(xp.concat(parts), xp)
