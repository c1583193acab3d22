"""The mathematics of the losses beside smoothing: each changes, or adds to, the loss that a `Plan` describes.

    Focal          −Σ_k W_k·m_k^γ·log p_k     m = 1 − p; W = a·u + b·v, the plan's weighted smoothed target
    LabelFocal     m_y^γ·loss
    Penalty        loss + β·Σ_k p_k log p_k
    Margin         loss + strength·mean_k max(0, max z − z_k − margin)
    Distillation   h·loss + (1 − h)·T²·Σ_k q_k log(q_k/p_k)     q = softmax(z_teacher/T), p = softmax(z/T)

An alternative is a named tuple of numbers and arrays. `reduced` makes the plan of a call and the alternative to this
plan, whose summed losses are the result. A kernel takes both. Every alternative has two methods:

    losses(logits, plan, axis, xp)                  the loss per element; autodiff differentiates it to any order
    losses_and_gradient(logits, plan, axis, xp)     (the loss per element, ∂(Σ loss)/∂z in closed form)

Every factor in a gradient is bounded, so it is finite where a probability is exactly 0 or 1.

Sources: Lin et al. 2017 (arXiv:1708.02002) for focal; Pereyra et al. 2017 (1701.06548) for the penalty; Liu et al. 2022
(2111.15430) for the margin; Hinton et al. 2015 (1503.02531) for distillation.
"""

from multismooth import spec
from multismooth.alternatives.added import Distillation, Divergence, Margin, Penalty
from multismooth.alternatives.focal import Focal, LabelFocal
from multismooth.plan import plan_of
from multismooth.reduction import factors
from multismooth.spec import zero_unless

__all__ = ["Distillation", "Divergence", "Focal", "LabelFocal", "Margin", "Penalty", "reduced", "total"]


def total(problem, settings, alternative, xp, elements=None):
    """The loss of a call, by the formulas or by a backend's `elements(axis, logits, plan, alternative)`."""
    plan, alternative = reduced(problem, settings, alternative, xp)
    if elements is None:
        loss = alternative.losses(problem.logits, plan, settings.axis, xp)
    else:
        loss = elements(settings.axis, problem.logits, plan, alternative)
    return loss if settings.reduction == "none" else xp.sum(loss)


def reduced(problem, settings, alternative, xp):
    """(plan, alternative) whose summed losses are the result of a call. What is added has the loss's denominator."""
    plan, epsilon = plan_of(problem, settings, xp), problem.label_smoothing
    if isinstance(epsilon, float) and epsilon == 0.0:
        plan = plan._replace(b=0.0)  # so that it is known to be 0, also where ignored labels make b an array
    own, *others = factors([(plan, problem.logits)], problem, settings, xp)
    weight = element_weights(problem, settings, plan, xp) * own
    return alternative.weighted(spec.scaled(plan, own, *others), weight)


def element_weights(problem, settings, plan, xp):
    """What an added term of an element is multiplied by: its sample weight, and 0 where it does not count."""
    counted, z, s, index = plan.active, problem.logits, problem.sample_weight, settings.ignore_index
    if settings.convention.ignore_scope == "nll_only" and not settings.soft and index is not None:
        named = problem.targets != index
        counted = named if counted is None else named & counted
    scale = settings.convention.scale
    return zero_unless(counted, scale if s is None else xp.astype(s, xp.float_of(z)) * scale, z, xp)
