"""The kernels for PyTorch tensors on a CPU. They make no graph: `autograd` puts them under autograd.

Each is (logits, plan, axis, with_gradient, summed, out) → (losses per element or their sum, gradient of the sum or
None): that of `spec.elements` and `spec.gradient`. Those that half precision may get take `upstream` too, a number that
the gradient is multiplied by before it is rounded. `whole` makes a few calls on whole tensors, which small problems and
other devices want. The others are for large problems, or compute in the memory that tensors share with NumPy.
"""

import math

import numpy as np
import torch

from multismooth import spec
from multismooth.cpu import choice as cpu
from multismooth.cpu import chunks, kernels
from multismooth.cpu.buffers import SCRATCH, gradient_memory
from multismooth.cpu.layout import MIN_CLASSES_FOR_ROWS, layout_of
from multismooth.plan import with_numbers
from multismooth.torch import cpu_chunked as chunk
from multismooth.torch.compat import log_softmax_backward
from multismooth.torch.namespace import XP, float_of

# What is added to the logits of a class that does not exist, and of one that does.
ABSENT_PRESENT = {
    torch.float32: np.array([np.finfo(np.float32).min / 2, 0], np.float32),
    torch.float64: np.array([np.finfo(np.float64).min / 2, 0], np.float64),
}
DOT_BLOCK = 2**16  # entries that a product of two vectors adds in float32
MIN_LOGITS_SCRATCH = 2**18  # from so many on, memory that is kept pays: a fresh MiB is mapped page by page
MIN_LOGITS_TO_TRANSPOSE = 2**10  # from so many on, a copy with the rows side by side pays for a short class axis


# --- a chunk at a time ----------------------------------------------------------------------------------------------


def chunked(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    logits = logits.detach()
    layout, gradient = layout_of(logits, axis), None
    if with_gradient:
        fits = out is not None and cpu.fits(layout, as_numpy(logits), as_numpy(out))
        gradient = out if fits else layout.as_logits(memory(logits, logits.dtype), XP)
    loss = chunks.evaluate(
        chunk.kernel, layout, logits, plan_as_tensors(plan), XP, gradient, chunk.CHUNK_LOGITS, upstream=upstream
    )
    if out is not None and gradient is not out:
        gradient = out.copy_(gradient)
    return loss.sum() if summed else loss, gradient


def memory(logits, dtype):
    """For a gradient of this dtype."""
    return torch.from_numpy(gradient_memory(logits.numel() * dtype.itemsize, np.uint8)).view(dtype)


# --- through the memory that NumPy sees ------------------------------------------------------------------------------


def as_numpy(tensor):
    """A tensor's memory as a NumPy array; bfloat16 as the bits that it is."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def numba(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    z, own = as_numpy(logits), None if out is None else as_numpy(out)
    plan = plan_as_numpy(plan)
    loss, gradient = cpu.evaluate("numba", z, plan, axis, with_gradient, own, torch.get_num_threads, upstream)
    loss = number(np.add.reduce(loss, None), logits) if summed else torch.from_numpy(loss)
    if not with_gradient or gradient is own:
        return loss, out
    gradient = torch.from_numpy(gradient)
    gradient = gradient if gradient.dtype is logits.dtype else gradient.view(logits.dtype)
    return loss, gradient if out is None else out.copy_(gradient)


def small_numba(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    """`numba` for a kind of call that `cpu.choice.small` accepts, with a plan in NumPy."""
    z, labels = logits.detach().numpy(), plan.labels
    if out is not None or not (z.flags.c_contiguous and labels.flags.c_contiguous):  # may differ from call to call
        return numba(logits, plan, axis, with_gradient, summed, out)
    loss, gradient = cpu.numba().small_problem(z, labels, plan, with_gradient)
    loss = number(np.add.reduce(loss, None), logits) if summed else torch.from_numpy(loss)
    return loss, None if gradient is None else torch.from_numpy(gradient)


def number(value, logits):
    """A loss as a tensor. `torch.scalar_tensor` takes twice as long."""
    return torch.from_numpy(np.asarray(value, np.float64 if logits.dtype is torch.float64 else np.float32))


def plan_as_numpy(plan):
    """The plan in NumPy, half precision as float32."""
    changed = {
        name: (x.float() if x.is_floating_point() and x.itemsize == 2 else x).numpy(force=True)
        for name, x in zip(plan._fields, plan, strict=True)
        if isinstance(x, torch.Tensor)
    }
    return with_numbers(plan._replace(**changed)) if changed else plan


def plan_as_tensors(plan):
    """The plan in tensors."""
    changed = {
        name: torch.from_numpy(np.asarray(x) if x.flags.writeable else np.array(x))
        for name, x in zip(plan._fields, plan, strict=True)
        if isinstance(x, (np.ndarray, np.generic))
    }
    return plan._replace(**changed) if changed else plan


# --- few classes and few rows, in NumPy -----------------------------------------------------------------------------


def columns(logits, plan, axis, with_gradient=True, summed=False, out=None):
    loss, gradient = kernels.columns(logits.detach().numpy(), plan_as_numpy(plan), with_gradient, summed)
    if not kernels.plain(loss):
        return whole(logits, plan, axis, with_gradient, summed, out)
    loss = number(loss, logits) if summed else torch.from_numpy(loss)
    if not with_gradient:
        return loss, None
    gradient = torch.from_numpy(gradient)
    return loss, gradient if out is None else out.copy_(gradient)


# --- whole tensors --------------------------------------------------------------------------------------------------


def transposes(logits, axis):
    """Whether a copy of logits with few classes, with the rows side by side, pays."""
    return logits.numel() > MIN_LOGITS_TO_TRANSPOSE and logits.stride(axis) == 1 and logits.is_cpu


def log_p(logits, axis, dtype, out=None):
    """log softmax in this dtype: in `out`, which may be the logits, or in a buffer of our own."""
    classes = logits.shape[axis]
    if out is None and classes < MIN_CLASSES_FOR_ROWS and transposes(logits, axis):
        columns = logits.movedim(axis, 0).to(dtype, memory_format=torch.contiguous_format, copy=True)
        return torch.log_softmax(columns, 0).movedim(0, axis)
    if out is not None:
        found = torch.log_softmax(logits, axis, dtype=dtype, out=out)
    else:
        found = (
            torch.log_softmax(logits, axis) if logits.dtype is dtype else torch.log_softmax(logits, axis, dtype=dtype)
        )
    if (
        classes >= chunk.MIN_CLASSES_SUMMED_AGAIN and found.is_cpu
    ):  # its own sum, in sixteen lanes, is 3e-5 off at 128,256 classes
        found.sub_(found.exp().sum(axis, keepdim=True).log_())
    return found


def losses(logits, lp, plan, axis):
    """(per-element loss, lse or None) from log p; lse is only formed where z_loss needs it."""
    nll = -XP.pick(lp, plan.labels, axis) if plan.u is None else spec.weighted_gap(plan.u, -lp, axis, XP)
    lse = None if plan.z_loss is None else torch.logsumexp(spec.masked_logits(logits, plan, axis, XP), axis)
    smooth = -lp.mean(axis) if plan.v is None else spec.weighted_gap(plan.v, -lp, axis, XP)
    return spec.elements(lse, nll, smooth, plan, XP), lse


def gradient_(p, lse, plan, axis):
    """`spec.gradient`, written over p = softmax(z)."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    if plan.z_loss is not None:
        height = height + 2 * plan.z_loss * lse
    p.mul_(spec.wide(height, axis, XP))
    if not (type(plan.b) is float and plan.b == 0.0):
        p.sub_(spec.wide(plan.b, axis, XP) * (1 / p.shape[axis] if plan.v is None else plan.v))
    if plan.u is not None:
        p.sub_(spec.wide(plan.a, axis, XP) * plan.u)
    elif type(plan.a) is float:
        p.scatter_(axis, plan.labels.unsqueeze(axis), -plan.a, reduce="add")
    else:
        own = plan.a.neg().expand(plan.labels.shape)
        p.scatter_add_(axis, plan.labels.unsqueeze(axis), own.unsqueeze(axis))
    return p if plan.active is None else p.masked_fill_(~spec.wide(plan.active, axis, XP), 0.0)


def whole(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    if summed and plan.z_loss is None and logits.is_cpu and logits.numel() > 0:
        plan = plan if type(plan.labels) is np.ndarray else plan_as_numpy(plan)
        loss, gradient = whole_summed(logits, plan, axis, with_gradient)
        if math.isfinite(loss):  # or infinite, and perhaps wrong: as in `kernels.plain`
            loss = number(loss, logits)
            plain = gradient is None or (out is None and gradient.dtype is logits.dtype)
            return loss, gradient if plain else stored(gradient, logits, out, upstream)
    logits, plan = logits.detach(), plan_as_tensors(plan)
    masked = plan.mask is not None or plan.active is not None
    lp = log_p(spec.masked_logits(logits, plan, axis, XP) if masked else logits, axis, float_of(logits))
    loss, lse = losses(logits, lp, plan, axis)
    gradient = gradient_(lp.exp_(), lse, plan, axis) if with_gradient else None
    return loss.sum() if summed else loss, stored(gradient, logits, out, upstream)


def stored(gradient, logits, out, upstream):
    """upstream·gradient in the dtype of the logits, in the caller's tensor if there is one."""
    if gradient is None:
        return None
    gradient = gradient if upstream == 1.0 else gradient.mul_(upstream)
    return gradient.to(logits.dtype) if out is None else out.copy_(gradient)


def whole_summed(logits, plan, axis, with_gradient):
    """(−Σ W∘log p, p·ΣW − W) with W = a·u + b·v, in few calls: a small mean loss on a CPU takes as long as they.

    PyTorch computes log p and, in one pass, the gradient; NumPy makes W in the same memory. The result is right if the
    loss is finite: nothing here knows that 0·inf is 0.
    """
    dtype, classes, scratch = float_of(logits), logits.shape[axis], None
    if logits.numel() >= MIN_LOGITS_SCRATCH and classes >= MIN_CLASSES_FOR_ROWS:
        scratch = torch.from_numpy(SCRATCH.take(logits.numel() * dtype.itemsize)).view(dtype).view(logits.shape)
    lp = log_p(present(logits, plan.mask, dtype, scratch), axis, dtype, scratch)
    if not with_gradient:
        smooth = None
        if (
            lp.ndim == 2
            and axis == 1
            and lp.numel() > kernels.MAX_BLAS_ENTRIES
            and plan.v is None
            and classes < chunk.MIN_CLASSES_SUMMED_AGAIN
        ):
            smooth = torch.mv(lp, lp.new_full((classes,), 1 / classes)).numpy()
        return kernels.summed_loss(lp.numpy(), plan, axis, smooth), None
    known = lp.numpy()
    target = kernels.negative_target(known, plan, axis)
    g = torch.from_numpy(target)
    loss = kernels.inner(target, known) if target.size <= kernels.MAX_BLAS_ENTRIES else inner(g, lp)
    if plan.const is not None:
        loss += kernels.constant(plan.const, lp.numel() // classes)
    if (
        classes >= chunk.MIN_CLASSES_SUMMED_AGAIN
    ):  # the kernel's own sum of g loses as many digits as the one of log softmax
        return loss, gradient_(lp.exp(), None, plan_as_tensors(plan._replace(active=None)), axis)
    if scratch is None:
        return loss, log_softmax_backward(g, lp, axis, dtype)
    return loss, log_softmax_backward(g, lp, axis, dtype, out=g)


def present(logits, mask, dtype, out=None):
    """The logits, and at absent classes half the lowest one: it has no probability, and 0 times its logarithm is 0."""
    if mask is None:
        return logits
    return torch.add(logits, torch.from_numpy(ABSENT_PRESENT[dtype].take(mask.view(np.int8))), out=out)


def inner(x, y):
    """Σ x∘y of two tensors of one layout, in float32 for at most 65,536 entries at a time.

    Added in one go, 512,000 entries are 4e-7 off, and 1e-7 in blocks.
    """
    if not (x.is_contiguous() and y.is_contiguous()):
        return (x * y).sum().item()
    x, y = x.view(-1), y.view(-1)
    if x.shape[0] <= DOT_BLOCK:
        return torch.dot(x, y).item()
    return sum(torch.dot(*parts).item() for parts in zip(x.split(DOT_BLOCK), y.split(DOT_BLOCK), strict=True))


KERNELS = {"columns": columns, "whole": whole, "chunked": chunked, "numba": numba}


def as_they_lie(shape, dtype, axis):
    """Whether `log_p` of logits like these is PyTorch's log softmax alone."""
    return dtype in ABSENT_PRESENT and MIN_CLASSES_FOR_ROWS <= shape[axis] < chunk.MIN_CLASSES_SUMMED_AGAIN
