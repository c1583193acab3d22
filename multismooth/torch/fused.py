"""The eager PyTorch path: one autograd node for the whole loss, with the closed-form gradient of `spec`.

`F.cross_entropy(label_smoothing=…)` records four nodes and keeps two (N, K) buffers besides the gradient; this keeps
log p. Whatever needs more than a first derivative with respect to the logits (double backward, forward mode,
torch.func, torch.compile, targets or weights that require gradients) takes the text of `spec`, which is exact.
"""

import torch

from multismooth import spec
from multismooth.backend import reduced_plan
from multismooth.torch.namespace import XP, float_of


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
    return torch.log_softmax(logits, axis, dtype=None if logits.dtype == dtype else dtype)


def losses(logits, lp, plan, axis):
    """(per-element loss, lse or None) from log p; lse = z_k − log p_k is only formed where z_loss needs it."""
    nll = -XP.pick(lp, plan.labels, axis) if plan.u is None else spec.weighted_gap(plan.u, -lp, axis, XP)
    lse = None if plan.zeta is None else XP.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
    if isinstance(plan.b, float) and plan.b == 0.0:
        loss = plan.a * nll
        loss = loss if plan.const is None else loss + plan.const
        return (loss if lse is None else loss + plan.zeta * lse**2), lse
    smooth = -lp.mean(axis) if plan.v is None else spec.weighted_gap(plan.v, -lp, axis, XP)
    if isinstance(plan.b, float) and plan.const is None and plan.zeta is None:
        return plan.a * nll + plan.b * smooth, None
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
        return p.sub_(spec.wide(times(plan.a), axis, XP) * plan.u)
    a = times(plan.a)
    a = -a if isinstance(a, torch.Tensor) else p.new_tensor(-a)
    return p.scatter_add_(axis, plan.labels.unsqueeze(axis), a.expand(plan.labels.shape).unsqueeze(axis))


def loss_and_gradient(logits, plan, axis):
    """(per-element losses, gradient of their sum) with no graph."""
    lp = log_p(logits, plan, axis)
    loss, lse = losses(logits, lp, plan, axis)
    return loss, gradient_(lp.exp_(), lse, plan, axis)


class _Loss(torch.autograd.Function):
    """logits → per-element losses, or their sum; differentiable again through `spec.gradient`."""

    @staticmethod
    def forward(ctx, logits, plan, axis, summed):
        lp = log_p(logits, plan, axis)
        loss, lse = losses(logits, lp, plan, axis)
        ctx.save_for_backward(logits, lp, lse)
        ctx.plan, ctx.axis = plan, axis
        return loss.sum() if summed else loss

    @staticmethod
    def backward(ctx, upstream):
        logits, lp, lse = ctx.saved_tensors
        plan, axis = ctx.plan, ctx.axis
        if torch.is_grad_enabled() or transforming() or batched(upstream):
            lse = XP.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
            gradient = spec.wide(upstream, axis, XP) * spec.gradient(logits, lse, plan, axis, XP)
        else:
            gradient = gradient_(lp.exp(), lse, plan, axis, upstream)
        return gradient.to(logits.dtype), None, None, None


def loss(problem, settings):
    """The loss of a call as one autograd node."""
    plan = reduced_plan(problem, settings, XP)
    return _Loss.apply(problem.logits, plan, settings.axis, settings.reduction != "none")
