"""The loss of a kind of call as one recorded program: its checks, its plan and its kernel.

A program does what the functions of a first call do, for calls that are alike: `quick_check` looks at the values,
`reduced_plan` makes the plan, a kernel computes the loss and its gradient. What two of these compute is computed once,
and what the kernel does not use is left out.
"""

import math
from operator import getitem

import numpy as np
import torch

from multismooth.cpu import small
from multismooth.problem import Problem
from multismooth.recording import Recording, ValueSeen, recorded_plan
from multismooth.torch import cpu_kernels
from multismooth.torch.choice import choice_of, kernel_for
from multismooth.torch.compat import log_softmax_backward
from multismooth.torch.plans import in_numpy, planned

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def program(kind, given, with_gradient):
    """(arguments of a Problem) → the loss, for calls of this kind; None if each of them needs more than a program.

    With a gradient it returns (loss, gradient), the tensors that backward may need, and (the Problem without its
    tensors, Settings). It returns None for a call whose values are unexpected, or whose loss is not finite.
    """
    settings = kind.settings
    if not kind.visible or kind.readers or settings.reduction == "none":
        return None
    problem = kind.problem(given)
    logits, axis = problem.logits, settings.axis
    if not logits.is_cpu or logits.itemsize <= 2 or logits.ndim < 2 or not in_numpy(problem, settings):
        return None
    name, kernel = choice_of(planned(problem, settings), problem, settings, with_gradient)
    shape, dtype = tuple(logits.shape), logits.dtype

    def function(recording, *given):
        problem, values, memo = kind.recorded(recording, given)
        values, wide = recording.plain(values)[1:], dtype is torch.float64
        plan = recorded_plan(shape, wide, values, memo.settings, recording)
        z = recording.call(torch.Tensor.detach, problem.logits)
        if name == "whole" and cpu_kernels.as_they_lie(shape, dtype, axis) and small.fits(plan, math.prod(shape)):
            loss, gradient = whole(recording, z, plan, shape, dtype, axis, with_gradient)
        else:
            found = recording.call(kernel, z, plan, axis, with_gradient, True)
            loss, gradient = (recording.call(getitem, found, k, always=False) for k in (0, 1))
        if not with_gradient:
            return loss
        tensors = {place for place, *_ in kind.arrays}
        kept = tuple(x if place in tensors else None for place, x in enumerate(problem))
        numbers = Problem(*[None if place in tensors else x for place, x in enumerate(problem)])
        return (loss, gradient), kept, (planned_again, numbers, memo.settings)

    try:
        return Recording(keeps=False).program(function, Problem._fields)
    except ValueSeen:
        return None


def planned_again(tensors, numbers, settings):
    """(logits, plan, axis, kernel) of tensors that were saved. `numbers`: the Problem without its tensors."""
    problem = Problem(*[x if tensor is None else tensor for x, tensor in zip(numbers, tensors, strict=True)])
    plan = planned(problem, settings)
    return problem.logits, plan, settings.axis, kernel_for(problem.logits, plan, settings.axis)


def whole(recording, z, plan, shape, dtype, axis, with_gradient):
    """(the loss, its gradient or None): `cpu_kernels.whole_summed`."""

    def tensor(function, *args):
        return recording.call(function, *args, always=False)

    def seen(x):
        return recording.call(torch.Tensor.numpy, x, value=np.zeros(shape, NUMPY[dtype]), always=False)

    if plan.mask is not None:
        absent = recording.take(cpu_kernels.ABSENT_PRESENT[dtype], plan.mask.view(np.int8), 0)
        z = tensor(torch.from_numpy, seen(z) + absent)
    lp = tensor(torch.log_softmax, z, axis)
    known, gradient = seen(lp), None
    if with_gradient:
        target = small.negative_target(known, plan, axis, recording)
        loss = recording.call(np.vdot, target, known, value=NUMPY[dtype](1), always=False)
        gradient = tensor(log_softmax_backward, tensor(torch.from_numpy, target), lp, axis, dtype)
    else:
        loss = small.summed_loss(known, plan, axis, recording)
    recording.stop_unless(recording.call(math.isfinite, loss, always=False))
    return tensor(torch.from_numpy, tensor(np.asarray, loss, NUMPY[dtype])), gradient
