"""The plan of a call of tensors, and its replay for calls of one kind.

Weights, masks or ignored labels make a plan twenty operations on arrays with an entry for each element. One of them
takes PyTorch three to six µs and NumPy one, so on a CPU they are NumPy's, on the memory that both share. On a GPU an
everyday plan is one launch (`gpu.plans`).
"""

import numpy as np
import torch

from multismooth.implementations import is_requested
from multismooth.namespace import XP as NUMPY
from multismooth.plan import with_numbers
from multismooth.recording import plan_program
from multismooth.reduction import reduced_plan
from multismooth.torch.gpu import plans as gpu
from multismooth.torch.namespace import XP

MAX_LOGITS_NUMPY = 2**22  # of a problem whose plan is made by NumPy: beyond, what it saves is not noticed
MAX_LOGITS_ROWS = 2**16  # the same where the plan has rows of its own for each element, which threads share in PyTorch
SHARED = (torch.float32, torch.float64, torch.int64, torch.bool)


def planned(problem, settings):
    """`reduced_plan` in plain numbers and tensors, or NumPy's arrays where `in_numpy`."""
    found = None if problem.logits.is_cpu and not is_requested("triton") else gpu.known(problem, settings)
    if found is not None:
        return found
    if not in_numpy(problem, settings):
        return reduced_plan(problem, settings, XP)
    z, arguments = problem.logits, [*problem][1:]
    shape_only = np.broadcast_to(np.zeros((), np.float64 if z.dtype is torch.float64 else np.float32), z.shape)
    arrays = type(problem)(shape_only, *[x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in arguments])
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return with_numbers(reduced_plan(arrays, settings, NUMPY))


def in_numpy(problem, settings):
    """Whether NumPy makes the plan of these tensors."""
    rows = settings.soft or any(x is not None and x.ndim > 1 for x in (problem.prior, problem.class_mask))
    limit = MAX_LOGITS_ROWS if rows else MAX_LOGITS_NUMPY
    return problem.logits.numel() <= limit and all(
        not isinstance(x, torch.Tensor) or (x.is_cpu and x.dtype in SHARED) for x in [*problem][1:]
    )


def program(problem, settings, values):
    """`planned` for calls like this one, as a function of `values`; None if they need `planned` itself.

    `values` are the Problem's fields behind the logits, as NumPy sees them.
    """
    if values is None or not in_numpy(problem, settings):
        return None
    return plan_program(problem.logits.shape, problem.logits.dtype is torch.float64, values, settings)
