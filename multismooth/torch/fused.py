"""The eager PyTorch path: one autograd node for the whole loss, with the closed-form gradient of `spec`.

`F.cross_entropy(label_smoothing=…)` records four nodes and keeps two (N, K) buffers besides the gradient; this keeps
the gradient alone. Whatever needs more than a first derivative with respect to the logits (double backward, forward
mode, torch.func, torch.compile, targets or weights that require gradients) takes the text of `spec`.
"""

import torch

from multismooth import spec
from multismooth.torch import gpu, kernels
from multismooth.torch.namespace import XP
from multismooth.torch.plans import planned


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
    if transforming():
        return False
    for tensor in differentiable:
        if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
            return False
    return not any(isinstance(value, torch.Tensor) and value.requires_grad for value in others)


def differentiable_gradient(logits, plan, axis, upstream):
    """`spec.gradient` times the upstream gradient, for a second derivative or a vmap over backward."""
    lse = XP.logsumexp(spec.quiet(logits, plan, axis, XP), axis)
    return (spec.wide(upstream, axis, XP) * spec.gradient(logits, lse, plan, axis, XP)).to(logits.dtype)


class _Summed(torch.autograd.Function):
    """logits → Σ loss. Forward leaves the gradient, the only (N, K) buffer; the first backward hands it out, scaled
    in place; a second one, over a retained graph, computes it anew, so that it never has two owners."""

    @staticmethod
    def forward(ctx, logits, plan, axis, kernel):
        loss, ctx.gradient = kernel(logits, plan, axis, summed=True)
        ctx.save_for_backward(logits)
        ctx.call = plan, axis, kernel
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (logits,), (plan, axis, kernel) = ctx.saved_tensors, ctx.call
        if torch.is_grad_enabled() or transforming() or batched(upstream):
            return differentiable_gradient(logits, plan, axis, upstream), None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = kernel(logits, plan, axis, summed=True)[1]
        return scale_(gradient, upstream), None, None, None


def scale_(gradient, upstream):
    """gradient·upstream in place; nothing to do for the 1 that `loss.backward()` starts with, where it can be seen."""
    if upstream.is_cpu and upstream.item() == 1.0:
        return gradient
    return gpu.rescaled_(gradient, upstream) if gradient.is_cuda else gradient.mul_(upstream)


class _Elements(torch.autograd.Function):
    """logits → per-element losses. Their weights are known in backward, which is one more pass of the kernel: the
    plan scaled by the upstream gradient. Keeping log p instead would be a second (N, K) buffer. Triton's kernel has
    two halves, and keeps two numbers per element between them."""

    @staticmethod
    def forward(ctx, logits, plan, axis):
        kernel = kernels.chosen(logits, spec.scaled(plan, logits.new_ones(())), axis)  # as in backward
        if kernel is gpu.triton:
            loss, *found = gpu.losses(logits.detach(), plan, axis)
        else:
            loss, found = kernel(logits, plan, axis, wanted=False)[0], []
        ctx.save_for_backward(logits, *found)
        ctx.call = plan, axis, kernel
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (logits, *found), (plan, axis, kernel) = ctx.saved_tensors, ctx.call
        if torch.is_grad_enabled() or transforming() or batched(upstream):
            return differentiable_gradient(logits, plan, axis, upstream), None, None
        plan = spec.scaled(plan, upstream)
        return gpu.gradient(logits, plan, axis, *found) if found else kernel(logits, plan, axis)[1], None, None


def loss(problem, settings):
    """The loss of a call, as one autograd node where somebody wants its gradient."""
    plan, logits, axis = planned(problem, settings), problem.logits, settings.axis
    summed = settings.reduction != "none"
    if not (logits.requires_grad and torch.is_grad_enabled()):
        kernel = kernels.chosen_once(settings, logits, plan, wanted=False)
        return kernel(logits, plan, axis, wanted=False, summed=summed)[0]
    if summed:
        return _Summed.apply(logits, plan, axis, kernels.chosen_once(settings, logits, plan))
    return _Elements.apply(logits, plan, axis)
