"""PyTorch under the array API's names, with the additions that `multismooth.backend.Backend` lists."""

import array_api_compat.torch as compat
import torch

from multismooth.namespace import Namespace


def float_of(z):
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def constant(value, z):
    """The value as a tensor of the computing dtype; a plain number stays on the CPU, where it may meet any device."""
    if isinstance(value, torch.Tensor):
        return value.to(float_of(z))
    return (
        torch.full((), value, dtype=float_of(z), device=z.device)
        if isinstance(value, float)
        else torch.tensor(value, dtype=float_of(z), device=z.device)
    )


def stop_gradient(x):
    return x.detach()


def pick(z, index, axis):
    return z.gather(axis, index.unsqueeze(axis)).squeeze(axis)


def deposit(z, index, values, axis):
    values = values.expand(index.shape) if isinstance(values, torch.Tensor) else z.new_full(index.shape, values)
    return z.scatter_add(axis, index.unsqueeze(axis), values.unsqueeze(axis))


XP = Namespace(compat, float_of=float_of, constant=constant, stop_gradient=stop_gradient, pick=pick, deposit=deposit)
