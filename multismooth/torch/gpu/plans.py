"""The plan of a frequent kind of call on a GPU, in one launch: integer labels, and numbers for everything else.

`plan_of` makes a plan of some forty operations on arrays of the elements' size. To launch them takes as long as to
compute loss and gradient of 8,192 × 32,000 logits. In such a call an element's coefficients depend only on whether its
label is ignored. So we run `plan_of` on two labels (a class, the ignored one) and let a kernel pick one of the two
results per element.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from multismooth.implementations import is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import plan_of
from multismooth.problem import Problem
from multismooth.torch.gpu import choice

# Up to this many elements one block of threads makes the plan. It goes through the labels twice. With more elements the
# time of the forty launches no longer matters.
MAX_ELEMENTS = 2**17

ELEMENTS_AT_A_TIME = 2**10  # one for each thread of a block
WARPS = 32  # of a block
COEFFICIENTS = ("a", "b", "const", "z_loss")  # in the order of the kernel's pairs
SUPPORTED_ARGUMENTS = ("logits", "targets", "label_smoothing", "z_loss", "normalizer")


def supports(problem, settings):
    """Whether this is such a call, on a device where Triton's kernels run."""
    z, convention = problem.logits, settings.convention
    if settings.soft or convention.exclude or convention.smooth_denominator is not None or z.dtype is torch.float64:
        return False
    if problem.z_loss is not None and convention.divides_z_loss(weighted=False) is not None:
        return False
    arguments = zip(problem._fields, problem, strict=True)
    if any(value is not None for name, value in arguments if name not in SUPPORTED_ARGUMENTS):
        return False
    if any(isinstance(value, torch.Tensor) for value in (problem.label_smoothing, problem.z_loss, problem.normalizer)):
        return False
    if problem.normalizer == 0:  # the result may be NaN: see `reduction.reciprocal`
        return False
    return 0 < problem.targets.numel() <= MAX_ELEMENTS and z.shape[settings.axis] > 1 and choice.device(z)


@lru_cache(1024)
def plan_of_two_labels(settings, classes, label_smoothing, z_loss):
    """The plan of a class and of the ignored label. Each entry is a pair of numbers, or None."""
    ignored = settings.ignore_index
    labels = np.array([0 if ignored != 0 else 1, 0 if ignored is None else ignored])
    problem = Problem(np.broadcast_to(np.zeros(()), (2, classes)), labels, label_smoothing, z_loss=z_loss)
    plan = plan_of(problem, settings._replace(axis=1, valid=True, clean=ignored is None), NUMPY)
    names = (*COEFFICIENTS, "denominator_share", "active")
    return plan._replace(labels=None, **{name: pair(getattr(plan, name)) for name in names})


def pair(value):
    return None if value is None else tuple(np.broadcast_to(value, 2).tolist())


def planned(problem, settings):
    """`reduction.reduced_plan`, by one launch."""
    targets, convention = problem.targets.contiguous(), settings.convention
    classes = problem.logits.shape[settings.axis]
    divides_by_count = settings.reduction == "mean" and problem.normalizer is None
    plan = plan_of_two_labels(settings, classes, problem.label_smoothing, problem.z_loss)
    factor = 1.0 if problem.normalizer is None else 1.0 / problem.normalizer
    pairs = tuple(
        None if value is None else (factor * value[0], factor * value[1])
        for value in (getattr(plan, name) for name in COEFFICIENTS)
    )
    memory = tuple(None if value is None else torch.empty_like(targets, dtype=torch.float32) for value in pairs)
    labels = torch.empty_like(targets)
    active = None if plan.active is None or all(plan.active) else torch.empty_like(targets, dtype=torch.bool)
    floor = -math.inf if convention.denominator_floor is None else convention.denominator_floor
    with torch.cuda.device_of(targets):
        choice.compiled().lookup[(1,)](
            targets, labels, active, memory, pairs, targets.numel(), classes, settings.ignore_index,
            *map(float, plan.denominator_share), float(convention.denominator_add), float(floor), divides_by_count,
            ELEMENTS_AT_A_TIME, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    coefficients = dict(zip(COEFFICIENTS, memory, strict=True))
    return plan._replace(labels=labels, active=active, denominator_share=1.0, label_weight=1.0, **coefficients)


def known(problem, settings):
    """`planned` for a call that it supports, on a GPU or where the caller asks for Triton's interpreter; else None."""
    runs_here = problem.targets.is_cuda or is_requested("triton")
    return planned(problem, settings) if runs_here and supports(problem, settings) else None
