"""A plan as the kernels of logits take it: numbers, and arrays with one entry or with one for each element."""

import torch

from multismooth.classes import Classes
from multismooth.spec import Plan, times, wide
from multismooth.torch.gpu.layout import without_axis
from multismooth.torch.namespace import XP, float_of


class KernelPlan(Plan):
    """A Plan that a kernel has made.

    ticket: a counter that this kernel has set to 0, with which those of logits add up the losses themselves.
    arguments: what `arguments_of` would find. A copy by `_replace` has neither.

    That kernel does not read soft targets. The plan's u are then the targets as they were given, and u_sum is None.
    column: class weights that multiply u, or None. tolerance: the rows of u are distributions within it, or their
    elements are NaN; None: they are not checked. The kernels of logits take such a plan, and all others `in_full`.
    """

    ticket = arguments = column = tolerance = None


def in_full(plan, logits, axis):
    """A KernelPlan of soft targets as a Plan that any kernel can take, and any other plan as it is."""
    if plan.u is None or plan.u_sum is not None:
        return plan
    classes, t, a = Classes(logits, axis, XP), plan.u.to(float_of(logits)), plan.a
    if plan.tolerance is not None:
        a = torch.where(classes.valid_rows(t, plan.mask, plan.tolerance), a, float("nan"))
    if plan.active is not None:
        a, t = torch.where(plan.active, a, 0.0), torch.where(wide(plan.active, axis, XP), t, 0.0)
    t = t if plan.mask is None else torch.where(plan.mask, t, 0.0)
    u = times(t, 1.0 if plan.column is None else classes.row(plan.column.to(t.dtype)))
    return Plan(*plan)._replace(u=u, a=a, u_sum=classes.mass(u))


def elements_shape(plan, logits, axis):
    """The shape of the elements' axes."""
    return without_axis(logits.shape, axis) if plan.labels is None else plan.labels.shape


def arguments_of(plan, logits, shape):
    """((the plan, its row v, its mask) as the kernels take them, steps of a, b, Σv, z_loss and the soft cap)."""
    if getattr(plan, "arguments", None) is not None:
        return plan.arguments
    values = (plan.a, plan.b, plan.v_sum, plan.z_loss, plan.softcap)
    (a, b, v_sum, z_loss, softcap), steps = zip(*(coefficient(value, shape, logits) for value in values), strict=True)
    active = None if plan.active is None else plan.active.expand(shape).contiguous()
    v, mask = (None if row is None else row.reshape(-1) for row in (plan.v, plan.mask))
    labels = None if plan.labels is None else plan.labels.contiguous()
    return ((labels, a, b, v_sum, z_loss, active, softcap), v, mask), steps


def coefficient(value, shape, logits):
    """(a number or a tensor, STEP): None for a number, 0 for a tensor of one entry, 1 for one entry per element."""
    if value is None:
        return None, None
    if isinstance(value, torch.Tensor) and value.is_cpu and value.numel() == 1:
        value = value.item()
    if isinstance(value, (int, float)):
        if logits.dtype is not torch.float64:
            return float(value), None
        value = torch.full((), value, dtype=torch.float64, device=logits.device)  # a number has 32 bits in a kernel
    return (value, 0) if value.numel() == 1 else (value.expand(shape).contiguous(), 1)


def upstream_of(value, shape):
    """`coefficient` of an upstream gradient: a tensor of one number, or of one for each element."""
    if value.numel() == 1 or not any(value.stride()):  # as `expand` makes it, of a sum's
        return value.as_strided((), ()), 0
    return value.expand(shape).contiguous(), 1
