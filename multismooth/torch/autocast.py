"""The dtypes that autocast gives the tensors of a layer and of a loss. Autocast does not cast for our own kernels."""

from contextlib import nullcontext

import torch


def autocasting(device):
    """Whether autocast is on for this type of device. Some types (meta) do not support it."""
    kind = device.type
    return (kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)


def layer_dtype(tensor):
    """The dtype of a tensor in a linear layer. Autocast does not cast float64."""
    if tensor.dtype is torch.float64 or not (tensor.dtype.is_floating_point and autocasting(tensor.device)):
        return tensor.dtype
    return torch.get_autocast_dtype(tensor.device.type)


def loss_dtype(tensor):
    """The dtype of a tensor in a loss: cross-entropy is one of the functions that autocast runs in float32."""
    if tensor.dtype is torch.float64 or not (tensor.dtype.is_floating_point and autocasting(tensor.device)):
        return tensor.dtype
    return torch.float32


def without(device):
    """A context in which autocast is off."""
    return torch.autocast(device.type, enabled=False) if autocasting(device) else nullcontext()
