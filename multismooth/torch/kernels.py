"""The kernels for PyTorch tensors, and which one a call gets. No graph: `fused` puts them under autograd.

Each is (logits, plan, axis, wanted, summed, out) → (losses per element or their sum, gradient of the sum or None): that
of `spec.elements` and `spec.gradient`. Those that half precision may get take `upstream` too, a number that the
gradient is multiplied by before it is rounded. `whole` makes a few calls on whole tensors, what small problems and
other devices want; the others are for large ones on a CPU, or work through the memory that tensors share with NumPy.
"""

import math

import numpy as np
import torch

from multismooth import chunks, cpu, spec
from multismooth.buffers import age, gradient_memory
from multismooth.frame import VECTOR, frame_of
from multismooth.implementations import asked, choose, runs, wish
from multismooth.problem import Usual
from multismooth.torch import chunked as chunk
from multismooth.torch import gpu
from multismooth.torch.namespace import XP, float_of

SMALL = 2**19  # logits; below, the calls that `chunked` adds cost more than the passes that it saves
SMALL_FORWARD = 2**22  # the same without a gradient, where PyTorch's own log softmax is hard to beat
TINY = 2**13  # below, without a gradient, the compiled kernel is faster whatever the shape: one call instead of six
FEW_CLASSES, MANY_CLASSES = 64, 512  # between them, without a gradient, PyTorch's log softmax is faster on two threads
ACROSS = 2**10  # logits; the transposing copy that a short class axis wants pays from here on
COMPILED = (torch.float32, torch.float64, torch.bfloat16)
NUMPY = (torch.float32, torch.float64)


def chosen(logits, plan, axis, wanted=True):
    """The kernel for a call, by the caller's wish or by size."""
    age()
    return KERNELS[choose(*able(logits, plan, axis, wanted))]


def chosen_once(settings, logits, plan, wanted=True):
    """The same, remembered for calls that are alike."""
    if type(settings) is not Usual:
        return chosen(logits, plan, settings.axis, wanted)
    age()
    name = settings.kernels.get(key := (wanted, wish()))
    if name is not None:
        return KERNELS[runs(name)]
    settings.kernels[key] = name = choose(*able(logits, plan, settings.axis, wanted))
    return KERNELS[name]


def able(logits, plan, axis, wanted):
    """What can compute a call, the fastest first."""
    size = logits.numel()
    if not logits.is_cpu or size == 0:
        return ("triton", "whole") if gpu.able(logits, plan, axis) else ("whole",)
    names = ["whole", "chunked"] if size <= (SMALL if wanted else SMALL_FORWARD) else ["chunked", "whole"]
    if wanted and logits.dtype in NUMPY and cpu.few(logits, plan, axis):
        names.insert(0, "columns")
    if logits.dtype in COMPILED:
        fast = compiles_faster(logits, axis, wanted)
        if (fast or asked("numba")) and cpu.compiles(logits, plan, axis):  # Numba takes a second to import
            names.insert(0 if fast else len(names), "numba")
    if asked("triton") and gpu.able(logits, plan, axis):  # its interpreter tests it, and takes milliseconds
        names.append("triton")
    return names


def compiles_faster(logits, axis, wanted):
    """Whether Numba's kernels are faster than PyTorch's: with a gradient always, without one but for rows of a hundred
    logits; and never where little bfloat16 would be cast bit by bit."""
    size, classes = logits.numel(), logits.shape[axis]
    if logits.dtype not in NUMPY:
        return size > (SMALL if wanted else SMALL_FORWARD)
    return wanted or size <= TINY or not FEW_CLASSES <= classes < MANY_CLASSES


# --- a chunk at a time ----------------------------------------------------------------------------------------------


def chunked(logits, plan, axis, wanted=True, summed=False, out=None, upstream=1.0):
    logits = logits.detach()
    frame, gradient = frame_of(logits, axis), None
    if wanted:
        fits = out is not None and cpu.fits(frame, seen(logits), seen(out))
        gradient = out if fits else frame.whole(memory(logits), XP)
    loss = chunks.evaluate(chunk.kernel, frame, logits, plan, XP, gradient, chunk.ENTRIES, upstream=upstream)
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


def numba(logits, plan, axis, wanted=True, summed=False, out=None, upstream=1.0):
    z, labels, given = seen(logits), plan.labels.numpy(), None if out is None else seen(out)
    if given is None and cpu.small(z, labels, plan, axis):
        loss, gradient = cpu.numba().few(z, labels, plan, wanted)
    else:
        loss, gradient = cpu.evaluate("numba", z, theirs(plan), axis, wanted, given, torch.get_num_threads, upstream)
    if summed:
        loss = torch.scalar_tensor(np.add.reduce(loss, None).item(), dtype=float_of(logits), device=logits.device)
    else:
        loss = torch.from_numpy(loss)
    if not wanted or gradient is given:
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


def columns(logits, plan, axis, wanted=True, summed=False, out=None):
    loss, gradient = cpu.columns(logits.detach().numpy(), plan.labels.numpy(), plan.a, plan.b, wanted, summed)
    if not cpu.plain(loss):
        return whole(logits, plan, axis, wanted, summed, out)
    loss = (
        torch.scalar_tensor(float(loss), dtype=logits.dtype, device=logits.device) if summed else torch.from_numpy(loss)
    )
    if not wanted:
        return loss, None
    gradient = torch.from_numpy(gradient)
    return loss, gradient if out is None else out.copy_(gradient)


# --- whole tensors --------------------------------------------------------------------------------------------------


def log_p(logits, plan, axis):
    """log softmax over the existing classes, in the dtype that is computed in: our own buffer."""
    dtype = float_of(logits)
    if plan.mask is not None or plan.alive is not None:
        logits = spec.quiet(logits, plan, axis, XP)
    if logits.shape[axis] < VECTOR and logits.numel() > ACROSS and logits.stride(axis) == 1 and logits.is_cpu:
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
    lse = None if plan.zeta is None else torch.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
    smooth = -lp.mean(axis) if plan.v is None else spec.weighted_gap(plan.v, -lp, axis, XP)
    return spec.elements(lse, nll, smooth, plan, XP), lse


def gradient_(p, lse, plan, axis):
    """`spec.gradient`, written over p = softmax(z)."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    if plan.zeta is not None:
        height = height + 2 * plan.zeta * lse
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
    return p if plan.alive is None else p.masked_fill_(~spec.wide(plan.alive, axis, XP), 0.0)


def whole(logits, plan, axis, wanted=True, summed=False, out=None, upstream=1.0):
    logits = logits.detach()
    loss = math.nan
    if summed and logits.is_cpu and plan.labels is not None and plan.labels.numel() > 0 and cpu.uniform(plan):
        loss, gradient = whole_uniform(logits, plan, axis, wanted)
    if math.isfinite(loss):
        loss = torch.scalar_tensor(loss, dtype=float_of(logits), device=logits.device)
    else:  # or infinite: as in `cpu.plain`
        lp = log_p(logits, plan, axis)
        loss, lse = losses(logits, lp, plan, axis)
        loss, gradient = loss.sum() if summed else loss, gradient_(lp.exp_(), lse, plan, axis) if wanted else None
    if gradient is None or (out is None and gradient.dtype is logits.dtype):
        return loss, gradient
    gradient = gradient if upstream == 1.0 else gradient.mul_(upstream)
    return loss, gradient.to(logits.dtype) if out is None else out.copy_(gradient)


def whole_uniform(logits, plan, axis, wanted):
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
    if not wanted:
        return loss, None
    if classes >= chunk.LONG:  # the kernel's sum of g loses as many digits as that of log softmax
        return loss, gradient_(lp.exp_(), None, plan, axis)
    g = torch.full_like(lp, -plan.b / classes).scatter_(axis, index, -plan.a - plan.b / classes)
    return loss, torch._log_softmax_backward_data(g, lp, axis, lp.dtype)


KERNELS = {"columns": columns, "whole": whole, "chunked": chunked, "numba": numba, "triton": gpu.triton}
