"""PyTorch under the array API's names, with the additions that `multismooth.backend.Backend` lists."""

import array_api_compat.torch as compat
import torch

from multismooth.namespace import Namespace

try:
    from torch.fx.experimental.symbolic_shapes import has_static_value
except ImportError:  # an older torch, whose compiler is asked nothing and makes another graph for another size

    def has_static_value(a):  # type: ignore[misc]
        return True


def float_of(z):
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def known(size):
    """Whether a size is a number, and no symbol that a compiler has for it."""
    return type(size) is int and (not torch.compiler.is_compiling() or has_static_value(size))


def number(size, z):
    """A symbol is computed with as a tensor, on whose value no code branches."""
    return size if known(size) else torch.full((), size, dtype=float_of(z), device=z.device)


def constant(value, z):
    """The value as a tensor of the computing dtype on the device of z."""
    if isinstance(value, torch.Tensor):
        return value.to(float_of(z))
    if isinstance(value, list):
        return torch.tensor(value, dtype=float_of(z), device=z.device)
    return torch.full((), value, dtype=float_of(z), device=z.device)


def stop_gradient(x):
    return x.detach()


def pick(z, index, axis):
    return z.gather(axis, index.unsqueeze(axis)).squeeze(axis)


def deposit(z, index, values, axis):
    values = values.expand(index.shape) if isinstance(values, torch.Tensor) else z.new_full(index.shape, values)
    return z.scatter_add(axis, index.unsqueeze(axis), values.unsqueeze(axis))


def softplus(z):
    """Its z beyond 40 (an error of 4e-18). The second derivative of `logaddexp` is NaN where e^z overflows."""
    return torch.nn.functional.softplus(z, threshold=40.0)


XP = Namespace(
    compat,
    moveaxis=torch.movedim,  # the same; under the other name vmap does not know it
    float_of=float_of,
    number=number,
    constant=constant,
    stop_gradient=stop_gradient,
    pick=pick,
    deposit=deposit,
    softplus=softplus,
)
