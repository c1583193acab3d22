"""The constant of a loss, of which each process has the part of its classes: the entropy that "kl" adds.

It depends on no logits, but on ε and sample weights. Its derivative by these is a sum over the classes, too, which
backward could not make without an exchange. So it is exchanged in forward, beside the constant.
"""

import torch
from torch.autograd.function import once_differentiable


def spread(problem, shape):
    """(the problem, in which each element has its own ε and sample weight where these need a gradient, these two)."""
    learned = {}
    for name in ("label_smoothing", "sample_weight"):
        value = getattr(problem, name)
        if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
            learned[name] = value.expand(shape)
    return problem._replace(**learned), tuple(learned.values())


def numbers_of(const, learned, shape):
    """The part of the constant, and its derivative by what of an element is learned: numbers that add up."""
    const, slopes = const.expand(shape), ()
    if const.requires_grad:
        slopes = torch.autograd.grad(const.sum(), learned, retain_graph=True)
    return const.detach(), *slopes


def whole(numbers, learned):
    """The constant, from the numbers of all classes."""
    const, *slopes = numbers
    return WithSlopes.apply(const, len(slopes), *slopes, *learned) if slopes else const


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
