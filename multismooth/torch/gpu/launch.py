"""The launches of Triton's kernels: losses, gradients, or both of logits on a GPU.

`triton` is the kernel of that name in `multismooth.torch.choice`. `losses` and `gradient` are its two halves, for a
caller who keeps two numbers per element (peak and total) between them. Nothing here waits for the device, and a CUDA
graph can capture all of it. Modules outside this folder find what they need of `gpu.choice` here too.
"""

from functools import lru_cache

import torch

from multismooth.torch.gpu import choice, tiles
from multismooth.torch.gpu.choice import device, fits, interpreted, supports
from multismooth.torch.gpu.layout import arranged, without_axis
from multismooth.torch.namespace import float_of

__all__ = [
    "device",
    "fits",
    "gradient",
    "guarded",
    "guards",
    "interpreted",
    "losses",
    "losses_and_gradient",
    "rescaled_",
    "supports",
    "triton",
]

# Registers per thread. At 64, two blocks of 512 threads fit on one multiprocessor, so one loads while the other
# computes.
REGISTERS_FOR_TWO_BLOCKS = 64

MAX_GRID_AXIS = 2**15  # of the axes 1 and 2 of a grid; CUDA allows 65,535

# Up to these numbers of logits and tiles, the last program adds up the losses. It spares a launch, but every program
# waits a microsecond until its gradient is written. Of a larger problem PyTorch adds them up, while nobody waits.
MAX_LOGITS_ADDED_UP = 2**24
MAX_TILES_ADDED_UP = 2**14

RESCALE_BLOCK = 2**12  # numbers that a program of `rescale` takes at a time
GUARD_BLOCK = 2**10  # numbers of each argument that a program of `guard` takes
MAX_GUARDED = 5  # arguments

RESCALE_PROGRAMS = 8  # for each multiprocessor, at most


def coefficient(value, shape, logits):
    """(a number or a tensor, STEP): None for a number, 0 for a tensor of one entry, 1 for one entry per element."""
    if value is None:
        return None, None
    if isinstance(value, torch.Tensor) and value.is_cpu and value.numel() == 1:
        value = value.item()
    if isinstance(value, (int, float)):
        if logits.dtype is not torch.float64:
            return float(value), None
        value = torch.full((), value, dtype=torch.float64, device=logits.device)  # a number has 32 bits in a kernel
    return (value, 0) if value.numel() == 1 else (value.expand(shape).contiguous(), 1)


def grid_of(tiles, programs):
    """Programs that share a tile's elements on axis 0, tiles on axes 1 and 2, which are shorter than axis 0."""
    return programs, min(tiles, MAX_GRID_AXIS), -(-tiles // MAX_GRID_AXIS)


def upstream_of(value, shape):
    """`coefficient` of an upstream gradient: a tensor of one number, or of one for each element."""
    if value.numel() == 1 or not any(value.stride()):  # as `expand` makes it, of a sum's
        return value.as_strided((), ()), 0
    return value.expand(shape).contiguous(), 1


class Call:
    """The arguments of one call as the kernels take them, and a method for each kernel, which takes the tile.

    summed: the sum of the losses is asked for in their place. dtype: of the losses or their sum.
    """

    def __init__(self, logits, plan, axis, with_gradient=True, out=None, summed=False, dtype=None):
        logits = logits.detach()
        self.elements, self.dtype = without_axis(logits.shape, axis), float_of(logits)
        self.summed, self.loss_dtype = summed, dtype or self.dtype
        self.const, self.ticket = plan.const, getattr(plan, "ticket", None)
        self.logits, self.gradient, self.layout = arranged(logits, axis, with_gradient, out)
        values = (plan.a, plan.b, plan.v_sum, plan.z_loss, plan.softcap)
        values, self.steps = zip(*(coefficient(value, self.elements, logits) for value in values), strict=True)
        active = None if plan.active is None else plan.active.expand(self.elements).contiguous()
        rows = (None if row is None else row.reshape(-1) for row in (plan.v, plan.mask))
        *values, softcap = values
        self.plan = ((plan.labels.contiguous(), *values, active, softcap), *rows)
        self.needs_few_registers = logits.itemsize == 2 and plan.v is None and plan.mask is None

    def losses(self, kernel, tile, keeps=True):
        """(losses or their sum, peaks, totals), by `forward` or `both`. keeps: else the losses alone.

        `both` writes `self.gradient`, too.
        """
        number = self._tiles(tile)
        peaks, totals = (self._empty(self.elements) if keeps else None for _ in range(2))
        few = self.logits.numel() <= MAX_LOGITS_ADDED_UP and number <= MAX_TILES_ADDED_UP
        if self.summed and self.ticket is not None and self.const is None and few and tile.ctas == 1:
            total = self._empty((), self.loss_dtype)
            self._launch(kernel, tile, self._empty(number), peaks, totals, total, self.ticket)
            return total, peaks, totals
        is_result = not self.summed and self.const is None
        loss = self._empty(self.elements, self.loss_dtype if is_result else None)
        self._launch(kernel, tile, loss, peaks, totals)
        if not is_result:
            loss = loss if self.const is None else loss + self.const
            loss = (loss.sum() if self.summed else loss).to(self.loss_dtype)
        return loss, peaks, totals

    def backward(self, tile, peaks, totals, upstream=None, skip_if_one=False):
        """Write `self.gradient`, from what `losses` found. Several programs share an element's classes."""
        step = None
        if upstream is not None:
            upstream, step = upstream_of(upstream, self.elements)
        programs = -(-self.layout.classes // tile.cols)
        more = {"programs_per_element": programs, "upstream": upstream, "step": step, "skip_if_one": skip_if_one}
        self._launch(choice.compiled().backward, tile, None, peaks, totals, **more)

    def gradient_in(self, out):
        """The gradient, copied to the caller's tensor where a kernel could not write to it."""
        return self.gradient if out is None or self.gradient is out else out.copy_(self.gradient)

    def _tiles(self, tile):
        return self.layout.batch * -(-self.layout.positions // tile.rows)

    def _empty(self, shape, dtype=None):
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.logits.device)

    def _launch(
        self, kernel, tile, losses, peaks, totals, total=None, ticket=None, programs_per_element=1, upstream=None,
        step=None, skip_if_one=False,
    ):  # fmt: skip
        kernels, at = choice.compiled(), self.layout
        compute = kernels.tl.float64 if self.dtype is torch.float64 else kernels.tl.float32
        tensors = [tensor for tensor in (self.logits, self.gradient) if tensor is not None]
        tile = tiles.with_wide_accesses(tile, at, tensors)
        long_resident = tile.group == 0 and tile.cols >= tiles.MAX_TILE_TWO_BLOCKS
        registers = REGISTERS_FOR_TWO_BLOCKS if self.needs_few_registers and long_resident else None
        with torch.cuda.device_of(self.logits):
            kernel[grid_of(self._tiles(tile), programs_per_element)](
                self.logits, self.gradient, losses, peaks, totals, total, ticket, upstream, *self.plan,
                at.batch, at.classes, at.positions, *at.logits_strides, *at.gradient_strides, (*self.steps, step),
                skip_if_one, tile.rows, tile.cols, tile.group, tile.ctas, tile.vec, tile.edge, compute,
                num_warps=tile.warps, num_ctas=tile.ctas, maxnreg=registers, enable_fp_fusion=True,
            )  # fmt: skip


# --- losses and gradients --------------------------------------------------------------------------------------------


def triton(logits, plan, axis, with_gradient=True, summed=False, out=None):
    """(losses or their sum, gradient of their sum or None): a kernel as `multismooth.torch.choice` calls it."""
    if not with_gradient:
        return losses(logits, plan, axis, summed, keeps=False)[0], None
    return losses_and_gradient(logits, plan, axis, out, summed, keeps=False)[:2]


def losses(logits, plan, axis, summed=False, dtype=None, keeps=True):
    """(losses of the elements or their sum, peaks, totals) from one read of the logits: lse = peak + log total.

    dtype: of the losses or their sum. keeps: peaks and totals are needed, for a gradient.
    """
    call = Call(logits, plan, axis, with_gradient=False, summed=summed, dtype=dtype)
    return call.losses(choice.compiled().forward, tiles.forward_tile(call.layout, logits.itemsize), keeps)


def gradient(logits, plan, axis, peaks, totals, out=None, upstream=None, skip_if_one=False):
    """The gradient of the summed loss, from one more read and what `losses` found: with any plan for these labels.

    upstream: a tensor of one number, or of one for each element, which multiplies the gradient before it is rounded.
    skip_if_one: `out` already holds the gradient for an upstream of 1, so the kernel reads nothing if that is the
    number.
    """
    call = Call(logits, plan, axis, out=out)
    tile = tiles.backward_tile(call.layout, logits.itemsize)
    call.backward(tile, peaks, totals, upstream, skip_if_one and call.gradient is out)
    return call.gradient_in(out)


def losses_and_gradient(logits, plan, axis, out=None, summed=False, dtype=None, keeps=True):
    """(losses or their sum, gradient of their sum, peaks, totals), by the kernels that read the logits least often."""
    call = Call(logits, plan, axis, out=out, summed=summed, dtype=dtype)
    tile = tiles.both_tile(call.layout, logits.itemsize, choice.max_cluster_blocks(logits.device))
    if tile is None:
        loss, *found = losses(logits, plan, axis, summed, dtype)
        return loss, gradient(logits, plan, axis, *found, out), *found
    loss, *found = call.losses(choice.compiled().both, tile, keeps)
    return loss, call.gradient_in(out), *found


# --- the upstream gradient -------------------------------------------------------------------------------------------


def rescaled_(memory, factor):
    """memory·factor in place, without waiting for the factor. If the factor is 1, nothing is read."""
    has_no_gaps = memory.untyped_storage().nbytes() == memory.nbytes  # in whatever order its entries lie
    supported = has_no_gaps and factor.numel() == 1 and choice.device(memory) and memory.dtype is not torch.float64
    if not supported:
        return memory.mul_(factor)
    programs = min(-(-memory.numel() // RESCALE_BLOCK), RESCALE_PROGRAMS * multiprocessors(memory.device))
    with torch.cuda.device_of(memory):
        choice.compiled().rescale[(programs,)](memory, factor, memory.numel(), RESCALE_BLOCK, enable_fp_fusion=True)
    return memory


# --- values that no check can read -----------------------------------------------------------------------------------


def guards(values, logits):
    """Whether `guarded` can look at an argument of these logits."""
    return float_of(logits) is torch.float32 and values.numel() > 0 and choice.device(values)


def guarded(limited):
    """`Backend.nan_outside` as float32, by one launch for all arguments."""
    values = [value.contiguous() for value, _ in limited.values()]
    found = [torch.empty_like(value, dtype=torch.float32) for value in values]
    sizes = [value.numel() for value in values]
    highest = [high for _, high in limited.values()]
    given = (tuple(entries + [None] * (MAX_GUARDED - len(values))) for entries in (values, found, sizes, highest))
    with torch.cuda.device_of(values[0]):
        programs = -(-max(sizes) // GUARD_BLOCK)
        choice.compiled().guard[(programs,)](*given, GUARD_BLOCK, enable_fp_fusion=True)
    return dict(zip(limited, found, strict=True))


@lru_cache
def multiprocessors(place):
    """How many multiprocessors a torch.device has; 1 on a CPU."""
    return torch.cuda.get_device_properties(place).multi_processor_count if place.type == "cuda" else 1
