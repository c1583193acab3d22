"""The kernels as operators, which `torch.compile` puts into its graph without tracing them.

`losses` reads the logits once and returns two more numbers per element. `logits_gradient` reads the logits again, with
any upstream gradient, because a compiler cannot know that it is 1. Together they make three passes over memory. Both
use Triton's kernels. `head` computes the loss and gradients of a linear layer, by the kernels of any device. `spec`
computes derivatives beyond the first; `head` has none.
"""

import typing

import torch
from torch import Tensor

from multismooth import linear as rows
from multismooth import spec
from multismooth.problem import Problem, Settings
from multismooth.reduction import reduced_plan
from multismooth.torch import compat, linear
from multismooth.torch.autograd import differentiable_gradient
from multismooth.torch.gpu import launch
from multismooth.torch.namespace import XP, float_of

Flags = typing.List[bool]  # noqa: UP006 PyTorch 2.6 does not accept list[bool] in an operator's signature


def plan_of(labels, a, b, v_sum, z_loss, active, v, mask, softcap):
    return spec.Plan(labels, v=v, a=a, b=b, v_sum=v_sum, z_loss=z_loss, active=active, mask=mask, softcap=softcap)


@torch.library.custom_op("multismooth::losses", mutates_args=())
def losses(
    logits: Tensor, labels: Tensor, a: Tensor, b: Tensor, v_sum: Tensor, z_loss: Tensor | None, active: Tensor | None,
    v: Tensor | None, mask: Tensor | None, softcap: Tensor | None, axis: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return launch.losses(logits, plan_of(labels, a, b, v_sum, z_loss, active, v, mask, softcap), axis)


@losses.register_fake
def _(logits, labels, a, b, v_sum, z_loss, active, v, mask, softcap, axis):
    return tuple(torch.empty(labels.shape, dtype=float_of(logits), device=logits.device) for _ in range(3))


@torch.library.custom_op("multismooth::logits_gradient", mutates_args=())
def logits_gradient(
    logits: Tensor, labels: Tensor, a: Tensor, b: Tensor, v_sum: Tensor, z_loss: Tensor | None, active: Tensor | None,
    v: Tensor | None, mask: Tensor | None, softcap: Tensor | None, axis: int, peaks: Tensor, totals: Tensor,
    upstream: Tensor,
) -> Tensor:  # fmt: skip
    plan = plan_of(labels, a, b, v_sum, z_loss, active, v, mask, softcap)
    return launch.gradient(logits, plan, axis, peaks, totals, torch.empty_like(logits), upstream)


@logits_gradient.register_fake
def _(logits, labels, a, b, v_sum, z_loss, active, v, mask, softcap, axis, peaks, totals, upstream):
    return torch.empty_like(logits)


def _save_losses(ctx, inputs, output):
    *tensors, ctx.axis = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _losses_backward(ctx, upstream, *_):
    *tensors, peaks, totals = ctx.saved_tensors
    return logits_gradient(*tensors, ctx.axis, peaks, totals, upstream), *(None,) * 10


def _save_gradient(ctx, inputs, output):
    *tensors, ctx.axis, _, _, upstream = inputs
    ctx.save_for_backward(*tensors, upstream)


def _gradient_backward(ctx, tangent):
    """The derivatives of `logits_gradient` by the logits and the upstream gradient, by the formulas of `spec`."""
    logits, *plan, upstream = ctx.saved_tensors

    def gradient(logits, upstream):
        return differentiable_gradient(logits, plan_of(*plan), ctx.axis, upstream)

    d_logits, d_upstream = torch.func.vjp(gradient, logits, upstream)[1](tangent)
    return d_logits, *(None,) * 12, d_upstream


losses.register_autograd(_losses_backward, setup_context=_save_losses)
logits_gradient.register_autograd(_gradient_backward, setup_context=_save_gradient)


@compat.constant_result
def kernels_run_on(index):
    """Whether the kernels run on this CUDA device. A compiler treats the answer as a constant."""
    return launch.device(torch.empty(0, device=f"cuda:{index}"))


def constant_besides_logits(problem):
    """Whether no other tensor of the Problem requires a gradient."""
    return not any(isinstance(value, Tensor) and value.requires_grad for value in [*problem][1:])


def supports(problem):
    """Whether the operators can compute a traced call: labels, a suitable device, a gradient of the logits only."""
    z = problem.logits
    if not z.is_cuda or problem.targets.is_floating_point():
        return False
    return constant_besides_logits(problem) and kernels_run_on(z.device.index)


def elements(axis, logits, plan):
    """The per-element losses: one operator if the kernels support the plan, else the formulas of `spec`."""
    if plan.u is not None or not launch.fits(logits, plan, axis):
        return spec.losses(logits, plan, axis, XP)
    a, b, v_sum = (XP.constant(value, logits) for value in (plan.a, plan.b, plan.v_sum))
    z_loss = None if plan.z_loss is None else XP.constant(plan.z_loss, logits)
    softcap = None if plan.softcap is None else XP.constant(plan.softcap, logits)
    loss = losses(logits, plan.labels, a, b, v_sum, z_loss, plan.active, plan.v, plan.mask, softcap, axis)[0]
    return loss if plan.const is None else loss + plan.const


# --- the linear head ------------------------------------------------------------------------------------------------


@torch.library.custom_op("multismooth::head", mutates_args=())
def head(
    hidden: Tensor, classifier: Tensor, bias: Tensor | None, labels: Tensor, a: Tensor, b: Tensor, v_sum: Tensor,
    z_loss: Tensor | None, active: Tensor | None, v: Tensor | None, mask: Tensor | None, softcap: Tensor | None,
    const: Tensor | None, chunk_rows: int | None, reduction: str, accumulate: str, needed: Flags,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(summed loss, ∂hidden, ∂classifier, ∂bias, empty where not needed) for (N, D) rows and a reduced plan.

    The gradients are multiplied by `linear.stored_factor`.
    """
    plan = plan_of(labels, a, b, v_sum, z_loss, active, v, mask, softcap)._replace(const=const)
    shape = hidden.new_zeros(()).expand(hidden.shape[0], classifier.shape[0])
    call = chunk_rows, Problem(shape, labels, 0.0), Settings(None, 1, reduction=reduction, accumulate=accumulate)
    stored = linear.stored_factor(hidden, reduction)
    loss, found = linear.with_gradients(
        hidden, classifier, bias, call, needed, planned=lambda *_: plan, upstream=stored
    )
    return loss, *(hidden.new_empty(0) if gradient is None else gradient.contiguous() for gradient in found)


@head.register_fake
def _(hidden, classifier, bias, *rest):
    tensors, needed = (hidden, classifier, bias), rest[-1]
    shapes = [tensor.shape if need else (0,) for tensor, need in zip(tensors, needed, strict=True)]
    loss = torch.empty((), dtype=float_of(hidden), device=hidden.device)
    return loss, *(tensor.new_empty(shape) for tensor, shape in zip((hidden, classifier, hidden), shapes, strict=True))


def _save_head(ctx, inputs, output):
    ctx.needed, ctx.stored = inputs[-1], linear.stored_factor(inputs[0], inputs[-3])
    ctx.save_for_backward(*output[1:])


def _head_backward(ctx, upstream, *_):
    found, factor = zip(ctx.saved_tensors, ctx.needed, strict=True), upstream / ctx.stored
    return *(gradient * factor if need else None for gradient, need in found), *(None,) * 14


head.register_autograd(_head_backward, setup_context=_save_head)


def head_loss(hidden, classifier, bias, chunk_rows, problem, settings):
    """A linear layer's traced loss as one operator, or None where the operator does not support the call.

    It does not support soft targets, the reduction "none", class masks with a row per element, and gradients of other
    tensors than the layer's.
    """
    own_rows = problem.class_mask is not None and problem.class_mask.ndim > 1
    if settings.soft or settings.reduction == "none" or own_rows or not constant_besides_logits(problem):
        return None
    tensors = hidden, classifier, bias = linear.cast(hidden, classifier, bias)
    features, flat, settings, _ = rows.flatten(hidden, problem, settings, XP)
    plan = reduced_plan(flat, settings, XP)
    if not launch.fits(flat.logits, plan, 1):
        return None

    def per_row(value):
        return None if value is None else XP.constant(value, features).expand(flat.targets.shape)

    softcap = None if plan.softcap is None else XP.constant(plan.softcap, features)
    needed = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in tensors]
    return head(
        features, classifier, bias, plan.labels, per_row(plan.a), per_row(plan.b), per_row(plan.v_sum),
        per_row(plan.z_loss), plan.active, plan.v, plan.mask, softcap, per_row(plan.const),
        chunk_rows, settings.reduction, settings.accumulate, needed,
    )[0]  # fmt: skip
