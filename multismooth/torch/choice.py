"""Chooses the plan and the kernel of a call. Calls of one kind share one choice."""

import torch

from multismooth.cpu import choice as cpu
from multismooth.cpu.buffers import age_buffers
from multismooth.implementations import REQUEST, is_requested, select
from multismooth.torch import capped, cpu_kernels
from multismooth.torch.gpu import launch
from multismooth.torch.gpu.arguments import in_full
from multismooth.torch.plans import in_numpy, planned, program

MAX_LOGITS_WHOLE = 2**19  # up to this many, chunked needs more time for its calls than it saves in memory passes
MAX_LOGITS_WHOLE_FORWARD = 2**22  # the same without a gradient, where PyTorch's log softmax is fast
MAX_LOGITS_TINY = 2**13  # up to this many, Numba's kernel is the fastest without a gradient, for any shape
MIN_CLASSES_SLOW, MAX_CLASSES_SLOW = 64, 511  # for 64 to 511 classes without a gradient, it is slower than PyTorch's
NUMBA_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
NUMPY_DTYPES = (torch.float32, torch.float64)


def triton(logits, plan, *args, **options):
    return launch.triton(logits, in_tensors(plan, logits), *args, **options)


def in_tensors(plan, logits):
    """The plan in tensors, as that of logits on a GPU is already."""
    return plan if logits.is_cuda else cpu_kernels.plan_as_tensors(plan)


KERNELS = {**cpu_kernels.KERNELS, "triton": triton}


def kernel_of(name, plan):
    """The kernel of this name, which caps the logits if the plan says so."""
    return triton if name == "triton" else capped.kernel_with_cap(KERNELS[name], plan)


def plan_and_kernel(call, with_gradient=True):
    """(the call's plan, its kernel)."""
    problem, settings, memo, values = call
    age_buffers()
    request = REQUEST.get()
    key = with_gradient, request and request.names
    known = None if memo is None else memo.kernels.get(key)
    if known is not None:
        replay, name, kernel = known
        if request is not None:
            request.ran.append(name)
        plan = planned(problem, settings) if replay is None else replay(*values)
    else:
        plan = planned(problem, settings)
        name, kernel = choice_of(plan, problem, settings, with_gradient)
        if memo is not None:
            memo.kernels[key] = program(problem, settings, values), name, kernel
    return plan if name == "triton" else in_full(plan, problem.logits, settings.axis), kernel


def choice_of(plan, problem, settings, with_gradient):
    """(the name of the kernel, the kernel) for a plan and those of like calls."""
    logits, axis = problem.logits, settings.axis
    name = select(*supports(logits, plan, axis, with_gradient))
    small = name == "numba" and in_numpy(problem, settings) and cpu.small(cpu_kernels.as_numpy(logits), plan, axis)
    return name, capped.kernel_with_cap(cpu_kernels.small_numba, plan) if small else kernel_of(name, plan)


def kernel_for(logits, plan, axis, with_gradient=True):
    """The kernel for a plan: the best for its size, or the one that the caller requested."""
    age_buffers()
    return kernel_of(select(*supports(logits, plan, axis, with_gradient)), plan)


def supports(logits, plan, axis, with_gradient):
    """The names of the kernels that compute a call, the fastest first."""
    size = logits.numel()
    if not logits.is_cpu or size == 0:
        return ("triton", "whole") if launch.supports(logits, plan, axis) else ("whole",)
    limit = MAX_LOGITS_WHOLE if with_gradient else MAX_LOGITS_WHOLE_FORWARD
    names = ["whole", "chunked"] if size <= limit else ["chunked", "whole"]
    if logits.dtype in NUMPY_DTYPES and cpu.few(logits, plan, axis):
        names.insert(0, "columns")
    if logits.dtype in NUMBA_DTYPES:
        fast = compiles_faster(logits, axis, with_gradient)
        if (fast or is_requested("numba")) and cpu.compiles(
            logits, plan, axis
        ):  # tested last, because it imports Numba (1 s)
            names.insert(0 if fast else len(names), "numba")
    # Its interpreter runs the kernels here, for tests.
    if is_requested("triton") and launch.supports(logits, in_tensors(plan, logits), axis):
        names.append("triton")
    return names


def compiles_faster(logits, axis, with_gradient):
    """Whether Numba's kernels are faster than PyTorch's.

    With a gradient they always are. Without one they are, except for rows of 64 to 511 logits (on two threads). Small
    bfloat16 arrays are slower, because Numba casts bfloat16 by bit operations.
    """
    size, classes = logits.numel(), logits.shape[axis]
    if logits.dtype not in NUMPY_DTYPES:
        return size > (MAX_LOGITS_WHOLE if with_gradient else MAX_LOGITS_WHOLE_FORWARD)
    return with_gradient or size <= MAX_LOGITS_TINY or not MIN_CLASSES_SLOW <= classes <= MAX_CLASSES_SLOW
