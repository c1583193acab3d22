"""The losses beside smoothing in PyTorch: one autograd node, with the closed-form gradient of `alternatives`.

As in `autograd`, a call that needs more than a first derivative with respect to the logits uses the formulas.
"""

import torch

from multismooth import alternatives
from multismooth.cpu import alternatives as cpu
from multismooth.cpu.buffers import age_buffers
from multismooth.cpu.choice import MIN_LOGITS_FOR_THREADS, cores
from multismooth.implementations import select
from multismooth.spec import wide
from multismooth.torch import cpu_alternatives as chunk
from multismooth.torch.autograd import differentiates_backward, scale_
from multismooth.torch.choice import NUMPY_DTYPES
from multismooth.torch.cpu_kernels import as_numpy, memory, plan_as_numpy
from multismooth.torch.namespace import XP, float_of


def in_numpy(alternative):
    """The alternative with NumPy arrays and numbers in place of tensors."""
    return type(alternative)(*[x.numpy(force=True) if isinstance(x, torch.Tensor) else x for x in alternative])


def evaluate(logits, plan, alternative, axis, with_gradient):
    """(the losses per element, the gradient of their sum in the computing dtype or None)."""
    age_buffers()
    logits, names = logits.detach(), ["spec"]
    on_cpu = logits.is_cpu and logits.numel() > 0
    if on_cpu:
        names.insert(0, "chunked")
        if logits.dtype in NUMPY_DTYPES:
            arrays = as_numpy(logits), plan_as_numpy(plan), in_numpy(alternative)
            if cpu.compiles(*arrays, axis):
                names.insert(0, "numba")
    name = select(*names)
    if name == "spec":
        if with_gradient:
            return alternative.losses_and_gradient(logits, plan, axis, XP)
        return alternative.losses(logits, plan, axis, XP), None
    gradient = None
    if with_gradient:
        gradient = cpu.layout_of(logits, axis).as_logits(memory(logits, float_of(logits)), XP)
    if name == "numba":
        workers = 1 if logits.numel() < MIN_LOGITS_FOR_THREADS else min(torch.get_num_threads(), cores())
        target = None if gradient is None else gradient.numpy()
        losses = cpu.evaluate(name, *arrays, axis, cpu.XP, target, workers)
        return torch.from_numpy(losses), gradient
    fast = {}
    if chunk.supports(plan, alternative):
        fast = {"kernel": chunk.kernel, "most": chunk.CHUNK_LOGITS}
    return cpu.evaluate(name, logits, plan, alternative, axis, XP, gradient, **fast), gradient


class _Loss(torch.autograd.Function):
    """logits → losses per element, or their sum.

    Forward computes the gradient too, the only (N, K) buffer that is kept. The first backward scales it in place. A
    second one, over a retained graph, computes it again, so that two callers never share one buffer. Gradients of half
    precision are kept in float32, and rounded once they are scaled.
    """

    @staticmethod
    def forward(ctx, logits, problem, plan, alternative, axis, summed):
        losses, ctx.gradient = evaluate(logits, plan, alternative, axis, True)
        ctx.plan, ctx.alternative, ctx.call, ctx.dtype = plan, alternative, (axis, summed), logits.dtype
        _, teacher = alternative.arrays()
        arrays = problem.targets, problem.weight, problem.prior, problem.class_mask, teacher
        ctx.save_for_backward(logits, *arrays)  # and their memory, which the plan may share, is guarded
        return losses.sum() if summed else losses

    @staticmethod
    def backward(ctx, upstream):
        axis, summed = ctx.call
        per_element = upstream if summed else wide(upstream, axis, XP)
        if differentiates_backward(upstream):
            logits = ctx.saved_tensors[0]
            z = logits.to(float_of(logits))  # one cast, because the derivative of each cast is rounded
            gradient = ctx.alternative.losses_and_gradient(z, ctx.plan, axis, XP)[1]
            return (gradient * per_element).to(logits.dtype), *(None,) * 5
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            logits = ctx.saved_tensors[0]
            gradient = evaluate(logits, ctx.plan, ctx.alternative, axis, True)[1]
        gradient = scale_(gradient, upstream) if summed else gradient.mul_(per_element)
        return gradient.to(ctx.dtype), *(None,) * 5


def loss(problem, settings, alternative):
    """The loss of a call, as one autograd node if the logits require a gradient."""
    logits, axis, summed = problem.logits, settings.axis, settings.reduction != "none"
    plan, alternative = alternatives.reduced(problem, settings, alternative, XP)
    if logits.requires_grad and torch.is_grad_enabled():
        return _Loss.apply(logits, problem, plan, alternative, axis, summed)
    losses = evaluate(logits, plan, alternative, axis, False)[0]
    return losses.sum() if summed else losses
