"""The plan of an everyday call on a GPU, in one launch or two: integer labels, and numbers or arrays for the rest.

`plan_of` makes a plan of some fifty operations on arrays of the elements' size. To launch them takes as long as to
compute loss and gradient of 8,192 × 32,000 logits.

`planned` is for calls of numbers. There an element's coefficients depend only on whether its label is ignored. So we
run `plan_of` on two labels (a class, the ignored one) and let a kernel pick one of the two results per element.
`planned_from_arrays` is for class weights, a class mask, sample weights, ε per element, a normalizer on the device, and
soft targets.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from multismooth import reduction
from multismooth.implementations import is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import plan_of
from multismooth.problem import Problem
from multismooth.torch.gpu import choice
from multismooth.torch.gpu.arguments import KernelPlan, coefficient
from multismooth.torch.gpu.dispatch import launch_of
from multismooth.torch.gpu.layout import without_axis

# Up to this many elements one block of threads makes the plan. It goes through the labels twice. With more elements the
# time of the forty launches no longer matters.
MAX_ELEMENTS = 2**17

ELEMENTS_AT_A_TIME = 2**10  # one for each thread of a block
WARPS = 32  # of a block
COEFFICIENTS = ("a", "b", "const", "z_loss")  # in the order of the kernel's pairs


def supports(problem, settings):
    """Whether this is such a call, on a device where Triton's kernels run."""
    z, targets, smoothing, weight, prior, mask, sample_weight, z_loss, _, normalizer = problem
    convention = settings.convention
    if not (weight is prior is mask is sample_weight is None) or settings.soft or z.dtype is torch.float64:
        return False
    if any(isinstance(value, torch.Tensor) for value in (smoothing, z_loss, normalizer)):
        return False
    if convention.exclude or convention.smooth_denominator is not None:
        return False
    if z_loss is not None and convention.divides_z_loss(weighted=False) is not None:
        return False
    if normalizer == 0:  # the result may be NaN: see `reduction.reciprocal`
        return False
    return 0 < targets.numel() <= MAX_ELEMENTS and z.shape[settings.axis] > 1 and choice.device(z)


class Lookup(NamedTuple):
    """What calls of one kind have in common."""

    pairs: tuple  # (of a class, of the ignored label) of each coefficient, or None for one that the plan does not have
    sums: tuple[float, float]  # Σu and Σv
    some_inactive: bool
    fixed: tuple  # the last arguments of the kernel


@lru_cache(1024)
def lookup_of(settings, classes, size, label_smoothing, z_loss, divides_by_count):
    """The Lookup of calls with these settings and numbers."""
    ignored, convention = settings.ignore_index, settings.convention
    labels = np.array([0 if ignored != 0 else 1, 0 if ignored is None else ignored])
    problem = Problem(np.broadcast_to(np.zeros(()), (2, classes)), labels, label_smoothing, z_loss=z_loss)
    plan = plan_of(problem, settings._replace(axis=1, valid=True, clean=ignored is None), NUMPY)
    active, pairs = pair(plan.active), tuple(pair(getattr(plan, name)) for name in COEFFICIENTS)
    floor = -math.inf if convention.denominator_floor is None else convention.denominator_floor
    fixed = (
        size, classes, ignored, *map(float, pair(plan.denominator_share)), float(convention.denominator_add),
        float(floor), divides_by_count, settings.nothing_is_nan, ELEMENTS_AT_A_TIME,
    )  # fmt: skip
    return Lookup(pairs, (plan.u_sum, plan.v_sum), not (active is None or all(active)), fixed)


def made(logits, softcap, ticket, labels, active, a, b, z_loss=None, const=None, rows=(None,) * 3, sums=(1.0, 1.0)):
    """The KernelPlan of tensors whose entries lie side by side; u may lie otherwise. rows: u, v, mask; sums: Σu, Σv."""
    (u, v, mask), (u_sum, v_sum) = rows, sums
    cap, cap_step = coefficient(softcap, (), logits)
    steps = 1, 1, None if type(v_sum) is float else 0, None if z_loss is None else 1, cap_step
    plan = KernelPlan(labels, u, v, a, b, u_sum, v_sum, const, z_loss, 1.0, 1.0, None, None, active, mask, softcap)
    plan.ticket, plan.arguments = ticket, (((labels, a, b, v_sum, z_loss, active, cap), v, mask), steps)
    return plan


def ticket_for(settings, targets):
    """Memory for the counter, if a sum is asked for."""
    return None if settings.reduction == "none" else torch.empty((), dtype=torch.int32, device=targets.device)


def pair(value):
    return None if value is None else tuple(np.broadcast_to(value, 2).tolist())


def planned(problem, settings):
    """`reduction.reduced_plan`, by one launch."""
    targets, normalizer = problem.targets.contiguous(), problem.normalizer
    classes, size = problem.logits.shape[settings.axis], targets.numel()
    divides_by_count = settings.reduction == "mean" and normalizer is None
    kind = settings, classes, size, problem.label_smoothing, problem.z_loss, divides_by_count
    pairs, sums, some_inactive, fixed = lookup_of(*kind)
    if normalizer is not None:
        factor = 1.0 / normalizer
        pairs = tuple([None if value is None else (factor * value[0], factor * value[1]) for value in pairs])
    labels, ticket, dtype = torch.empty_like(targets), ticket_for(settings, targets), torch.float32
    memory = tuple([None if value is None else torch.empty_like(targets, dtype=dtype) for value in pairs])
    active = torch.empty_like(targets, dtype=torch.bool) if some_inactive else None
    launch = launch_of(choice.compiled().lookup, fixed, lambda: ((1,), fixed, {"num_warps": WARPS}))
    launch(targets, targets, labels, active, ticket, memory, pairs)
    a, b, const, z_loss = memory
    return made(problem.logits, problem.logit_softcap, ticket, labels, active, a, b, z_loss, const, sums=sums)


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
    """Whether `planned_from_arrays` computes the plan: no prior, one denominator for all terms."""
    z, convention, targets = problem.logits, settings.convention, problem.targets
    size, mask, weighted = targets.numel(), problem.class_mask, problem.weight is not None
    if problem.prior is not None or convention.exclude or convention.objective == "kl":
        return False
    if settings.soft:
        size //= max(z.shape[settings.axis], 1)
        if targets.dtype not in choice.DTYPES or (weighted and convention.class_weights == "target"):
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


def known_denominator(problem, settings):
    """What a mean of soft targets divides by if they all count, which the host knows; None for any other call."""
    if not settings.soft or settings.reduction != "mean" or not (problem.sample_weight is problem.normalizer is None):
        return None
    z, convention, axis = problem.logits, settings.convention, settings.axis
    shares = z.numel() if convention.denominator == "classes" else z.numel() // z.shape[axis]
    return reduction.denominator(float(shares), None, convention, None)


def mode_of(problem, settings):
    """What the kernels are compiled for: see `plan_kernels.everyday`."""
    convention, weighted = settings.convention, problem.weight is not None
    denominator = "none" if settings.reduction != "mean" else convention.denominator
    if denominator != "none" and problem.normalizer is not None:
        denominator = "caller"
    elif known_denominator(problem, settings) is not None:
        denominator = "none"
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
    """`reduction.reduced_plan`, by one launch, or by two where much must be summed over elements or classes."""
    z, weight, mask, axis, soft = problem.logits, problem.weight, problem.class_mask, settings.axis, settings.soft
    classes, mode, device, dtype = z.shape[axis], mode_of(problem, settings), z.device, torch.float32
    targets = None if soft else problem.targets.contiguous()
    a = torch.empty(without_axis(z.shape, axis) if soft else targets.shape, dtype=dtype, device=device)
    b, labels, size = torch.empty_like(a), None if soft else torch.empty_like(targets), a.numel()
    ticket = ticket_for(settings, a)
    squares = None if problem.z_loss is None else torch.empty_like(a)
    ignores = settings.ignore_index is not None and not (soft or mode[2])
    active = torch.empty_like(a, dtype=torch.bool) if ignores or problem.sample_weight is not None else None
    has_row = mask is not None or mode[3] == "per_term"
    v, v_sum = (torch.empty(n, dtype=dtype, device=device) for n in (classes, 1)) if has_row else (None, None)
    normalizer = problem.normalizer
    if isinstance(normalizer, float):
        normalizer = torch.full((), normalizer, dtype=dtype, device=device)
    given = targets, weight, mask, problem.sample_weight, problem.label_smoothing, problem.z_loss or 0.0
    steps = step_of(problem.sample_weight, size), step_of(problem.label_smoothing, size)
    kind, header, divisor = (settings, size, classes, steps, mode), None, known_denominator(problem, settings)
    many = size > MAX_ELEMENTS_IN_ONE_LAUNCH or classes > MAX_CLASSES_IN_ONE_LAUNCH
    if many and not (soft and mode[4] == "none" and weight is mask is None):  # else there is nothing to sum
        header = torch.empty(2 + 2 * PROGRAMS, dtype=dtype, device=device)
        launch_of(choice.compiled().sums, kind, lambda: prepared_sums(*kind))(a, header, *given)
    kind = (*kind, many, divisor)
    launch = launch_of(choice.compiled().everyday, (kind, header is None), lambda: prepared_everyday(*kind))
    launch(a, header, ticket, labels, active, a, b, squares, v, v_sum, *given, normalizer)
    row = [1] * z.ndim
    row[axis] = classes
    rows = (problem.targets if soft else None, *[None if x is None else x.view(row) for x in (v, mask)])
    sums = (None if soft else 1.0), (1.0 if v_sum is None else v_sum)
    plan = made(z, problem.logit_softcap, ticket, labels, active, a, b, squares, rows=rows, sums=sums)
    if soft:
        plan.column, plan.tolerance = weight, None if settings.valid else settings.row_tolerance
    return plan


def prepared_sums(settings, size, classes, steps, mode):
    """What `launch_of` asks about `sums`."""
    return (PROGRAMS,), (size, classes, settings.ignore_index, steps, mode, BLOCK), {"num_warps": WARPS_OF_EVERYDAY}


def prepared_everyday(settings, size, classes, steps, mode, many, divisor):
    """What `launch_of` asks about `everyday`."""
    convention = settings.convention
    programs = min(-(-max(size, classes) // BLOCK), MAX_PROGRAMS) if many else 1
    factor = 1.0 if divisor is None else reduction.reciprocal(divisor, None, None)
    share, floor = {"all": 1.0, "classes": float(classes)}.get(mode[4]), convention.denominator_floor
    fixed = (
        size, classes, settings.ignore_index, share, convention.denominator_add, -math.inf if floor is None else floor,
        convention.scale * factor, steps, mode, settings.nothing_is_nan, PROGRAMS, BLOCK,
    )  # fmt: skip
    return (programs,), fixed, {"num_warps": WARPS_OF_EVERYDAY}


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
