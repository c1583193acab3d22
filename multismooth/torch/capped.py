"""A soft cap for the kernels of PyTorch tensors: see `multismooth.cpu.capped`. Triton's kernels have their own."""

from functools import partial

from multismooth.cpu import capped
from multismooth.cpu import choice as cpu
from multismooth.cpu.layout import layout_of
from multismooth.torch.cpu_kernels import as_numpy, memory, plan_as_tensors, stored
from multismooth.torch.namespace import XP


def by_blocks(kernel, logits, plan, axis, with_gradient=True, summed=False, out=None, upstream=1.0):
    """A kernel of `multismooth.torch.choice`, made of another one that knows no cap."""
    logits, tensors = logits.detach(), plan_as_tensors(plan)
    if not logits.is_cpu or logits.numel() <= capped.BLOCK:

        def whole(z, _, axis, with_gradient, own):
            return kernel(z, plan._replace(softcap=None), axis, with_gradient)

        losses, gradient = capped.in_one_block(whole, logits, tensors, axis, with_gradient, XP)
        return losses.sum() if summed else losses, stored(gradient, logits, out, upstream)
    gradient = None
    if with_gradient:
        layout = layout_of(logits, axis)
        fits = out is not None and cpu.fits(layout, as_numpy(logits), as_numpy(out))
        gradient = out if fits else layout.as_logits(memory(logits, logits.dtype), XP)

    def block(z, plan, axis, with_gradient, own):
        return kernel(z, plan._replace(softcap=None), axis, with_gradient, out=own)

    losses = capped.evaluate(block, logits, tensors, axis, XP, gradient, upstream)
    if out is not None and gradient is not out:
        gradient = out.copy_(gradient)
    return losses.sum() if summed else losses, gradient


def kernel_with_cap(kernel, plan):
    """The kernel itself, or one that caps the logits where the plan says so."""
    return kernel if plan.softcap is None else partial(by_blocks, kernel)
