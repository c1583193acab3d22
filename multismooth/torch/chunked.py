"""A chunk of large logits on a CPU in PyTorch's own kernels: the fewest passes, all but one of them in cache.

Σ v·z, softmax into a scratch, p at the label, and one pass from the scratch into the gradient:
    nll = −log p_y,   lse = z_y + nll,   smooth = Σv·lse − Σ v·z
Elements for which that is not exact enough are odd: p_y underflows, or a common offset of the logits drowns their
differences, or something is not finite.

Measured per million logits, two threads (µs): softmax 300, exp 430, logsumexp 600, where 300,
add or multiply 40, sum 35.
"""

import math

import torch

from multismooth import spec
from multismooth.buffers import Kept
from multismooth.chunks import Odd
from multismooth.frame import shared
from multismooth.torch.namespace import XP, float_of

ENTRIES = 2**20  # of a chunk: 8 MiB with the scratch, a share of the last cache level; half or twice is no faster
LONG = 4096  # from here on softmax's own sum (sixteen running ones) is worth repeating: 2e-5 off at 128,256 classes
DROWNED = 4.0  # |Σ v·z| beyond so many times the smoothing term: float32 has spent its digits on the offset
SCRATCH = Kept()


def staged(z, plan, p):
    """The chunk with absent classes at −inf, cast and in order: a copy in p, or itself if that is how it is.

    A logit that is NaN or +inf where it should be absent leaves a NaN: such an element is odd.
    """
    if plan.mask is None:
        return z if z.dtype is p.dtype and z.is_contiguous() else p.copy_(z)
    if not shared(plan.mask):
        return p.copy_(z).masked_fill_(~plan.mask, -math.inf)
    absent = torch.zeros(plan.mask.shape, dtype=p.dtype).masked_fill_(~plan.mask, -math.inf)
    return torch.add(z, absent, out=p)


def weighted_sum(z, v, p):
    """Σ v·z, with p for a scratch. An infinite logit counts as a huge one: 0·inf is 0, and anything else drowns."""
    rows = z.ndim == 2 and shared(v) and z.dtype is v.dtype
    total = torch.mv(z, v[0]) if rows else torch.mul(z, v, out=p).sum(1)
    return total if bool(total.isfinite().all()) else torch.mul(z.nan_to_num(), v, out=p).sum(1)


def gradient(p, total, lse, plan, index, out):
    """`spec.gradient` from p·total, the softmax as it came; `out` may have any dtype and layout."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    if plan.zeta is not None:
        height = height + 2 * plan.zeta * lse
    if total is not None:
        height = height / total
    g = out if out.dtype is p.dtype and out.is_contiguous() else p
    b, v = spec.wide(plan.b, 1, XP), 1 / p.shape[1] if plan.v is None else plan.v
    if isinstance(b, torch.Tensor) and isinstance(v, torch.Tensor):
        torch.mul(p, spec.wide(height, 1, XP), out=g).addcmul_(b, v, value=-1)
    else:  # what is subtracted is a row or a column: one pass. A number is 1.5 times slower than a row of it
        away = -b * v
        away = away if isinstance(away, torch.Tensor) else p.new_full((1, p.shape[1], *(1,) * (p.ndim - 2)), away)
        if isinstance(height, float):
            torch.add(away, p, alpha=height, out=g)
        else:
            torch.addcmul(away, p, spec.wide(height, 1, XP), out=g)
    own = plan.a.neg() if isinstance(plan.a, torch.Tensor) else p.new_tensor(-plan.a).expand(plan.labels.shape)
    g.scatter_add_(1, index, own.unsqueeze(1))
    if g is not out:
        out.copy_(g)


def kernel(z, plan, out):
    """(lse, nll, smooth) of a chunk, its gradient written to `out`: see `multismooth.chunks`."""
    dtype, classes = float_of(z), z.shape[1]
    p = torch.from_numpy(SCRATCH.take(z.numel() * dtype.itemsize)).view(dtype).view(z.shape)
    index, mean = plan.labels.unsqueeze(1), None
    if isinstance(plan.b, torch.Tensor) or plan.b != 0.0:
        mean = z.sum(1, dtype=dtype).div_(classes) if plan.v is None else weighted_sum(z, plan.v, p)
    source = staged(z, plan, p)
    own = source.gather(1, index).squeeze(1)
    torch.softmax(source, 1, out=p)
    p_y = p.gather(1, index).squeeze(1)
    total = p.sum(1) if p.ndim == 2 and classes >= LONG else None
    nll = (p_y if total is None else p_y / total).log().neg_()
    lse = own + nll
    smooth = torch.zeros_like(nll) if mean is None else lse * plan.v_sum - mean
    good = p_y > 64 * torch.finfo(dtype).tiny
    if mean is not None:
        good &= mean.abs() <= DROWNED * smooth
    odd = None if bool(good.all()) else Odd(z, plan, ~good, out is not None, XP)
    if out is not None:
        gradient(p, total, lse, plan, index, out)
    if odd is not None:
        odd.put((lse, nll, smooth), out)
    return lse, nll, smooth
