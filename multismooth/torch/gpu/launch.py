"""The launches of Triton's kernels: losses, gradients, or both of logits on a GPU.

`triton` is the kernel of that name in `multismooth.torch.choice`. `losses` and `gradient` are its two halves, for a
caller who keeps two numbers per element (peak and total) between them. Nothing here waits for the device, and a CUDA
graph can capture all of it. Modules outside this folder find what they need of `gpu.choice` here too.
"""

from functools import lru_cache

import torch

from multismooth.torch.gpu import choice, dispatch, tiles
from multismooth.torch.gpu.arguments import arguments_of, elements_shape, upstream_of
from multismooth.torch.gpu.choice import device, fits, interpreted, supports
from multismooth.torch.gpu.layout import arranged
from multismooth.torch.gpu.tiles import ACCESS_BYTES
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

# Registers of two blocks on one multiprocessor, of which one loads while the other computes.
REGISTERS = 2**16

MAX_GRID_AXIS = 2**15  # of the axes 1 and 2 of a grid; CUDA allows 65,535

# Up to these numbers of logits and tiles, the last program adds up the losses. It spares a launch, but every program
# waits a microsecond until its gradient is written. Of a larger problem PyTorch adds them up, while nobody waits.
MAX_LOGITS_ADDED_UP = 2**24
MAX_TILES_ADDED_UP = 2**14

RESCALE_BLOCK = 2**12  # numbers that a program of `rescale` takes at a time
GUARD_BLOCK = 2**10  # numbers of each argument that a program of `guard` takes
MAX_GUARDED = 5  # arguments

RESCALE_PROGRAMS = 8  # for each multiprocessor, at most


def tiles_of(layout, tile):
    """The number of tiles."""
    return layout.batch * -(-layout.positions // tile.rows)


def grid_of(tiles, programs):
    """Programs that share a tile's elements on axis 0, tiles on axes 1 and 2, which are shorter than axis 0."""
    return programs, min(tiles, MAX_GRID_AXIS), -(-tiles // MAX_GRID_AXIS)


class Call:
    """The arguments of one call as the kernels take them, and a method for each kernel, which takes the tile.

    summed: the sum of the losses is asked for in their place. dtype: of the losses or their sum.
    """

    def __init__(self, logits, plan, axis, with_gradient=True, out=None, summed=False, dtype=None):
        self.elements, self.dtype = elements_shape(plan, logits, axis), float_of(logits)
        self.summed, self.loss_dtype = summed, dtype or self.dtype
        self.const, self.ticket = plan.const, getattr(plan, "ticket", None)
        self.logits, self.gradient, self.u, self.layout = arranged(logits, plan.u, axis, with_gradient, out)
        self.plan, self.steps = arguments_of(plan, logits, self.elements)
        self.column, self.tolerance = getattr(plan, "column", None), getattr(plan, "tolerance", None)
        self.itemsizes = logits.itemsize, 0 if self.u is None else self.u.itemsize

    def losses(self, kernel, tile, keeps=True):
        """(losses or their sum, peaks, totals or scales), by "forward" or "both". keeps: else the losses alone.

        "both" writes `self.gradient`, too.
        """
        number = tiles_of(self.layout, tile)
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
        self._launch("backward", tile, None, peaks, totals, **more)

    def gradient_in(self, out):
        """The gradient, copied to the caller's tensor where a kernel could not write to it."""
        return self.gradient if out is None or self.gradient is out else out.copy_(self.gradient)

    def _empty(self, shape, dtype=None):
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.logits.device)

    def _launch(
        self, kernel, tile, losses, peaks, totals, total=None, ticket=None, programs_per_element=1, upstream=None,
        step=None, skip_if_one=False,
    ):  # fmt: skip
        logits, gradient, (plan, v, mask) = self.logits, self.gradient, self.plan
        unaligned = logits.data_ptr() % ACCESS_BYTES or (gradient is not None and gradient.data_ptr() % ACCESS_BYTES)
        few_registers = logits.itemsize == 2 and v is None and mask is None
        kind = (
            self.layout, tile, logits.dtype, not unaligned, few_registers, programs_per_element, (*self.steps, step),
            skip_if_one, self.tolerance,
        )  # fmt: skip
        kernel = getattr(choice.compiled(), kernel if self.u is None else f"soft_{kernel}")
        launch, rows = dispatch.launch_of(kernel, kind, lambda: prepared(*kind)), ()
        if self.u is not None:
            rows = self.u, self.column
        launch(logits, logits, gradient, losses, peaks, totals, total, ticket, upstream, plan, v, mask, *rows)


def prepared(layout, tile, dtype, aligned, few_registers, programs_per_element, steps, skip_if_one, tolerance):
    """What `dispatch.launch_of` asks about a kernel of logits: (grid, last arguments, options)."""
    tile = tiles.with_wide_accesses(tile, layout, dtype.itemsize, aligned)
    compute = choice.compiled().tl.float64 if dtype is torch.float64 else choice.compiled().tl.float32
    long_resident = tile.group == 0 and tile.cols >= tiles.MAX_TILE_TWO_BLOCKS // tiles.numbers_held(layout)
    for_two_blocks = max(REGISTERS // (2 * tiles.WARP * tile.warps), 64)
    registers = for_two_blocks if few_registers and long_resident else None
    rows = () if layout.target_strides is None else (*layout.target_strides, tolerance)
    fixed = (
        layout.batch, layout.classes, layout.positions, *layout.logits_strides, *layout.gradient_strides, *rows, steps,
        skip_if_one, tile.rows, tile.cols, tile.group, tile.ctas, tile.vec, tile.edge, compute,
    )  # fmt: skip
    options = {"num_warps": tile.warps, "num_ctas": tile.ctas, "maxnreg": registers}
    return grid_of(tiles_of(layout, tile), programs_per_element), fixed, options


# --- losses and gradients --------------------------------------------------------------------------------------------


def triton(logits, plan, axis, with_gradient=True, summed=False, out=None):
    """(losses or their sum, gradient of their sum or None): a kernel as `multismooth.torch.choice` calls it."""
    if not with_gradient:
        return losses(logits, plan, axis, summed, keeps=False)[0], None
    return losses_and_gradient(logits, plan, axis, out, summed, keeps=False)[:2]


def losses(logits, plan, axis, summed=False, dtype=None, keeps=True):
    """(losses of the elements or their sum, peaks, totals) from one read of the logits: lse = peak + log total.

    dtype: of the losses or their sum. keeps: peaks and totals are needed, for a gradient. In place of the totals, soft
    targets have scales: what multiplies exp(z − peak) in the gradient.
    """
    call = Call(logits, plan, axis, with_gradient=False, summed=summed, dtype=dtype)
    return call.losses("forward", tiles.forward_tile(call.layout, logits.itemsize), keeps)


def gradient(logits, plan, axis, peaks, totals, out=None, upstream=None, skip_if_one=False):
    """The gradient of the summed loss, from one more read and what `losses` found.

    The plan may be any one for these labels. That of soft targets must be the one of `losses`.

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
    blocks, has_rows = choice.max_cluster_blocks(logits.device), plan.v is not None or plan.mask is not None
    tile = tiles.both_tile(call.layout, *call.itemsizes, blocks, has_rows)
    if tile is None:
        loss, *found = losses(logits, plan, axis, summed, dtype)
        return loss, gradient(logits, plan, axis, *found, out), *found
    loss, *found = call.losses("both", tile, keeps)
    return loss, call.gradient_in(out), *found


# --- the upstream gradient -------------------------------------------------------------------------------------------


def rescaled_(memory, factor):
    """memory·factor in place, without waiting for the factor. If the factor is 1, nothing is read."""
    has_no_gaps = memory.untyped_storage().nbytes() == memory.nbytes  # in whatever order its entries lie
    supported = has_no_gaps and factor.numel() == 1 and choice.device(memory) and memory.dtype is not torch.float64
    if not supported:
        return memory.mul_(factor)
    size = memory.numel()
    programs = min(-(-size // RESCALE_BLOCK), RESCALE_PROGRAMS * multiprocessors(memory.device))
    rescale, kind = choice.compiled().rescale, (size, programs)
    dispatch.launch_of(rescale, kind, lambda: ((programs,), (size, RESCALE_BLOCK), {}))(memory, memory, factor)
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
    values, given, sizes, highest = (
        (*entries, *[None] * (MAX_GUARDED - len(entries))) for entries in (values, found, sizes, highest)
    )
    programs = -(-max(size for size in sizes if size) // GUARD_BLOCK)

    def prepare():
        return (programs,), (sizes, highest, GUARD_BLOCK), {}

    dispatch.launch_of(choice.compiled().guard, (sizes, highest), prepare)(values[0], values, given)
    return dict(zip(limited, found, strict=True))


@lru_cache
def multiprocessors(place):
    """How many multiprocessors a torch.device has; 1 on a CPU."""
    return torch.cuda.get_device_properties(place).multi_processor_count if place.type == "cuda" else 1
