"""The plan of a call of PyTorch tensors: in NumPy where a problem is small and its memory is NumPy's too, in one launch
on a GPU where it is an everyday one (`gpu_plans`), and by the text of `spec`.

Weights, masks or ignored labels make a plan twenty operations on a few arrays of the elements' size, of which one costs
three to six µs in PyTorch and one in NumPy: at (64, 100) a loss and its gradient with ignored labels take 306 µs
instead of 373, with sample weights 358 instead of 498.
"""

import numpy as np
import torch

from multismooth.cpu.kernels import without_warnings
from multismooth.namespace import XP as NUMPY
from multismooth.problem import Usual
from multismooth.reduction import reduced_plan
from multismooth.torch.gpu import plans
from multismooth.torch.namespace import XP

SMALL = 2**22  # logits; beyond, nobody notices
SHARED = (torch.float32, torch.float64, torch.int64, torch.bool)


def planned(problem, settings):
    """`reduced_plan` in tensors and plain numbers."""
    found = plans.known(problem, settings)
    if found is not None:
        return found
    if type(settings) is Usual or settings.soft or problem.logits.numel() > SMALL or not all(map(shared, problem)):
        return reduced_plan(problem, settings, XP)
    theirs = type(problem)(*[x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in problem])
    plan = without_warnings(reduced_plan)(theirs, settings, NUMPY)
    inputs = [(array, tensor) for array, tensor in zip(theirs, problem, strict=True) if isinstance(array, np.ndarray)]
    return type(plan)(*[given(x, inputs) if isinstance(x, (np.ndarray, np.generic)) else x for x in plan])


def shared(value):
    return not isinstance(value, torch.Tensor) or (value.is_cpu and value.dtype in SHARED)


def given(value, inputs):
    """An array or a number of NumPy's as a tensor or number of its own.

    An input is the caller's tensor again, whose changes autograd notices. What lies in the memory of one is copied.
    """
    if value.ndim == 0 and value.dtype.kind == "f":
        return float(value)
    value = np.asarray(value)
    for array, tensor in inputs:
        if value is array:
            return tensor.detach()
    borrowed = value.base is not None and any(np.may_share_memory(value, array) for array, _ in inputs)
    return torch.from_numpy(value.copy() if borrowed or not value.flags.writeable else value)
