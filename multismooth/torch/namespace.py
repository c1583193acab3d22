"""PyTorch as an array-API namespace, with the additions that `multismooth.backend.Backend` lists."""

import array_api_compat.torch as compat
import torch

from multismooth.namespace import Namespace


def float_of(z):
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def known(size):
    """Whether a size is a fixed number, and not a compiler's symbol."""
    if type(size) is not int or not torch.compiler.is_compiling():
        return type(size) is int
    shapes = torch.fx.experimental.symbolic_shapes  # PyTorch imports it when it compiles, and it takes long
    # An older torch has no such function. Its compiler then makes a new graph for each size.
    return not hasattr(shapes, "has_static_value") or shapes.has_static_value(size)


def number(size, z):
    """A size to compute with. A symbol becomes a tensor, because no code branches on the value of a tensor."""
    return size if known(size) else torch.full((), size, dtype=float_of(z), device=z.device)


def constant(value, z):
    """The value as a tensor of the computing dtype on the device of z."""
    if isinstance(value, torch.Tensor):
        return astype(value, float_of(z), copy=False)
    return torch.full((), value, dtype=float_of(z), device=z.device)


def astype(x, dtype, copy=True):
    return x.to(dtype, copy=copy) if copy or x.dtype != dtype else x


def stop_gradient(x):
    return x.detach()


def pick(z, index, axis):
    return z.gather(axis, index.unsqueeze(axis)).squeeze(axis)


def highest(z, axis):
    return tuple(torch.max(z, axis))


def deposit(z, index, values, axis):
    values = values.expand(index.shape) if isinstance(values, torch.Tensor) else z.new_full(index.shape, values)
    return z.scatter_add(axis, index.unsqueeze(axis), values.unsqueeze(axis))


def add_rows(table, index, rows):
    return table.index_add(0, index, rows)


def softplus(z):
    """log(1 + e^z), and z itself for z > 40 (an error of 4e-18).

    `logaddexp` is not used, because its second derivative is NaN where e^z overflows.
    """
    return torch.nn.functional.softplus(z, threshold=40.0)


XP = Namespace(
    compat,
    # PyTorch's own take the standard's names of arguments, too. A compiler traces them without compat's Python.
    any=torch.any,
    broadcast_to=torch.broadcast_to,
    expand_dims=torch.unsqueeze,
    max=torch.amax,
    mean=torch.mean,
    min=torch.amin,
    reshape=torch.reshape,
    sum=torch.sum,
    where=torch.where,
    moveaxis=torch.movedim,  # the same function as torch.moveaxis, which vmap does not support
    astype=astype,
    float_of=float_of,
    number=number,
    constant=constant,
    stop_gradient=stop_gradient,
    pick=pick,
    highest=highest,
    deposit=deposit,
    add_rows=add_rows,
    softplus=softplus,
)
