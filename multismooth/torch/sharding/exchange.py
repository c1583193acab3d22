"""What the processes of a group exchange: sums, and the Statistics of their classes.

Collectives are the functional ones, which `torch.compile` traces. Results are merged alike on every rank, in the order
of the ranks, so all ranks get the same bits.
"""

import torch
from torch.distributed import _functional_collectives as functional


def summed(total, group):
    """The sum of a number over the ranks of a group."""
    total = total if isinstance(total, torch.Tensor) else torch.tensor(total, dtype=torch.float64)
    return functional.wait_tensor(functional.all_reduce(total, "sum", group))
