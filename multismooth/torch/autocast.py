"""What an enabled autocast does to the tensors of a layer and of a loss: torch's own rules, for code of our own."""

from contextlib import nullcontext

import torch


def autocasting(device):
    """Whether autocast is on for this kind of device; some kinds (meta) have none."""
    kind = device.type
    return (kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)


def layer_dtype(tensor):
    """The dtype in which a linear layer meets a tensor; autocast leaves float64 alone."""
    if tensor.dtype is torch.float64 or not (tensor.dtype.is_floating_point and autocasting(tensor.device)):
        return tensor.dtype
    return torch.get_autocast_dtype(tensor.device.type)


def loss_dtype(tensor):
    """The dtype in which a loss meets a tensor: cross-entropy is on autocast's list of what runs in float32."""
    if tensor.dtype is torch.float64 or not (tensor.dtype.is_floating_point and autocasting(tensor.device)):
        return tensor.dtype
    return torch.float32


def without(device):
    """A context in which autocast is off."""
    return torch.autocast(device.type, enabled=False) if autocasting(device) else nullcontext()
