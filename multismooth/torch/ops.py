"""The Triton kernels as operators that `torch.compile` puts into its graph without looking inside.

`losses` reads the logits once and leaves two numbers per element; `logits_gradient` reads them once more, with any
upstream gradient: three passes over memory, which is what a compiler, that cannot know the upstream gradient is 1, gets
for its one node. Derivatives beyond the first are those of `spec`.
"""

import torch
from torch import Tensor

from multismooth import spec
from multismooth.torch import gpu
from multismooth.torch.fused import differentiable_gradient
from multismooth.torch.namespace import XP, float_of


def plan_of(labels, a, b, v_sum, zeta, alive, v, mask):
    return spec.Plan(labels, None, v, a, b, 1.0, v_sum, None, zeta, 1.0, 1.0, None, alive, mask)


@torch.library.custom_op("multismooth::losses", mutates_args=())
def losses(
    logits: Tensor, labels: Tensor, a: Tensor, b: Tensor, v_sum: Tensor, zeta: Tensor | None, alive: Tensor | None,
    v: Tensor | None, mask: Tensor | None, axis: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return gpu.losses(logits, plan_of(labels, a, b, v_sum, zeta, alive, v, mask), axis)


@losses.register_fake
def _(logits, labels, a, b, v_sum, zeta, alive, v, mask, axis):
    return tuple(torch.empty(labels.shape, dtype=float_of(logits), device=logits.device) for _ in range(3))


@torch.library.custom_op("multismooth::logits_gradient", mutates_args=())
def logits_gradient(
    logits: Tensor, labels: Tensor, a: Tensor, b: Tensor, v_sum: Tensor, zeta: Tensor | None, alive: Tensor | None,
    v: Tensor | None, mask: Tensor | None, axis: int, peaks: Tensor, totals: Tensor, upstream: Tensor,
) -> Tensor:  # fmt: skip
    plan = spec.scaled(plan_of(labels, a, b, v_sum, zeta, alive, v, mask), upstream)
    return gpu.gradient(logits, plan, axis, peaks, totals, torch.empty_like(logits))


@logits_gradient.register_fake
def _(logits, labels, a, b, v_sum, zeta, alive, v, mask, axis, peaks, totals, upstream):
    return torch.empty_like(logits)


def _keep_losses(ctx, inputs, output):
    *tensors, ctx.axis = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _losses_backward(ctx, upstream, *_):
    *tensors, peaks, totals = ctx.saved_tensors
    return logits_gradient(*tensors, ctx.axis, peaks, totals, upstream), *(None,) * 9


def _keep_gradient(ctx, inputs, output):
    *tensors, ctx.axis, _, _, upstream = inputs
    ctx.save_for_backward(*tensors, upstream)


def _gradient_backward(ctx, tangent):
    """Of the gradient with respect to the logits and the upstream gradient, by the plain text."""
    logits, *plan, upstream = ctx.saved_tensors

    def again(logits, upstream):
        return differentiable_gradient(logits, plan_of(*plan), ctx.axis, upstream)

    d_logits, d_upstream = torch.func.vjp(again, logits, upstream)[1](tangent)
    return d_logits, *(None,) * 11, d_upstream


losses.register_autograd(_losses_backward, setup_context=_keep_losses)
logits_gradient.register_autograd(_gradient_backward, setup_context=_keep_gradient)


@torch.compiler.assume_constant_result
def there(index):
    """Whether the kernels run on a CUDA device; a compiler takes the answer as it is."""
    return gpu.device(torch.empty(0, device=f"cuda:{index}"))


def able(problem):
    """Whether a traced call is one for the operators: hard labels on such a device, and only logits want a gradient."""
    z = problem.logits
    if not z.is_cuda or problem.targets.is_floating_point() or not there(z.device.index):
        return False
    return not any(isinstance(value, Tensor) and value.requires_grad for value in problem[1:])


def elements(axis, logits, plan):
    """Per-element losses of `spec`, one operator in the graph where the plan is one for the kernels."""
    if not gpu.fits(logits, plan, axis):
        return spec.elements(*spec.statistics(logits, plan, axis, XP), plan, XP)
    a, b, v_sum = (XP.constant(value, logits) for value in (plan.a, plan.b, plan.v_sum))
    zeta = None if plan.zeta is None else XP.constant(plan.zeta, logits)
    each = losses(logits, plan.labels, a, b, v_sum, zeta, plan.alive, plan.v, plan.mask, axis)[0]
    return each if plan.const is None else each + plan.const
