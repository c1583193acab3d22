"""Which tile a kernel gets: how many elements and classes a program computes at a time, and in how many threads.

`forward_tile`, `backward_tile` and `both_tile` choose by the Layout and the bytes of a logit. There are two kinds of
Tile. A resident one holds all classes of its elements in registers, so each logit is read once. A looping one takes the
classes of its elements in turn. `with_wide_accesses` adds what depends on memory addresses.
"""

from typing import NamedTuple

WARP = 32  # threads
MAX_WARPS = 32  # of a block
LOGITS_PER_THREAD = 32
ACCESS_BYTES = 16  # of the widest memory access

# --- sizes of tiles, in logits ---------------------------------------------------------------------------------------

# Resident tiles of elements with few classes have this size.
TILE_OF_SEVERAL_ELEMENTS = 2**12

# If a block holds up to this many logits of 4 bytes or fewer, a second block fits on the same multiprocessor. For
# float64 this limit and the next are half as large.
MAX_TILE_TWO_BLOCKS = 2**14

# Largest tile one block can hold in registers; no second block fits beside it.
MAX_TILE_ONE_BLOCK = 2**15

# `forward` takes so many at a time, and so does `both` where no tile can hold an element.
LOOPING_TILE = 2**13

# A program of `backward` takes so many. Several programs share an element with more classes.
BACKWARD_TILE = 2**12

# --- thresholds ------------------------------------------------------------------------------------------------------

# Up to this many classes one kernel reads a row twice: a row for each multiprocessor still fits into the L2 cache.
# Longer rows take `forward`, then `backward`.
MAX_CLASSES_READ_TWICE = 2**17

# Strided classes do not lie side by side in memory, as in images. There the elements do.

# Up to this many strided classes, a tile is resident.
MAX_RESIDENT_CLASSES_STRIDED = 2**8

# A looping tile has at most this many elements whose classes are strided.
MAX_LOOPING_ELEMENTS_STRIDED = 2**7


class Tile(NamedTuple):
    """What a kernel is compiled for."""

    rows: int  # elements
    cols: int  # classes at a time
    group: int  # logits that share a running maximum; 0: the tile is resident
    warps: int  # of a block
    ctas: int = 1  # blocks of a cluster, which share the tile
    vec: int = 1  # logits in one memory access
    edge: int = 0  # room for a row's logits before its first whole access and after its last one; 0: there are none


def next_power_of_two(number):
    return 1 << (number - 1).bit_length()


def is_strided(layout):
    """Whether an element's classes do not lie side by side in memory."""
    return layout.logits_strides[2] != 1


def tile_of(rows, cols, group=0):
    """The Tile of one block that gives each thread 32 logits."""
    return Tile(rows, cols, group, min(max(rows * cols // (WARP * LOGITS_PER_THREAD), 1), MAX_WARPS))


# --- how a tile is chosen --------------------------------------------------------------------------------------------


def forward_tile(layout, itemsize):
    return looping_tile(layout, itemsize, LOOPING_TILE)


def backward_tile(layout, itemsize):
    return looping_tile(layout, itemsize, BACKWARD_TILE)


def both_tile(layout, itemsize, max_blocks):
    """The Tile of `both`; None if the rows are so long that `forward` and then `backward` should compute them."""
    tile = resident_tile(layout, itemsize, max_blocks)
    if tile is None and layout.classes <= MAX_CLASSES_READ_TWICE:
        return looping_tile(layout, itemsize, LOOPING_TILE)
    return tile


def resident_tile(layout, itemsize, max_blocks):
    """The Tile that holds all classes of its elements, in a cluster of at most `max_blocks`; None if none can."""
    cols, fewest = next_power_of_two(layout.classes), WARP if is_strided(layout) else 1
    rows = min(max(TILE_OF_SEVERAL_ELEMENTS // cols, fewest), next_power_of_two(layout.positions))
    if is_strided(layout):
        return tile_of(rows, cols) if cols <= MAX_RESIDENT_CLASSES_STRIDED else None
    two_blocks, one_block = (size * 4 // max(itemsize, 4) for size in (MAX_TILE_TWO_BLOCKS, MAX_TILE_ONE_BLOCK))
    if cols <= two_blocks:
        return tile_of(rows, cols)
    if cols <= two_blocks * max_blocks:
        return tile_of(1, two_blocks)._replace(cols=cols, ctas=cols // two_blocks)
    return tile_of(1, cols) if cols <= one_block else None


def looping_tile(layout, itemsize, size):
    """The Tile of at most `size` logits that takes its elements' classes in turn.

    The logits of one access share a running maximum. It costs one more exponential for each access.
    """
    cols = next_power_of_two(layout.classes)
    most = MAX_LOOPING_ELEMENTS_STRIDED if is_strided(layout) else max(size // cols, 1)
    rows = min(next_power_of_two(layout.positions), most)
    cols = min(cols, size // rows)
    return tile_of(rows, cols, cols if is_strided(layout) else min(ACCESS_BYTES // itemsize, cols))


def with_wide_accesses(tile, layout, tensors):
    """The Tile that accesses 16 bytes at a time, if the classes of all tensors (logits, gradient) lie so in memory.

    A row may start between two accesses, if it does so in the logits and in the gradient alike. Its first and last
    few logits are then the tile's edge.
    """
    steps = list(zip(layout.logits_strides, layout.gradient_strides, strict=True))
    vec = ACCESS_BYTES // tensors[0].itemsize
    if steps.pop() != (1, 1) or any(tensor.data_ptr() % ACCESS_BYTES for tensor in tensors):
        return tile
    if all(step % vec == 0 for step in (layout.classes, *sum(steps, ()))):
        return tile._replace(vec=min(vec, tile.cols))
    if tile.rows > 1 or tile.cols < 2 * vec or any((logits - gradient) % vec for logits, gradient in steps):
        return tile
    return tile._replace(vec=vec, edge=max(2 * vec, WARP * tile.warps * tile.ctas))
