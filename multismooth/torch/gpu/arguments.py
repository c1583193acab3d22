"""A plan as the kernels of logits take it: numbers, and arrays with one entry or with one for each element."""

import torch

from multismooth.spec import Plan


class KernelPlan(Plan):
    """A Plan that a kernel has made.

    ticket: a counter that this kernel has set to 0, with which those of logits add up the losses themselves.
    arguments: what `arguments_of` would find. A copy by `_replace` has neither.
    """

    ticket = arguments = None


def arguments_of(plan, logits):
    """((the plan, its row v, its mask) as the kernels take them, steps of a, b, Σv, z_loss and the soft cap)."""
    if getattr(plan, "arguments", None) is not None:
        return plan.arguments
    shape = plan.labels.shape
    values = (plan.a, plan.b, plan.v_sum, plan.z_loss, plan.softcap)
    (a, b, v_sum, z_loss, softcap), steps = zip(*(coefficient(value, shape, logits) for value in values), strict=True)
    active = None if plan.active is None else plan.active.expand(shape).contiguous()
    v, mask = (None if row is None else row.reshape(-1) for row in (plan.v, plan.mask))
    return ((plan.labels.contiguous(), a, b, v_sum, z_loss, active, softcap), v, mask), steps


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
