"""The plan of a PyTorch call, and its replay for calls of one kind.

With weights, masks or ignored labels a plan takes twenty operations on arrays with an entry for each element. Each
takes three to six µs in PyTorch and one in NumPy. So on a CPU NumPy computes them, on the memory that both share. On a
GPU one launch makes the plan of a common kind of call (`gpu.plans`).
"""

import numpy as np
import torch

from multismooth.implementations import REQUEST, is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import with_numbers
from multismooth.recording import plan_program
from multismooth.reduction import reduced_plan
from multismooth.torch import compat
from multismooth.torch.gpu import plans as gpu
from multismooth.torch.namespace import XP

MAX_LOGITS_NUMPY = 2**22  # up to this many, NumPy makes the plan; above, the time that it saves does not matter
MAX_LOGITS_ROWS = 2**16  # the same for a plan with a row for each element, which PyTorch computes on several threads
NUMPY_DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


def planned(problem, settings):
    """`reduced_plan`, with tensors or, where `in_numpy` is true, NumPy arrays."""
    gpu_plan = None if problem.logits.is_cpu and not is_requested("triton") else gpu.known(problem, settings)
    if gpu_plan is not None:
        return gpu_plan
    if not in_numpy(problem, settings):
        return reduced_plan(problem, settings, XP)
    z, arguments = problem.logits, [*problem][1:]
    shape_only = np.broadcast_to(np.zeros((), np.float64 if z.dtype is torch.float64 else np.float32), z.shape)
    arrays = type(problem)(shape_only, *[x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in arguments])
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return with_numbers(reduced_plan(arrays, settings, NUMPY))


def marks_nothing(problem, settings):
    """Whether a mean over no elements becomes NaN by its plan alone: see `Settings.nothing_is_nan`."""
    seen = problem.logits.is_cpu or settings.soft or REQUEST.get() is not None
    return not seen and compat.eligible(problem.logits) and gpu.knows(problem, settings)


def in_numpy(problem, settings):
    """Whether NumPy makes the plan of this call."""
    rows = settings.soft or any(x is not None and x.ndim > 1 for x in (problem.prior, problem.class_mask))
    limit = MAX_LOGITS_ROWS if rows else MAX_LOGITS_NUMPY
    return problem.logits.numel() <= limit and all(
        not isinstance(x, torch.Tensor) or (x.is_cpu and x.dtype in NUMPY_DTYPES) for x in [*problem][1:]
    )


def program(problem, settings, values):
    """`planned` for calls of this kind, as a function of their `values`. None if each call needs `planned` itself."""
    if values is None or not in_numpy(problem, settings):
        return None
    return plan_program(problem.logits.shape, problem.logits.dtype is torch.float64, values, settings)
