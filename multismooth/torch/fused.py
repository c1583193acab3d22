"""The eager PyTorch path: one autograd node for the whole loss, with the closed-form gradient of `spec`.

`F.cross_entropy(label_smoothing=…)` records four nodes and keeps two (N, K) buffers besides the gradient; this keeps
the gradient alone, and log p for "none". Whatever needs more than a first derivative with respect to the logits (double
backward, forward mode, torch.func, torch.compile, targets or weights that require gradients) takes the text of `spec`.
"""

import numpy as np
import torch

from multismooth import cpu, spec
from multismooth.reduction import reduced_plan
from multismooth.torch.namespace import XP, float_of

# torch's CPU softmax does not vectorise a contiguous class axis shorter than this; over the first axis of the
# transposed logits it does: (256, 10) takes 6 µs instead of 24, (65536, 10) a fifth, the transposing copy included.
VECTOR = 16
NUMPY = (torch.float32, torch.float64)


def transforming():
    """Whether a compiler, torch.func or forward-mode AD is watching: then nothing but `spec` will do."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def batched(tensor):
    """Whether autograd's `is_grads_batched` (a vmap of its own, over backward alone) stands behind this tensor."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)


def plain_tensor(tensor):
    return type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter


def eligible(*differentiable, others=()):
    """Plain tensors, none of the `others` wants a gradient, and nobody is watching."""
    return (
        not transforming()
        and all(plain_tensor(tensor) for tensor in differentiable)
        and not any(isinstance(value, torch.Tensor) and value.requires_grad for value in others)
    )


def log_p(logits, plan, axis):
    """log softmax over the existing classes, in the dtype that is computed in: our own buffer."""
    dtype = float_of(logits)
    if plan.mask is not None or plan.alive is not None:
        logits = spec.quiet(logits, plan, axis, XP)
    if logits.shape[axis] < VECTOR and logits.stride(axis) == 1 and logits.device.type == "cpu":
        columns = logits.movedim(axis, 0).to(dtype, memory_format=torch.contiguous_format, copy=True)
        return torch.log_softmax(columns, 0).movedim(0, axis)
    return torch.log_softmax(logits, axis, dtype=None if logits.dtype == dtype else dtype)


def losses(logits, lp, plan, axis):
    """(per-element loss, lse or None) from log p; lse = z_k − log p_k is only formed where z_loss needs it."""
    nll = -XP.pick(lp, plan.labels, axis) if plan.u is None else spec.weighted_gap(plan.u, -lp, axis, XP)
    lse = None if plan.zeta is None else XP.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
    smooth = -lp.mean(axis) if plan.v is None else spec.weighted_gap(plan.v, -lp, axis, XP)
    return spec.elements(lse, nll, smooth, plan, XP), lse


def gradient_(p, lse, plan, axis, upstream=None):
    """`spec.gradient` times the upstream gradient, written over p = softmax(z)."""

    def times(value):
        return value if upstream is None else value * upstream

    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    if plan.zeta is not None:
        height = height + 2 * plan.zeta * lse
    p.mul_(spec.wide(times(height), axis, XP))
    if plan.v is None:
        p.sub_(spec.wide(times(plan.b) / p.shape[axis], axis, XP))
    else:
        p.sub_(spec.wide(times(plan.b), axis, XP) * plan.v)
    if plan.u is not None:
        p.sub_(spec.wide(times(plan.a), axis, XP) * plan.u)
    else:
        a = times(plan.a)
        a = -a if isinstance(a, torch.Tensor) else p.new_tensor(-a)
        p.scatter_add_(axis, plan.labels.unsqueeze(axis), a.expand(plan.labels.shape).unsqueeze(axis))
    return p if plan.alive is None else p.masked_fill_(~spec.wide(plan.alive, axis, XP), 0.0)


def loss_and_gradient(logits, plan, axis):
    """(per-element losses, gradient of their sum) with no graph; the gradient lies where log p was."""
    lp = log_p(logits, plan, axis)
    loss, lse = losses(logits, lp, plan, axis)
    return loss, gradient_(lp.exp_(), lse, plan, axis)


# --- labels, one ε, no weights: what most calls are. (256, 10) pays for every small kernel that is called ------------


def uniform(plan):
    """Whether a and b are numbers, the same for every element, and v is 1/K: two sums are the whole loss."""
    numbers = isinstance(plan.a, float) and isinstance(plan.b, float)
    alike = numbers and plan.u is None and plan.v is None and plan.const is None and plan.zeta is None
    return alike and plan.labels.numel() > 0


def uniform_sum(lp, index, plan, axis):
    """Σ (a·nll + b·smooth) = −a·Σ log p_y − b/K·Σ log p."""
    loss = lp.gather(axis, index).sum().mul_(-plan.a)
    return loss if plan.b == 0.0 else loss.add_(lp.sum(), alpha=-plan.b / lp.shape[axis])


def uniform_gradient_(p, index, plan, axis):
    """(a + b)·p − b/K − a at the label, written over p."""
    p.mul_(plan.a + plan.b)
    if plan.b != 0.0:
        p.sub_(plan.b / p.shape[axis])
    return p.scatter_(axis, index, -plan.a, reduce="add")


def summed_loss_and_gradient(logits, plan, axis, wanted=True):
    """(Σ loss, its gradient if wanted): what mean and sum need, in the fewest kernels."""
    if not uniform(plan):
        if wanted:
            loss, gradient = loss_and_gradient(logits, plan, axis)
            return loss.sum(), gradient
        return losses(logits, log_p(logits, plan, axis), plan, axis)[0].sum(), None
    if wanted and logits.device.type == "cpu" and cpu.few(logits.shape) and axis == 1 and logits.dtype in NUMPY:
        loss, gradient = cpu.columns(logits.detach().numpy(), plan.labels.numpy(), plan.a, plan.b)
        return torch.from_numpy(np.asarray(loss, gradient.dtype)), torch.from_numpy(gradient)
    lp, index = log_p(logits, plan, axis), plan.labels.unsqueeze(axis)
    loss = uniform_sum(lp, index, plan, axis)
    return loss, uniform_gradient_(lp.exp_(), index, plan, axis) if wanted else None


# --- autograd -------------------------------------------------------------------------------------------------------


def differentiable_gradient(logits, plan, axis, upstream):
    """`spec.gradient` times the upstream gradient, for a second derivative or a vmap over backward."""
    lse = XP.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
    return (spec.wide(upstream, axis, XP) * spec.gradient(logits, lse, plan, axis, XP)).to(logits.dtype)


class _Summed(torch.autograd.Function):
    """logits → Σ loss. Forward leaves the gradient, the only (N, K) buffer; the first backward hands it out, scaled
    in place; a second one, over a retained graph, computes it anew, so that it never has two owners."""

    @staticmethod
    def forward(ctx, logits, plan, axis):
        loss, gradient = summed_loss_and_gradient(logits, plan, axis, ctx.needs_input_grad[0])
        ctx.save_for_backward(logits)
        ctx.gradient = gradient if gradient is None or gradient.dtype is logits.dtype else gradient.to(logits.dtype)
        ctx.plan, ctx.axis = plan, axis
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (logits,) = ctx.saved_tensors
        if torch.is_grad_enabled() or transforming() or batched(upstream):
            return differentiable_gradient(logits, ctx.plan, ctx.axis, upstream), None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = summed_loss_and_gradient(logits, ctx.plan, ctx.axis)[1].to(logits.dtype)
        return scale_(gradient, upstream), None, None


def scale_(gradient, upstream):
    """gradient·upstream in place; nothing to do for the 1 that `loss.backward()` starts with, where it can be seen."""
    if upstream.device.type == "cpu" and upstream.item() == 1.0:
        return gradient
    return gradient.mul_(upstream)


class _Elements(torch.autograd.Function):
    """logits → per-element losses; the upstream gradient is not known before backward, so log p is kept."""

    @staticmethod
    def forward(ctx, logits, plan, axis):
        lp = log_p(logits, plan, axis)
        loss, lse = losses(logits, lp, plan, axis)
        ctx.save_for_backward(logits, lp, lse)
        ctx.plan, ctx.axis = plan, axis
        return loss

    @staticmethod
    def backward(ctx, upstream):
        logits, lp, lse = ctx.saved_tensors
        plan, axis = ctx.plan, ctx.axis
        if torch.is_grad_enabled() or transforming() or batched(upstream):
            return differentiable_gradient(logits, plan, axis, upstream), None, None
        return gradient_(lp.exp(), lse, plan, axis, upstream).to(logits.dtype), None, None


def loss(problem, settings):
    """The loss of a call as one autograd node."""
    plan = reduced_plan(problem, settings, XP)
    node = _Elements if settings.reduction == "none" else _Summed
    return node.apply(problem.logits, plan, settings.axis)
