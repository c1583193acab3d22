"""The loss and gradient of one chunk of large logits on a CPU, by PyTorch's kernels.

It makes as few passes over memory as possible, all but one of them in cache: Σ v·z, softmax into a scratch buffer, p at
the label, and one pass from the scratch buffer into the gradient.
    nll = −log p_y,   lse = z_y + nll,   smooth = Σv·lse − Σ v·z
These formulas are not exact enough for some elements, which `Fallback` computes again: p_y underflows, or a common
offset of the logits is large against their differences, or a value is not finite.

Measured per million logits, two threads (µs): softmax 300, exp 430, logsumexp 600, where 300,
add or multiply 40, sum 35.
"""

import math

import torch

from multismooth import spec
from multismooth.cpu.buffers import SCRATCH
from multismooth.cpu.chunks import Fallback
from multismooth.plan import shared
from multismooth.torch.namespace import XP, float_of

# Logits per chunk: 8 MiB with the scratch buffer, a share of the last cache level. Half or twice is no faster.
CHUNK_LOGITS = 2**20
# At this many classes or more, softmax's own sum (sixteen running sums) is computed again, because it is inexact (2e-5
# off at 128,256 classes).
MIN_CLASSES_SUMMED_AGAIN = 4096
# With fewer absent classes than one in 16, they are filled in one by one; else −inf is added to all entries. To fill
# an entry costs as much as to add ten.
CLASSES_PER_ABSENT = 16
# An element is inexact if |Σ v·z| is more than 4 times the smoothing term: the offset takes the digits of float32.
MAX_OFFSET_RATIO = 4.0


def weighted_sum(p, v):
    """Σ v·p per element."""
    if v is None:
        return p.sum(1).div_(p.shape[1])
    if not shared(v):
        return (p * v).sum(1)
    row = v.view(-1)
    return torch.mv(p, row) if p.ndim == 2 else torch.matmul(row, p)


def average(p, v):
    """Σ v·z per element. For infinite logits 0·inf is 0; else the element is inexact."""
    total = weighted_sum(p, v)
    return total if v is None or bool(total.isfinite().all()) else (p.nan_to_num() * v).sum(1)


def absent(mask):
    """The indices of the absent classes, if they are few and the same for all elements. Otherwise None."""
    if mask is None or not shared(mask):
        return None
    numbers = (~mask.view(-1)).nonzero().view(-1)
    return numbers if len(numbers) * CLASSES_PER_ABSENT < mask.numel() else None


def stage(z, plan, p):
    """Copy the chunk into p, cast and contiguous, with −inf at absent classes. Returns Σ v·z; None without smoothing.

    A copy costs as much as a first sum over z, because both wait for memory. The operations after it are in cache (µs:
    copy 160, then sum 30 or a product with a row 70, softmax 285; from z itself 145, 230, 335). A logit of NaN or +inf
    at an absent class may give NaN: such an element is inexact.
    """
    p.copy_(z)
    few = absent(plan.mask)
    if few is not None:
        p.index_fill_(1, few, 0.0)
    mean = average(p, plan.v) if isinstance(plan.b, torch.Tensor) or plan.b != 0.0 else None
    if few is not None:
        p.index_fill_(1, few, -math.inf)
    elif plan.mask is not None and shared(plan.mask):
        p.add_(p.new_zeros(plan.mask.shape).masked_fill_(~plan.mask, -math.inf))
    elif plan.mask is not None:
        p.masked_fill_(~plan.mask, -math.inf)
    return mean


def gradient(p, total, lse, plan, index, out):
    """Write `spec.gradient` to `out`, of any dtype and layout. p is softmax as PyTorch returns it, that is p·total."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    if plan.z_loss is not None:
        height = height + 2 * plan.z_loss * lse
    if total is not None:
        height = height / total
    g = out if out.dtype is p.dtype and out.is_contiguous() else p
    p.mul_(spec.wide(height, 1, XP))  # in cache: one call for both steps, with two columns, takes 1.6 times as long
    b, v = spec.wide(plan.b, 1, XP), 1 / p.shape[1] if plan.v is None else plan.v
    if isinstance(b, torch.Tensor) and isinstance(v, torch.Tensor):
        torch.addcmul(p, b, v, value=-1, out=g)
    else:
        torch.sub(p, b * v, out=g)
    label_term = plan.a.neg() if isinstance(plan.a, torch.Tensor) else p.new_tensor(-plan.a).expand(plan.labels.shape)
    g.scatter_add_(1, index, label_term.unsqueeze(1))
    if g is not out:
        out.copy_(g)


def kernel(z, plan, out):
    """(lse, nll, smooth) of a chunk, its gradient written to `out`: see `multismooth.cpu.chunks`."""
    dtype, classes = float_of(z), z.shape[1]
    p = torch.from_numpy(SCRATCH.take(z.numel() * dtype.itemsize)).view(dtype).view(z.shape)
    index = plan.labels.unsqueeze(1)
    mean = stage(z, plan, p)
    z_y = p.gather(1, index).squeeze(1)
    torch.softmax(p, 1, out=p)
    p_y = p.gather(1, index).squeeze(1)
    total = p.sum(1) if p.ndim == 2 and classes >= MIN_CLASSES_SUMMED_AGAIN else None
    nll = (p_y if total is None else p_y / total).log().neg_()
    lse = z_y + nll
    smooth = torch.zeros_like(nll) if mean is None else lse * plan.v_sum - mean
    exact = p_y > 64 * torch.finfo(dtype).tiny
    if mean is not None:
        exact &= mean.abs() <= MAX_OFFSET_RATIO * smooth
    inexact = None if bool(exact.all()) else Fallback(z, plan, ~exact, out is not None, XP)
    if out is not None:
        gradient(p, total, lse, plan, index, out)
    if inexact is not None:
        inexact.put((lse, nll, smooth), out)
    return lse, nll, smooth
