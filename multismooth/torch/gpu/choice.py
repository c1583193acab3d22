"""Which calls Triton's kernels compute, and on which devices. `supports` puts both questions together."""

import math
import os
import warnings
from functools import lru_cache

import torch

from multismooth.torch.compat import without_modes
from multismooth.torch.gpu.dispatch import version

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
MIN_CAPABILITY = (8, 0)  # of NVIDIA's GPUs
MIN_TRITON = (3, 5)  # 3.2 to 3.4 do not compile the kernels
MAX_CLUSTER_BLOCKS = 16  # that share an element, where a GPU has clusters of thread blocks


@lru_cache
def compiled():
    """The module of the kernels, or None where Triton is not installed."""
    try:
        from multismooth.torch.gpu import kernels
    except ImportError:
        return None
    return kernels


def interpreted():
    """Whether Triton's kernels run in its interpreter, on a CPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device(tensor):
    """Whether the kernels run where a tensor is."""
    return (tensor.is_cuda or (tensor.is_cpu and interpreted())) and works_on(tensor.device)


@lru_cache
def works_on(place):
    """Whether the kernels run on a torch.device: the smallest of them is launched there once.

    Where there is no C compiler, or a Triton that is too old or does not suit the GPU, that fails. It is one warning,
    and PyTorch's own operators compute the losses. AMD's GPUs, which PyTorch also calls CUDA devices, are left out.
    """
    if place.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(place) < MIN_CAPABILITY):
        return False
    try:
        if compiled() is None:
            return False
        if not interpreted() and version() < MIN_TRITON:
            raise RuntimeError("Triton {}.{} is older than {}.{}".format(*version(), *MIN_TRITON))
        with without_modes():
            one = torch.ones(1, device=place)
            with torch.cuda.device_of(one):
                compiled().rescale[(1,)](one, one, 1, 1, enable_fp_fusion=True)
    except Exception as error:  # Triton, its compiler and the C compiler raise any kind of exception
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        warnings.warn(
            f"multismooth: Triton's kernels do not run on {place} ({reason}). PyTorch's operators compute the losses, "
            "more slowly. Triton needs a C compiler (apt install gcc) and the version that this PyTorch asks for.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def fits(logits, plan, axis):
    """Whether the kernels compute such a call: the same rows v and mask for all elements."""
    if logits.dtype not in DTYPES or logits.numel() == 0:
        return False
    if plan.u is not None and (plan.u.dtype not in DTYPES or plan.u.shape != logits.shape):
        return False
    return all(row is None or is_one_row(row, logits.shape[axis], axis) for row in (plan.v, plan.mask))


def supports(logits, plan, axis):
    """Whether the kernels are there and compute a call of these tensors."""
    return fits(logits, plan, axis) and device(logits)


def is_one_row(row, classes, axis):
    """Whether an array that broadcasts to the logits has one entry for each class."""
    return math.prod(row.shape) == classes == row.shape[axis]


# --- clusters: thread blocks that see each other's shared memory -----------------------------------------------------


@lru_cache
def max_cluster_blocks(device):
    """How many thread blocks may share an element. It takes a Hopper or Blackwell GPU, and a Triton that knows how."""
    has_clusters = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)
    return MAX_CLUSTER_BLOCKS if has_clusters and compiles_clusters() else 1


def compiles_clusters():
    """Whether this Triton compiles our reductions over several blocks. Up to Triton 3.8 its compiler fails."""
    return version() >= (3, 9)
