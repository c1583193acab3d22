"""PyTorch linear head and loss: gradients computed in forward, chunk by chunk, with three matrix products at most.

Forward knows each chunk's gradient as soon as its logits exist, so nothing of size (N, K) is kept and backward only
multiplies by the upstream gradient. Reduction "none", double backward and whatever else `fused.eligible` refuses
take checkpointed chunks of the plain text: a fourth product, any derivative.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from multismooth import linear
from multismooth.torch import fused, kernels
from multismooth.torch.namespace import XP


def _kernel(logits, plan, xp):
    return kernels.chosen(logits, plan, 1)(logits, plan, 1, out=logits)


def _add_product(total, g, hidden):
    if total.dtype is g.dtype:
        total.addmm_(g.T, hidden)
    else:
        linear.add_product(total, g, hidden)


WORKSPACE = 2**23  # logits per chunk, 32 MiB of float32: the kernel writes their gradient over them


def _gradients(hidden, classifier, bias, call, needed=(True, True, True), kernel=_kernel):
    chunk_rows, problem, settings = call
    rows = hidden.numel() // max(classifier.shape[1], 1)
    chunk_rows = linear.chunk_size(rows, classifier.shape[0], chunk_rows, WORKSPACE)
    product = linear.logits_of if fused.transforming() else _Products(min(chunk_rows, rows), hidden, classifier)
    call = chunk_rows, problem, settings
    return linear.forward_and_gradient(hidden, classifier, bias, *call, XP, kernel, _add_product, needed, product)


class _Products:
    """The logits of one chunk after the other in the same memory: mapping it anew costs a tenth of the products."""

    def __init__(self, rows, hidden, classifier):
        self._memory = torch.empty(rows, classifier.shape[0], dtype=hidden.dtype, device=hidden.device)

    def __call__(self, hidden, classifier, bias):
        logits = torch.mm(hidden, classifier.T, out=self._memory[: hidden.shape[0]])
        return logits if bias is None else logits.add_(bias)


def _plain(hidden, classifier, bias, chunk_rows, problem, settings):
    keeps = torch._C._are_functorch_transforms_active() or not torch.is_grad_enabled()
    chunk_loss = linear.plain if keeps else partial(checkpoint, linear.plain, use_reentrant=False)
    return linear.forward(hidden, classifier, bias, chunk_rows, problem, settings, XP, chunk_loss)


class _LinearLoss(torch.autograd.Function):
    """hidden, classifier, bias → summed loss. The first backward hands out what forward computed, scaled in place;
    a second one, over a retained graph, computes them anew, so no gradient ever has two owners."""

    @staticmethod
    def forward(ctx, hidden, classifier, bias, call):
        loss, ctx.gradients = _gradients(hidden, classifier, bias, call, ctx.needs_input_grad[:3])
        ctx.save_for_backward(hidden, classifier, bias)
        ctx.call = call
        return loss

    @staticmethod
    def backward(ctx, upstream):
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or fused.transforming() or fused.batched(upstream):
            return *_differentiable(inputs, needed, ctx.call, upstream), None
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = _gradients(*inputs, ctx.call, needed)
        return *(None if gradient is None else fused.scale_(gradient, upstream) for gradient in gradients), None


def _differentiable(inputs, needed, call, upstream):
    """The gradients from scratch by the plain text, to be differentiated or vmapped over."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(_plain(*inputs, *call), wanted, upstream, create_graph=again))
    return [next(found) if need else None for need in needed]


def loss(hidden, classifier, bias, chunk_rows, problem, settings):
    tensors = [tensor for tensor in (hidden, classifier, bias) if tensor is not None]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if settings.reduction == "none" or not wanted or not fused.eligible(*tensors, others=problem[1:]):
        return _plain(hidden, classifier, bias, chunk_rows, problem, settings)
    return _LinearLoss.apply(hidden, classifier, bias, (chunk_rows, problem, settings))


def loss_and_grad(hidden, classifier, bias, chunk_rows, problem, settings):
    with torch.no_grad():
        kernel = linear.plain_kernel if fused.transforming() else _kernel
        return _gradients(hidden, classifier, bias, (chunk_rows, problem, settings), kernel=kernel)
