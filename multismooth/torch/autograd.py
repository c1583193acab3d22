"""The eager PyTorch path: one autograd node for the whole loss, with the closed-form gradient of `spec`.

`F.cross_entropy(label_smoothing=…)` records four nodes and keeps two (N, K) buffers besides the gradient. This node
keeps only the gradient. A call that needs more than a first derivative with respect to the logits (double backward,
forward mode, torch.func, torch.compile, targets or weights that require gradients) uses the formulas of `spec`.
"""

import math

import torch

from multismooth import spec
from multismooth.cpu.buffers import GRADIENTS, SCRATCH, age_buffers
from multismooth.implementations import REQUEST
from multismooth.torch import compat
from multismooth.torch.choice import in_tensors, kernel_for, plan_and_kernel, triton
from multismooth.torch.compat import differentiates_backward
from multismooth.torch.cpu_kernels import plan_as_tensors
from multismooth.torch.gpu import launch
from multismooth.torch.gpu.arguments import in_full
from multismooth.torch.namespace import XP, float_of
from multismooth.torch.repeated import program


def differentiable_gradient(logits, plan, axis, upstream):
    """`spec.gradient` times the upstream gradient, for a second derivative or a vmap over backward."""
    z = logits.to(float_of(logits))  # one cast, because the derivative of each cast is rounded
    plan = in_full(plan_as_tensors(plan), z, axis)
    found = spec.statistics(z, plan, axis, XP)
    return (spec.wide(upstream, axis, XP) * spec.gradient(z, found, plan, axis, XP)).to(logits.dtype)


# --- tensors saved for backward --------------------------------------------------------------------------------------


def save(ctx, problem, plan, *tensors):
    """Save the plan, these tensors, and the caller's tensors whose memory the plan may share.

    Autograd then raises if the caller writes to one of them before backward.
    """
    ctx.plan, ctx.count = plan, len(tensors)
    ctx.save_for_backward(*tensors, problem.targets, problem.weight, problem.prior, problem.class_mask)


def saved(ctx):
    """(*tensors, plan) of `save`."""
    return *ctx.saved_tensors[: ctx.count], ctx.plan


class _Summed(torch.autograd.Function):
    """logits → Σ loss, which is computed already, and so is the gradient, the only (N, K) buffer that is kept.

    The first backward scales it in place and returns it. A second backward, over a retained graph, computes it again,
    so that two callers never share one buffer.
    """

    @staticmethod
    def forward(ctx, logits, found, tensors, call):
        """found: (loss, gradient). tensors, call: what backward computes the gradient again from.

        Whether a call is the first of its kind or not, it saves the same tensors: a checkpoint compares the two.
        """
        loss, ctx.gradient = found
        ctx.save_for_backward(*tensors)
        ctx.call = call
        return loss

    @staticmethod
    def backward(ctx, upstream):
        gradient, ctx.gradient = ctx.gradient, None
        differentiates = differentiates_backward(upstream)
        if gradient is not None and not differentiates:
            return scale_(gradient, upstream), None, None, None
        ctx.gradient = gradient
        make, *call = ctx.call
        logits, plan, axis, kernel = make(ctx.saved_tensors, *call)
        if differentiates:
            return differentiable_gradient(logits, plan, axis, upstream), None, None, None
        return scale_(kernel(logits.detach(), plan, axis, summed=True)[1], upstream), None, None, None


def of_a_plan(tensors, plan, axis, kernel):
    """(logits, plan, axis, kernel) of tensors that were saved."""
    return tensors[0], plan, axis, kernel


_summed = compat.apply_of(_Summed)


def scale_(gradient, upstream):
    """gradient·upstream in place. On a CPU it skips the multiplication by 1, which `loss.backward()` starts with."""
    if upstream.is_cpu and upstream.item() == 1.0:
        return gradient
    return launch.rescaled_(gradient, upstream) if gradient.is_cuda else gradient.mul_(upstream)


# --- half precision: rounded once, after the upstream gradient ------------------------------------------------------


class ExpectedUpstream:
    """The upstream gradient of the last call with the same dtype and shape.

    Examples are 1, a GradScaler's 65,536, and one over the number of accumulated batches. A half-precision gradient
    must be scaled before it is rounded, and forward computes it before the upstream gradient is known. The upstream
    gradient is nearly always the same as last time. If it is not, backward computes the gradient again.
    """

    MAX_KINDS = 256  # pairs of dtype and shape that are kept

    def __init__(self):
        self._known = {}

    def of(self, kind):
        return self._known.get(kind, 1.0)

    def learn(self, kind, upstream):
        if len(self._known) >= self.MAX_KINDS:
            self._known.clear()
        self._known[kind] = upstream if upstream != 0.0 and math.isfinite(upstream) else 1.0


EXPECTED_UPSTREAM = ExpectedUpstream()


class _HalfSummed(torch.autograd.Function):
    """`_Summed` of half-precision logits on a CPU."""

    @staticmethod
    def forward(ctx, logits, problem, plan, axis, kernel):
        ctx.expected = EXPECTED_UPSTREAM.of((logits.dtype, logits.shape))
        loss, ctx.gradient = kernel(logits, plan, axis, summed=True, upstream=ctx.expected)
        save(ctx, problem, plan, logits)
        ctx.call = axis, kernel
        return loss

    @staticmethod
    def backward(ctx, upstream):
        axis, kernel = ctx.call
        if differentiates_backward(upstream):
            return differentiable_gradient(*saved(ctx), axis, upstream), None, None, None, None
        (gradient, ctx.gradient), factor = (ctx.gradient, None), upstream.item()
        if gradient is None or factor != ctx.expected:
            try:
                logits, plan = saved(ctx)
            except RuntimeError:  # the caller has written to the logits: use forward's gradient, then rounded twice
                if gradient is None:
                    raise
                return gradient.mul_(factor / ctx.expected), None, None, None, None
            EXPECTED_UPSTREAM.learn((logits.dtype, logits.shape), factor)
            gradient = None  # free it before the kernel allocates the next one
            gradient = kernel(logits, plan, axis, summed=True, upstream=factor)[1]
        return gradient, None, None, None, None


class _GuardedSummed(torch.autograd.Function):
    """`_Summed` of half-precision logits, by Triton's kernels.

    They can read the upstream gradient on the device. If it is not 1, they compute the gradient again, over the first
    one. That of float16 is seldom 1, so its gradient waits for backward. They write the loss in the dtype that is asked
    for.
    """

    @staticmethod
    def forward(ctx, logits, problem, plan, axis, dtype):
        given, asked = logits.detach(), {"summed": True, "dtype": dtype}
        plan = in_tensors(plan, logits)
        if logits.dtype is not torch.float16:
            loss, ctx.gradient, *found = launch.losses_and_gradient(given, plan, axis, **asked)
        else:
            (loss, *found), ctx.gradient = launch.losses(given, plan, axis, **asked), None
        save(ctx, problem, plan, logits, *found)
        ctx.axis = axis
        return loss

    @staticmethod
    def backward(ctx, upstream):
        gradient, ctx.gradient = (None, ctx.gradient) if differentiates_backward(upstream) else (ctx.gradient, None)
        try:
            logits, *found, plan = saved(ctx)
        except RuntimeError:  # as in `_HalfSummed`
            if gradient is None:
                raise
            return launch.rescaled_(gradient, upstream), None, None, None, None
        if differentiates_backward(upstream):
            return differentiable_gradient(logits, plan, ctx.axis, upstream), None, None, None, None
        gradient = launch.gradient(logits, plan, ctx.axis, *found, gradient, upstream, gradient is not None)
        return gradient, None, None, None, None


class _Elements(torch.autograd.Function):
    """logits → per-element losses.

    Their upstream gradients are known only in backward, which runs the kernel again with the plan scaled by them. To
    keep log p instead would need a second (N, K) buffer. Triton's kernel has two parts and keeps two numbers per
    element between them. It reads the upstream gradients itself, and writes the losses in the dtype that is asked for.
    """

    @staticmethod
    def forward(ctx, logits, problem, plan, axis, kernel, dtype):
        plan, found = in_tensors(plan, logits), []
        if kernel is triton:
            loss, *found = launch.losses(logits.detach(), plan, axis, dtype=dtype)
        else:
            kernel = kernel_for(logits, spec.scaled(plan, logits.new_ones(())), axis)  # as in backward
            loss = kernel(logits, plan, axis, with_gradient=False)[0]
        save(ctx, problem, plan, logits, *found)
        ctx.call = axis, kernel
        return loss

    @staticmethod
    def backward(ctx, upstream):
        axis, kernel = ctx.call
        logits, *found, plan = saved(ctx)
        if differentiates_backward(upstream):
            gradient = differentiable_gradient(logits, plan, axis, upstream)
        elif found:
            gradient = launch.gradient(logits, plan, axis, *found, upstream=upstream)
        else:
            gradient = kernel(logits, spec.scaled(plan, upstream), axis)[1]
        return gradient, None, None, None, None, None


def loss_again(kind, given):
    """The loss of a call of this kind. None for one of whose values the full checks must decide."""
    if REQUEST.get() is None:
        logits, found = given[0], None
        with_gradient = logits.requires_grad and torch.is_grad_enabled()
        try:
            if with_gradient not in kind.programs:
                kind.programs[with_gradient] = program(kind, given, with_gradient)
            replay = kind.programs[with_gradient]
            if replay is not None:
                if GRADIENTS.blocks or SCRATCH.blocks:
                    age_buffers()
                found = replay(*given)
        except (TypeError, RuntimeError):  # as in `Kind.call`
            pass
        if found is not None:
            return _summed(logits, *found) if with_gradient else found
    call = kind.call(given)
    return None if call is None else loss(call)


def loss(call, dtype=None):
    """The loss of a call, as one autograd node if the logits require a gradient.

    dtype: of the loss, where a kernel can write it so. Else it is that of the computation.
    """
    logits, axis, summed = call.problem.logits, call.settings.axis, call.settings.reduction != "none"
    with_gradient = logits.requires_grad and torch.is_grad_enabled()
    plan, kernel = plan_and_kernel(call, with_gradient)
    if not with_gradient:
        return kernel(logits, plan, axis, False, summed)[0]
    if not summed:
        return _Elements.apply(logits, call.problem, plan, axis, kernel, dtype)
    if logits.itemsize > 2:
        found = kernel(logits.detach(), plan, axis, summed=True)
        tensors = tuple(x if isinstance(x, torch.Tensor) else None for x in call.problem)
        return _summed(logits, found, tensors, (of_a_plan, plan, axis, kernel))
    if kernel is triton:
        return _GuardedSummed.apply(logits, call.problem, plan, axis, dtype)
    if logits.is_cpu:
        return _HalfSummed.apply(logits, call.problem, plan, axis, kernel)
    return _Elements.apply(logits, call.problem, plan, axis, kernel, None).sum()
