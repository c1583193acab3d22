"""Given logits on a GPU, in Triton's kernels: what they can compute, how a layout is seen, which tile it gets.

`triton` is the kernel for `kernels.KERNELS`. `losses` and `gradient` are its two halves, for whoever keeps two numbers
per element between them. Nothing here waits for the device, and all of it can be captured in a CUDA graph.
"""

import math
import os
from functools import lru_cache
from typing import NamedTuple

import torch

from multismooth.torch.namespace import float_of

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
PIECE = 16  # bytes of the widest access; its logits share a running maximum, which is one exponential more for them
WARP = 32
REGISTERS = 64  # of a thread, that two blocks of 512 are at home on a multiprocessor: one reads while another computes

# Logits of a tile, of which a thread takes 32.
SIDE = 2**12  # of several elements
HELD = 2**14  # of one element, in a block of threads
LONE = 2**15  # as many as a block can hold; then it is alone
SCAN = 2**13  # of a part of an element that is too long to be held
CLUSTER = 16  # blocks that share an element, at most
FEW = 2**8  # classes that are held where the elements lie side by side
WIDE = 2**7  # elements of such a tile, if the classes are more
AGAIN = 2**17  # classes of a row that is read twice by one kernel: a row for each multiprocessor still fits into L2


@lru_cache
def compiled():
    """The kernels, or None where Triton is not installed."""
    try:
        from multismooth.torch.gpu import kernels
    except ImportError:
        return None
    return kernels


def interpreted():
    """Whether Triton's kernels run in its interpreter, on a CPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device(tensor):
    """Whether the kernels run where a tensor is: on NVIDIA's GPUs, which ROCm's look like to PyTorch."""
    if tensor.is_cuda:
        there = torch.version.hip is None and torch.cuda.get_device_capability(tensor.device) >= (8, 0)
    else:
        there = tensor.is_cpu and interpreted()
    return there and compiled() is not None


def fits(logits, plan, axis):
    """Whether the kernels compute a call of such tensors: labels, and rows that are one for all elements."""
    if logits.dtype not in DTYPES or plan.u is not None or logits.numel() == 0:
        return False
    return all(row is None or shared(row, logits.shape[axis], axis) for row in (plan.v, plan.mask))


def supports(logits, plan, axis):
    """Whether the kernels are there and compute a call of these tensors."""
    return fits(logits, plan, axis) and device(logits)


def shared(row, classes, axis):
    """Whether a row that broadcasts to the logits is one for all elements."""
    return math.prod(row.shape) == classes == row.shape[axis]


@lru_cache
def clusters(device):
    """How many blocks may share a row: on chips where they see each other's memory, if Triton knows."""
    apt = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)
    return CLUSTER if apt and knows_clusters() else 1


def knows_clusters():
    """Whether this Triton compiles reductions over several blocks; up to 3.7 its compiler fails."""
    from triton import __version__

    return tuple(int(part) for part in __version__.split(".")[:2]) >= (3, 8)


# --- layouts ---------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """(B, K, P) and the strides (of B, P, K) of the logits and of their gradient."""

    items: int
    classes: int
    side: int
    read: tuple[int, int, int]
    written: tuple[int, int, int]


def without(sequence, axis):
    axis %= len(sequence)
    return tuple(entry for place, entry in enumerate(sequence) if place != axis)


@lru_cache(1024)
def layout(shape, axis, *strides):
    """The Layout of arrays of one shape, or None where their elements need more than two axes."""
    axes: list[tuple[int, ...]] = []
    for size, *steps in zip(*(without(sequence, axis) for sequence in (shape, *strides)), strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1:] == tuple(size * step for step in steps):
            size *= axes.pop()[0]
        axes.append((size, *steps))
    if len(axes) > 2:
        return None
    (items, *first), (side, *second) = [(1, *(0,) * len(strides))] * (2 - len(axes)) + axes
    read, *written = ((b, p, steps[axis]) for b, p, steps in zip(first, second, strides, strict=True))
    return Layout(items, shape[axis], side, read, *(written or [read]))


def seen(logits, axis, with_gradient, out):
    """(logits, memory for their gradient or None, Layout): what was given, or contiguous copies."""
    target = (out if writable(out, logits) else torch.empty_like(logits)) if with_gradient else None
    found = layout(logits.shape, axis, logits.stride(), *(() if target is None else (target.stride(),)))
    if found is None:
        return seen(logits.contiguous(), axis, with_gradient, None)
    return logits, target, found


def writable(out, logits):
    """Whether the gradient can be written to the caller's tensor: no memory of the logits, or exactly theirs."""
    if out is None or not (out.is_contiguous() or (out.stride() == logits.stride() and 0 not in out.stride())):
        return False
    if out.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr():
        return True
    return out.data_ptr() == logits.data_ptr() and out.stride() == logits.stride()


# --- tiles -----------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """ROWS, COLS and GROUP of a kernel, warps of a block, blocks of a cluster; `vec` and `edge` as VEC and EDGE."""

    rows: int
    cols: int
    group: int
    warps: int
    ctas: int = 1
    vec: int = 1
    edge: int = 0


def power(number):
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def sized(rows, cols, group):
    """A Tile with 32 logits for a thread."""
    return Tile(rows, cols, group, min(max(rows * cols // 2**10, 1), 32))


def held(at, itemsize, most):
    """The Tile that holds all classes of its elements, or None if they are too many."""
    cols, apart = power(at.classes), at.read[2] != 1
    least, fits = (WARP if apart else 1), HELD * 4 // max(itemsize, 4)
    rows = min(max(SIDE // cols, least), power(at.side))
    if cols <= (FEW if apart else fits):
        return sized(rows, cols, 0)
    if apart or cols > fits * max(most, LONE // HELD):
        return None
    return sized(1, fits, 0)._replace(cols=cols, ctas=cols // fits) if cols <= fits * most else sized(1, cols, 0)


def parts(at, itemsize, size):
    """The Tile of `size` logits that takes its elements' classes in turn."""
    apart = at.read[2] != 1
    rows = min(power(at.side), WIDE if apart else max(size // power(at.classes), 1))
    cols = min(power(at.classes), size // rows)
    return sized(rows, cols, cols if apart else min(PIECE // itemsize, cols))


def pieced(tile, at, tensors):
    """The Tile with wide accesses, if rows of classes lie so that these are possible."""
    steps = [(read, written) for read, written in zip(at.read, at.written, strict=True)]
    vec = PIECE // tensors[0].itemsize
    if steps.pop() != (1, 1) or any(tensor.data_ptr() % PIECE for tensor in tensors):
        return tile
    if all(step % vec == 0 for step in (at.classes, *sum(steps, ()))):
        return tile._replace(vec=min(vec, tile.cols))
    if tile.rows > 1 or tile.cols < 2 * vec or any((read - written) % vec for read, written in steps):
        return tile
    return tile._replace(vec=vec, edge=max(2 * vec, WARP * tile.warps * tile.ctas))


# --- launches --------------------------------------------------------------------------------------------------------


def coefficient(value, shape, logits):
    """(a number, or a tensor with one entry or one per element; None, 0 or 1: how far its entries lie apart)."""
    if isinstance(value, torch.Tensor) and value.is_cpu and value.numel() == 1:
        value = value.item()
    if isinstance(value, (int, float)):
        if logits.dtype is not torch.float64:
            return float(value), None
        value = torch.full((), value, dtype=torch.float64, device=logits.device)  # a number has 32 bits in a kernel
    return (value, 0) if value.numel() == 1 else (value.expand(shape).contiguous(), 1)


class Call:
    """One call of the kernels: `run` launches one, all of which take the same arguments."""

    def __init__(self, logits, plan, axis, with_gradient=True, out=None):
        logits = logits.detach()
        self.elements, self.dtype = without(logits.shape, axis), float_of(logits)
        self.logits, self.target, self.at = seen(logits, axis, with_gradient, out)
        values = (plan.a, plan.b, plan.v_sum, 0.0 if plan.z_loss is None else plan.z_loss)
        values, self.steps = zip(*(coefficient(value, self.elements, logits) for value in values), strict=True)
        active = None if plan.active is None else plan.active.expand(self.elements).contiguous()
        rows = (None if row is None else row.reshape(-1) for row in (plan.v, plan.mask))
        self.plan = ((plan.labels.contiguous(), *values, active), *rows)
        self.lean = logits.itemsize == 2 and plan.v is None and plan.mask is None

    def numbers(self):
        """Memory for one number per element."""
        return torch.empty(self.elements, dtype=self.dtype, device=self.logits.device)

    def run(self, kernel, tile, losses=None, peaks=None, totals=None, apart=1, upstream=None, guard=False):
        """Launch over all elements; `apart`: so many programs share the classes of a tile."""
        at, compute = self.at, "float64" if self.dtype is torch.float64 else "float32"
        tile = pieced(tile, at, [tensor for tensor in (self.logits, self.target) if tensor is not None])
        most = REGISTERS if self.lean and tile.group == 0 and tile.cols >= HELD else None
        with torch.cuda.device_of(self.logits):
            kernel[(at.items * -(-at.side // tile.rows) * apart,)](
                self.logits, self.target, losses, peaks, totals, upstream, *self.plan,
                at.classes, at.side, *at.read, *at.written, self.steps,
                guard, tile.rows, tile.cols, tile.group, tile.vec, tile.edge, getattr(compiled().tl, compute),
                num_warps=tile.warps, num_ctas=tile.ctas, maxnreg=most, enable_fp_fusion=True,
            )  # fmt: skip


def rescaled_(memory, factor):
    """memory·factor in place, without waiting for the factor; where it is 1, nothing is read."""
    whole = memory.untyped_storage().nbytes() == memory.nbytes  # and no gaps, in whatever order
    if not (whole and factor.numel() == 1 and device(memory)) or memory.dtype is torch.float64:
        return memory.mul_(factor)
    programs = min(-(-memory.numel() // SIDE), 8 * processors(memory.device))
    with torch.cuda.device_of(memory):
        compiled().rescale[(programs,)](memory, factor, memory.numel(), SIDE, enable_fp_fusion=True)
    return memory


@lru_cache
def processors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def losses(logits, plan, axis):
    """(per-element losses, peak and total of their logits: lse = peak + log total), from one read."""
    call = Call(logits, plan, axis, with_gradient=False)
    loss, peaks, totals = call.numbers(), call.numbers(), call.numbers()
    call.run(compiled().forward, parts(call.at, logits.itemsize, SCAN), loss, peaks, totals)
    return loss if plan.const is None else loss + plan.const, peaks, totals


def gradient(logits, plan, axis, peaks, totals, out=None, upstream=None, guard=False):
    """The gradient of the summed loss, from one more read and what `losses` found: with any plan for these labels.

    upstream: one number on the device, which multiplies it before it is rounded. guard: `out` holds it already if that
    number is 1, and nothing is read then.
    """
    call = Call(logits, plan, axis, out=out)
    tile, guard = parts(call.at, logits.itemsize, SIDE), guard and call.target is out
    apart = -(-call.at.classes // tile.cols)
    call.run(compiled().backward, tile, None, peaks, totals, apart, upstream, guard)
    return call.target if out is None or call.target is out else out.copy_(call.target)


def triton(logits, plan, axis, with_gradient=True, summed=False, out=None):
    """A kernel of `kernels.KERNELS`."""
    if not with_gradient:
        loss, found = losses(logits, plan, axis)[0], None
    else:
        loss, found, *_ = losses_and_gradient(logits, plan, axis, out)
    return loss.sum() if summed else loss, found


def losses_and_gradient(logits, plan, axis, out=None):
    """(per-element losses, gradient of their sum, peaks, totals) by the kernel that reads the logits least often."""
    call = Call(logits, plan, axis, out=out)
    tile = held(call.at, logits.itemsize, clusters(logits.device))
    if tile is None and call.at.classes > AGAIN:
        loss, *found = losses(logits, plan, axis)
        return loss, gradient(logits, plan, axis, *found, out), *found
    loss, *found = (call.numbers() for _ in range(3))
    call.run(compiled().both, tile or parts(call.at, logits.itemsize, SCAN), loss, *found)
    made = call.target if out is None or call.target is out else out.copy_(call.target)
    return loss if plan.const is None else loss + plan.const, made, *found
