"""Counts what a process gives to the collectives of `torch.distributed`."""

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

COMMUNICATES = ("gather", "reduce", "scatter", "broadcast", "all_to_all", "send")


class Traffic(TorchDispatchMode):
    """Notes the bytes that this rank puts into each collective. `CommDebugMode` counts calls, but no bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # so that what DTensor does inside is seen, too
        name = str(function)
        if name.startswith(("c10d", "_c10d")) and any(word in name for word in COMMUNICATES):
            flat = torch.utils._pytree.tree_leaves((args, kwargs))
            self.bytes.append(min(x.numel() * x.itemsize for x in flat if isinstance(x, torch.Tensor)))
        return function(*args, **(kwargs or {}))
