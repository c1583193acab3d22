"""How the kernels of logits add up the losses of all elements themselves, which spares a launch.

Each program writes the sum of its tile and counts itself. The last one to do so adds up the sums. `launch` says when.
"""

import triton
import triton.language as tl

SUMS_AT_A_TIME = tl.constexpr(512)


@triton.jit
def store_losses(losses, loss, element, exists, ticket):
    """Write the losses of a tile. With a ticket, write their sum alone, for `add_up`."""
    if ticket is None:
        tl.store(losses + element, loss, mask=exists)
    else:
        tl.store(losses + tl.program_id(1), tl.sum(tl.sum(tl.where(exists, loss, 0.0), 1), 0))


@triton.jit
def add_up(sums, total, ticket):
    """Every program calls this once, at its end. The last one to do so adds up the sums of all tiles.

    It adds them in the same order, whichever program it is, so a loss is repeatable to the bit. `ticket` counts the
    programs. It is 0 before the first and after the last one, so that the plan can serve again. The sums are read from
    the L2 cache, because a multiprocessor's own cache may hold older ones.
    """
    if ticket is not None:
        tl.debug_barrier()  # the sum is written before the program counts
        tiles = tl.num_programs(1)
        if tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == tiles - 1:
            found = tl.zeros((SUMS_AT_A_TIME,), sums.dtype.element_ty)
            for start in range(0, tiles, SUMS_AT_A_TIME):
                i = start + tl.arange(0, SUMS_AT_A_TIME)
                found += tl.load(sums + i, mask=i < tiles, other=0, cache_modifier=".cg")
            tl.store(total, tl.sum(found).to(total.dtype.element_ty))
            tl.store(ticket, 0)
