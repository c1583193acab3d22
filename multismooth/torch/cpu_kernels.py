"""The kernels for PyTorch tensors, and which one a call gets. No graph: `fused` puts them under autograd.

Each is (logits, plan, axis, with_gradient, summed, out) → (losses per element or their sum, gradient of the sum or
None): that of `spec.elements` and `spec.gradient`. Those that half precision may get take `upstream` too, a number that
the gradient is multiplied by before it is rounded. `whole` makes a few calls on whole tensors, what small problems and
other devices want; the others are for large ones on a CPU, or work through the memory that tensors share with NumPy.
"""

import math

import numpy as np
import torch

from multismooth import spec
from multismooth.cpu import chunks, kernels
from multismooth.cpu.buffers import age_buffers, gradient_memory
from multismooth.cpu.layout import MIN_CLASSES_FOR_ROWS, layout_of
from multismooth.implementations import is_requested, record, requested, select
from multismooth.problem import Usual
from multismooth.torch import cpu_chunked as chunk
from multismooth.torch.gpu import launch
from multismooth.torch.namespace import XP, float_of

SMALL = 2**19  # logits; below, the calls that `chunked` adds cost more than the passes that it saves
SMALL_FORWARD = 2**22  # the same without a gradient, where PyTorch's own log softmax is hard to beat
TINY = 2**13  # below, without a gradient, the compiled kernel is faster whatever the shape: one call instead of six
FEW_CLASSES, MANY_CLASSES = 64, 512  # between them, without a gradient, PyTorch's log softmax is faster on two threads
ACROSS = 2**10  # logits; the transposing copy that a short class axis wants pays from here on
COMPILED = (torch.float32, torch.float64, torch.bfloat16)
NUMPY = (torch.float32, torch.float64)


def chosen(logits, plan, axis, with_gradient=True):
    """The kernel for a call, by the caller's requested or by size."""
    age_buffers()
    return KERNELS[select(*supports(logits, plan, axis, with_gradient))]


def chosen_once(settings, logits, plan, with_gradient=True):
    """The same, remembered for calls that are alike."""
    if type(settings) is not Usual:
        return chosen(logits, plan, settings.axis, with_gradient)
    age_buffers()
    name = settings.kernels.get(key := (with_gradient, requested()))
    if name is not None:
        return KERNELS[record(name)]
    settings.kernels[key] = name = select(*supports(logits, plan, settings.axis, with_gradient))
    return KERNELS[name]


def supports(logits, plan, axis, with_gradient):
    """What can compute a call, the fastest first."""
    size = logits.numel()
    if not logits.is_cpu or size == 0:
        return ("triton", "whole") if launch.supports(logits, plan, axis) else ("whole",)
    names = ["whole", "chunked"] if size <= (SMALL if with_gradient else SMALL_FORWARD) else ["chunked", "whole"]
    if with_gradient and logits.dtype in NUMPY and kernels.few(logits, plan, axis):
        names.insert(0, "columns")
    if logits.dtype in COMPILED:
        fast = compiles_faster(logits, axis, with_gradient)
        if (fast or is_requested("numba")) and kernels.compiles(logits, plan, axis):  # Numba takes a second to import
            names.insert(0 if fast else len(names), "numba")
    if is_requested("triton") and launch.supports(
        logits, plan, axis
    ):  # its interpreter tests it, and takes milliseconds
        names.append("triton")
    return names


def compiles_faster(logits, axis, with_gradient):
    """Whether Numba's kernels are faster than PyTorch's: with a gradient always, without one but for rows of a hundred
    logits; and never where little bfloat16 would be cast bit by bit."""
    size, classes = logits.numel(), logits.shape[axis]
    if logits.dtype not in NUMPY:
        return size > (SMALL if with_gradient else SMALL_FORWARD)
    return with_gradient or size <= TINY or not FEW_CLASSES <= classes < MANY_CLASSES


# --- a chunk at a time ----------------------------------------------------------------------------------------------


def chunked(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    logits = logits.detach()
    layout, gradient = layout_of(logits, axis), None
    if with_gradient:
        fits = out is not None and kernels.fits(layout, seen(logits), seen(out))
        gradient = out if fits else layout.as_logits(memory(logits), XP)
    loss = chunks.evaluate(chunk.kernel, layout, logits, plan, XP, gradient, chunk.ENTRIES, upstream=upstream)
    if out is not None and gradient is not out:
        gradient = out.copy_(gradient)
    return loss.sum() if summed else loss, gradient


def memory(logits):
    """For a gradient, of the logits' dtype."""
    return torch.from_numpy(gradient_memory(logits.numel() * logits.itemsize, np.uint8)).view(logits.dtype)


# --- through the memory that NumPy sees ------------------------------------------------------------------------------


def seen(tensor):
    """A tensor's memory as a NumPy array; bfloat16 as the bits that it is."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def numba(logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    z, labels, given = seen(logits), plan.labels.numpy(), None if out is None else seen(out)
    if given is None and kernels.small(z, labels, plan, axis):
        loss, gradient = kernels.numba().small_problem(z, labels, plan, with_gradient)
    else:
        loss, gradient = kernels.evaluate(
            "numba", z, theirs(plan), axis, with_gradient, given, torch.get_num_threads, upstream
        )
    if summed:
        loss = torch.scalar_tensor(np.add.reduce(loss, None).item(), dtype=float_of(logits), device=logits.device)
    else:
        loss = torch.from_numpy(loss)
    if not with_gradient or gradient is given:
        return loss, out
    gradient = torch.from_numpy(gradient)
    gradient = gradient if gradient.dtype is logits.dtype else gradient.view(logits.dtype)
    return loss, gradient if out is None else out.copy_(gradient)


def theirs(plan):
    """The plan in NumPy; half precision has none there."""

    def array(x):
        return (x.float() if x.is_floating_point() and x.itemsize == 2 else x).numpy(force=True)

    return type(plan)(*[array(x) if isinstance(x, torch.Tensor) else x for x in plan])


# --- few classes and few rows, in NumPy -----------------------------------------------------------------------------


def columns(logits, plan, axis, with_gradient=True, summed=False, out=None):
    loss, gradient = kernels.columns(
        logits.detach().numpy(), plan.labels.numpy(), plan.a, plan.b, with_gradient, summed
    )
    if not kernels.plain(loss):
        return whole(logits, plan, axis, with_gradient, summed, out)
    loss = (
        torch.scalar_tensor(float(loss), dtype=logits.dtype, device=logits.device) if summed else torch.from_numpy(loss)
    )
    if not with_gradient:
        return loss, None
    gradient = torch.from_numpy(gradient)
    return loss, gradient if out is None else out.copy_(gradient)


# --- whole tensors --------------------------------------------------------------------------------------------------


def log_p(logits, plan, axis):
    """log softmax over the existing classes, in the dtype that is computed in: our own buffer."""
    dtype = float_of(logits)
    if plan.mask is not None or plan.active is not None:
        logits = spec.masked_logits(logits, plan, axis, XP)
    if (
        logits.shape[axis] < MIN_CLASSES_FOR_ROWS
        and logits.numel() > ACROSS
        and logits.stride(axis) == 1
        and logits.is_cpu
    ):
        columns = logits.movedim(axis, 0).to(dtype, memory_format=torch.contiguous_format, copy=True)
        return torch.log_softmax(columns, 0).movedim(0, axis)
    found = torch.log_softmax(logits, axis, dtype=None if logits.dtype is dtype else dtype)
    if (
        found.is_cpu and found.shape[axis] >= chunk.LONG
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
    logits = logits.detach()
    loss = math.nan
    if summed and logits.is_cpu and plan.labels is not None and plan.labels.numel() > 0 and kernels.uniform(plan):
        loss, gradient = whole_uniform(logits, plan, axis, with_gradient)
    if math.isfinite(loss):
        loss = torch.scalar_tensor(loss, dtype=float_of(logits), device=logits.device)
    else:  # or infinite: as in `kernels.plain`
        lp = log_p(logits, plan, axis)
        loss, lse = losses(logits, lp, plan, axis)
        loss, gradient = (
            loss.sum() if summed else loss,
            gradient_(lp.exp_(), lse, plan, axis) if with_gradient else None,
        )
    if gradient is None or (out is None and gradient.dtype is logits.dtype):
        return loss, gradient
    gradient = gradient if upstream == 1.0 else gradient.mul_(upstream)
    return loss, gradient.to(logits.dtype) if out is None else out.copy_(gradient)


def whole_uniform(logits, plan, axis, with_gradient):
    """(−a·Σ log p_y − b/K·Σ log p, gradient) in the fewest calls: what a small mean loss on a CPU is paid for.

    Two numbers and one new tensor are 3 µs less than arithmetic on 0-d tensors. The gradient of log softmax has a
    kernel of its own in PyTorch, g − p·Σg: one pass for the exponential and the rest.
    """
    lp, index, classes = log_p(logits, plan, axis), plan.labels.unsqueeze(axis), logits.shape[axis]
    if axis == 1:
        loss = plan.a * torch._C._nn.nll_loss_nd(lp, plan.labels, None, 2, -100).item()
    else:
        loss = -plan.a * lp.gather(axis, index).sum().item()
    if plan.b != 0.0:  # a −inf logit costs nothing without smoothing
        loss -= plan.b / classes * lp.sum().item()
    if not with_gradient:
        return loss, None
    if classes >= chunk.LONG:  # the kernel's sum of g loses as many digits as that of log softmax
        return loss, gradient_(lp.exp_(), None, plan, axis)
    g = torch.full_like(lp, -plan.b / classes).scatter_(axis, index, -plan.a - plan.b / classes)
    return loss, torch._log_softmax_backward_data(g, lp, axis, lp.dtype)


KERNELS = {"columns": columns, "whole": whole, "chunked": chunked, "numba": numba, "triton": launch.triton}
