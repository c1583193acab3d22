"""The plan of an everyday call on a GPU in one launch: labels, some of them ignored, and numbers for everything else.

`plan_of` makes it of some forty operations on arrays of the elements' size, which take as long to launch as the loss
and gradient of 8,192 × 32,000 logits take to compute. What it says of an element depends on nothing but whether its
label is ignored, so it is asked about two labels, a class and the ignored one, and a kernel looks up.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from multismooth.implementations import is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import plan_of
from multismooth.problem import Problem
from multismooth.torch.gpu import launch

MOST = 2**17  # elements that one block of threads goes through, twice: beyond, the launches are no longer what counts
FEW = 2**10  # elements at a time, one for a thread of 32 warps
NUMBERS = ("a", "b", "const", "z_loss")  # in the order of the kernel's pairs
USUAL = ("logits", "targets", "label_smoothing", "z_loss", "normalizer")


def supports(problem, settings):
    """Whether a call is such a one, on a device where Triton's kernels run."""
    z, convention = problem.logits, settings.convention
    if settings.soft or convention.exclude or convention.smooth_denominator is not None or z.dtype is torch.float64:
        return False
    if problem.z_loss is not None and convention.divides_z_loss(weighted=False) is not None:
        return False
    if any(value is not None for name, value in zip(problem._fields, problem, strict=True) if name not in USUAL):
        return False
    if any(isinstance(value, torch.Tensor) for value in (problem.label_smoothing, problem.z_loss, problem.normalizer)):
        return False
    if problem.normalizer == 0:  # which may be NaN: see `reduction.reciprocal`
        return False
    return 0 < problem.targets.numel() <= MOST and z.shape[settings.axis] > 1 and launch.device(z)


@lru_cache(1024)
def table(settings, classes, label_smoothing, z_loss):
    """The plan of a class and of the ignored label, each entry a pair of numbers, or None."""
    ignored = settings.ignore_index
    labels = np.array([0 if ignored != 0 else 1, 0 if ignored is None else ignored])
    problem = Problem(np.broadcast_to(np.zeros(()), (2, classes)), labels, label_smoothing, z_loss=z_loss)
    plan = plan_of(problem, settings._replace(axis=1, valid=True, clean=ignored is None), NUMPY)
    return plan._replace(
        labels=None, **{name: pair(getattr(plan, name)) for name in (*NUMBERS, "denominator_share", "active")}
    )


def pair(value):
    return None if value is None else tuple(np.broadcast_to(value, 2).tolist())


def planned(problem, settings):
    """`reduced_plan`, by one launch."""
    targets, convention = problem.targets.contiguous(), settings.convention
    classes, counted = problem.logits.shape[settings.axis], settings.reduction == "mean" and problem.normalizer is None
    found = table(settings, classes, problem.label_smoothing, problem.z_loss)
    factor = 1.0 if problem.normalizer is None else 1.0 / problem.normalizer
    pairs = tuple(x if x is None else (factor * x[0], factor * x[1]) for x in (getattr(found, n) for n in NUMBERS))
    memory = tuple(x if x is None else torch.empty_like(targets, dtype=torch.float32) for x in pairs)
    labels = torch.empty_like(targets)
    active = None if found.active is None or all(found.active) else torch.empty_like(targets, dtype=torch.bool)
    floor = -math.inf if convention.denominator_floor is None else convention.denominator_floor
    with torch.cuda.device_of(targets):
        launch.compiled().lookup[(1,)](
            targets, labels, active, memory, pairs, targets.numel(), classes, settings.ignore_index,
            *map(float, found.denominator_share), float(convention.denominator_add), float(floor), counted, FEW,
            num_warps=32, enable_fp_fusion=True,
        )  # fmt: skip
    numbers = dict(zip(NUMBERS, memory, strict=True))
    return found._replace(labels=labels, active=active, denominator_share=1.0, label_weight=1.0, **numbers)


def known(problem, settings):
    """`planned` where it is `supports`, on a GPU or where Triton is asked for in its interpreter; else None."""
    here = problem.targets.is_cuda or is_requested("triton")
    return planned(problem, settings) if here and supports(problem, settings) else None
