"""The constant of a loss, of which each process has the part of its classes: the entropy that "kl" adds.

It depends on no logits, but on ε and sample weights. Its derivative by these is a sum over the classes, too, which
backward could not make without an exchange. So it is exchanged in forward, beside the constant.
"""

import torch
from torch.autograd.function import once_differentiable

from multismooth.errors import complain


def learned(value):
    """Whether a derivative by this argument may be asked for."""
    return isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled()


def spread(problem, shape):
    """(the problem, in which each element has its own ε and sample weight where these need a gradient, these two)."""
    arguments = {name: getattr(problem, name) for name in ("label_smoothing", "sample_weight")}
    own = {name: value.expand(shape) for name, value in arguments.items() if learned(value)}
    return problem._replace(**own), tuple(own.values())


def numbers_of(const, inputs, shape):
    """The part of the constant, and its derivatives by some inputs per element: numbers that add up."""
    const, slopes = const.expand(shape), ()
    if const.requires_grad:
        if torch.compiler.is_compiling():
            remedy = "Pass label_smoothing.detach() and sample_weight.detach(), or call it outside of torch.compile."
            got = "one with a gradient by label_smoothing or sample_weight"
            raise complain("convention", 'an objective "kl" of rows in parts that is constant', got, remedy)
        slopes = torch.autograd.grad(const.sum(), inputs, retain_graph=True)
    return const.detach(), *slopes


def whole(numbers, inputs):
    """The constant, from the numbers of all classes."""
    const, *slopes = numbers
    return WithSlopes.apply(const, len(slopes), *slopes, *inputs) if slopes else const


class WithSlopes(torch.autograd.Function):
    """A number per element whose derivatives by some inputs are known."""

    @staticmethod
    def forward(ctx, value, count, *slopes_and_inputs):
        ctx.save_for_backward(*slopes_and_inputs[:count])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        slopes = ctx.saved_tensors
        return None, None, *(None for _ in slopes), *(upstream * slope for slope in slopes)
