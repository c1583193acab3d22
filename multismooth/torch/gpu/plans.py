"""The plan of an everyday call on a GPU, in one launch or two: integer labels, and numbers or arrays for the rest.

`plan_of` makes a plan of some fifty operations on arrays of the elements' size. To launch them takes as long as to
compute loss and gradient of 8,192 × 32,000 logits.

`planned` is for calls of numbers. There an element's coefficients depend only on whether its label is ignored. So we
run `plan_of` on two labels (a class, the ignored one) and let a kernel pick one of the two results per element.
`planned_from_arrays` is for class weights, a class mask, sample weights, ε per element and a normalizer on the device.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from multismooth.implementations import is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import plan_of
from multismooth.problem import Problem
from multismooth.spec import Plan
from multismooth.torch.gpu import choice

# Up to this many elements one block of threads makes the plan. It goes through the labels twice. With more elements the
# time of the forty launches no longer matters.
MAX_ELEMENTS = 2**17

ELEMENTS_AT_A_TIME = 2**10  # one for each thread of a block
WARPS = 32  # of a block
COEFFICIENTS = ("a", "b", "const", "z_loss")  # in the order of the kernel's pairs
SUPPORTED_ARGUMENTS = ("logits", "targets", "label_smoothing", "z_loss", "logit_softcap", "normalizer")


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


class CountedPlan(Plan):
    """A Plan whose kernel has set a counter to 0, with which the kernels of logits add up the losses themselves."""

    ticket = None


def counted(plan, ticket, softcap=None):
    """The plan with the counter, and with the soft cap, which no kernel of plans needs to know."""
    plan = CountedPlan(*plan._replace(softcap=softcap))
    plan.ticket = ticket
    return plan


def ticket_for(settings, targets):
    """Memory for the counter, if a sum is asked for."""
    return None if settings.reduction == "none" else torch.empty((), dtype=torch.int32, device=targets.device)


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
    ticket = ticket_for(settings, targets)
    floor = -math.inf if convention.denominator_floor is None else convention.denominator_floor
    with torch.cuda.device_of(targets):
        choice.compiled().lookup[(1,)](
            targets, labels, active, ticket, memory, pairs, targets.numel(), classes, settings.ignore_index,
            *map(float, plan.denominator_share), float(convention.denominator_add), float(floor), divides_by_count,
            settings.nothing_is_nan, ELEMENTS_AT_A_TIME, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    coefficients = dict(zip(COEFFICIENTS, memory, strict=True))
    plan = plan._replace(labels=labels, active=active, denominator_share=1.0, label_weight=1.0, **coefficients)
    return counted(plan, ticket, problem.logit_softcap)


# --- arrays among the arguments: class weights, a class mask, sample weights, ε per element, a normalizer -----------

# Up to these numbers one block does it all. It goes through the elements twice, and through the classes twice.
MAX_ELEMENTS_IN_ONE_LAUNCH = 2**13
MAX_CLASSES_IN_ONE_LAUNCH = 2**13

BLOCK = 2**10  # elements or classes at a time
WARPS_OF_EVERYDAY = 8
PROGRAMS = 2**6  # that sum the shares of many elements
MAX_PROGRAMS = 2**10  # that write the coefficients


def step_of(value, size):
    """The distance between the entries of two elements: None for a number; NotImplemented for other arrays."""
    if not isinstance(value, torch.Tensor):
        return None
    return 0 if value.numel() == 1 else 1 if value.numel() == size and value.is_contiguous() else NotImplemented


def supports_arrays(problem, settings):
    """Whether `planned_from_arrays` computes the plan: labels, no prior, one denominator for all terms."""
    z, convention, size = problem.logits, settings.convention, problem.targets.numel()
    mask, weighted = problem.class_mask, problem.weight is not None
    if settings.soft or problem.prior is not None or convention.exclude or convention.objective == "kl":
        return False
    if convention.smooth_denominator is not None or isinstance(problem.z_loss, torch.Tensor):
        return False
    if problem.z_loss is not None and convention.divides_z_loss(weighted) is not None:
        return False
    if weighted and (convention.class_weights == "mixture" or convention.denominator == "mixture_weight"):
        return False
    if mask is not None and (mask.ndim > 1 or not mask.is_contiguous()):
        return False
    if weighted and not problem.weight.is_contiguous():
        return False
    if NotImplemented in (step_of(value, size) for value in (problem.sample_weight, problem.label_smoothing)):
        return False
    tensors = [x for x in [*problem][2:] if isinstance(x, torch.Tensor)]
    if any(x.device != z.device for x in tensors):  # a 0-d tensor on the CPU, which PyTorch's operators take
        return False
    few = 0 < size < 2**31 and z.dtype is not torch.float64 and z.shape[settings.axis] > 1
    return few and choice.device(z)


def mode_of(problem, settings):
    """What the kernels are compiled for: see `plan_kernels.everyday`."""
    convention, weighted = settings.convention, problem.weight is not None
    denominator = "none" if settings.reduction != "mean" else convention.denominator
    if denominator != "none" and problem.normalizer is not None:
        denominator = "caller"
    elif denominator in ("mixture_weight", "target_weight") and not weighted:
        denominator = "counted"
    return (
        convention.spread == "others",
        convention.smoothing_map == "classy",
        convention.ignore_scope == "nll_only",
        convention.class_weights if weighted else "none",
        denominator,
    )


def planned_from_arrays(problem, settings):
    """`reduction.reduced_plan`, by one launch, or by two where there are many elements or classes."""
    z, targets, convention = problem.logits, problem.targets.contiguous(), settings.convention
    classes, size, mode = z.shape[settings.axis], targets.numel(), mode_of(problem, settings)
    kernels, device = choice.compiled(), targets.device
    a, b = (torch.empty_like(targets, dtype=torch.float32) for _ in range(2))
    squares = None if problem.z_loss is None else torch.empty_like(a)
    has_inactive = problem.sample_weight is not None or (settings.ignore_index is not None and not mode[2])
    active = torch.empty_like(targets, dtype=torch.bool) if has_inactive else None
    shares = problem.class_mask is not None or mode[3] == "per_term"
    v, v_sum = (torch.empty(n, dtype=torch.float32, device=device) for n in (classes, 1)) if shares else (None, None)
    normalizer = problem.normalizer
    if isinstance(normalizer, float):
        normalizer = torch.full((), normalizer, dtype=torch.float32, device=device)
    steps = step_of(problem.sample_weight, size), step_of(problem.label_smoothing, size)
    given = (targets, problem.weight, problem.class_mask, problem.sample_weight, problem.label_smoothing)
    given = (*given, problem.z_loss or 0.0)
    labels, floor = torch.empty_like(targets), convention.denominator_floor
    fixed = {"all": 1.0, "classes": float(classes)}.get(mode[4])
    header, programs, ticket = None, 1, ticket_for(settings, targets)
    with torch.cuda.device_of(targets):
        if size > MAX_ELEMENTS_IN_ONE_LAUNCH or classes > MAX_CLASSES_IN_ONE_LAUNCH:
            header = torch.empty(2 + 2 * PROGRAMS, dtype=torch.float32, device=device)
            programs = min(-(-max(size, classes) // BLOCK), MAX_PROGRAMS)
            kernels.sums[(PROGRAMS,)](
                header, *given, size, classes, settings.ignore_index, steps, mode, BLOCK,
                num_warps=WARPS_OF_EVERYDAY, enable_fp_fusion=True,
            )  # fmt: skip
        kernels.everyday[(programs,)](
            header, ticket, labels, active, a, b, squares, v, v_sum, *given, normalizer, size, classes,
            settings.ignore_index, fixed, convention.denominator_add, -math.inf if floor is None else floor,
            convention.scale, steps, mode, settings.nothing_is_nan, PROGRAMS, BLOCK,
            num_warps=WARPS_OF_EVERYDAY, enable_fp_fusion=True,
        )  # fmt: skip
    row = [1] * z.ndim
    row[settings.axis] = classes
    plan = Plan(
        labels, a=a, b=b, v=None if v is None else v.view(row), v_sum=1.0 if v_sum is None else v_sum,
        z_loss=squares, active=active, mask=None if problem.class_mask is None else problem.class_mask.view(row),
    )  # fmt: skip
    return counted(plan, ticket, problem.logit_softcap)


def knows(problem, settings):
    """Whether `known` makes the plan of a call on a GPU."""
    return problem.targets.is_cuda and (supports(problem, settings) or supports_arrays(problem, settings))


def known(problem, settings):
    """The plan by Triton's kernels, on a GPU or where the caller asks for the interpreter. None: `spec` makes it."""
    if not (problem.targets.is_cuda or is_requested("triton")):
        return None
    takes_numbers, few = supports(problem, settings), problem.targets.numel() <= MAX_ELEMENTS_IN_ONE_LAUNCH
    if not (takes_numbers and few) and supports_arrays(problem, settings):
        return planned_from_arrays(problem, settings)
    return planned(problem, settings) if takes_numbers else None
