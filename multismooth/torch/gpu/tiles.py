"""Which tile a kernel gets: how many elements and classes a program computes at a time, and in how many threads.

`forward_tile`, `backward_tile` and `both_tile` choose by the Layout and the bytes of a logit. There are two kinds of
Tile. A resident one holds all classes of its elements in registers, so each logit is read once. A looping one takes the
classes of its elements in turn. `with_wide_accesses` adds what depends on memory addresses.
"""

from typing import NamedTuple

WARP = 32  # threads
MAX_WARPS = 32  # of a block
LOGITS_PER_THREAD = 32
LOGITS_PER_THREAD_CLUSTER = 64  # where blocks share a row, which costs each thread many instructions besides
ACCESS_BYTES = 16  # of the widest memory access

# --- sizes of tiles, in logits ---------------------------------------------------------------------------------------

# Tiles of several short rows have this size, with fewer logits per thread than others. Each row brings a dozen numbers
# of its own, which spilled (10 classes, 32 logits per thread: 128 bytes of stack). 256 rows of 10 classes are 8
# programs.
TILE_OF_SHORT_ROWS = 2**9
LOGITS_PER_THREAD_SHORT, LOGITS_PER_THREAD_SHORTEST = 16, 8
MAX_CLASSES_SHORTEST = 2**5

# Strided classes do not lie side by side in memory, as in images. There the elements do. Resident tiles of such
# elements have this size.
TILE_OF_STRIDED_ELEMENTS = 2**12

# If a block holds up to this many logits of 4 bytes or fewer, a second block fits on the same multiprocessor. For
# float64 this limit and the next are half as large.
MAX_TILE_TWO_BLOCKS = 2**14

# Largest tile one block can hold in registers; no second block fits beside it.
MAX_TILE_ONE_BLOCK = 2**15

# `forward` takes so many at a time.
FORWARD_TILE = 2**13

# A program of `backward` takes so many. Several programs share an element with more classes.
BACKWARD_TILE = 2**12

# `both` reads a row twice where no tile can hold it: the second time from the L2 cache, if the rows in flight fit.
L2_BYTES = 40 * 2**20  # of the 50 MiB of an H100 or H200
MULTIPROCESSORS = 132  # of an H100 or H200
WARPS_OF_A_MULTIPROCESSOR = 32  # with 33 to 64 registers per thread, so 1,024 threads fit
# So many logits per thread. With fewer, a thread may need so few registers that more rows are in flight. With more it
# spills: at edges, in 16 warps, and where each class has a share or a mask of its own (Triton 3.6 and 3.9).
LOGITS_PER_THREAD_READ_TWICE, LOGITS_PER_THREAD_AT_EDGES, LOGITS_PER_THREAD_WITH_ROWS = 64, 32, 16

# --- thresholds ------------------------------------------------------------------------------------------------------

# Up to this many strided classes, a tile is resident.
MAX_RESIDENT_CLASSES_STRIDED = 2**8

# Up to this many strided classes `both` reads an element twice.
MAX_CLASSES_READ_TWICE_STRIDED = 2**17

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
    return looping_tile(layout, itemsize, FORWARD_TILE)


def backward_tile(layout, itemsize):
    return looping_tile(layout, itemsize, BACKWARD_TILE)


def both_tile(layout, itemsize, target_itemsize, max_blocks, has_rows=False):
    """The Tile of `both`; None if the rows are so long that `forward` and then `backward` should compute them.

    target_itemsize: of soft targets; 0 for labels. has_rows: each class has a share or a mask of its own.
    """
    tile = resident_tile(layout, itemsize, max_blocks, has_rows)
    return tile_read_twice(layout, itemsize, target_itemsize, has_rows) if tile is None else tile


def numbers_held(layout):
    """How many numbers a resident tile keeps for each logit: with soft targets, its weight as well."""
    return 1 if layout.target_strides is None else 2


def resident_tile(layout, itemsize, max_blocks, has_rows):
    """The Tile that holds all classes of its elements, in a cluster of at most `max_blocks`; None if none can."""
    cols = next_power_of_two(layout.classes)
    if is_strided(layout):
        rows = min(max(TILE_OF_STRIDED_ELEMENTS // cols, WARP), next_power_of_two(layout.positions))
        tile = tile_of(rows, cols)
        if has_rows:  # a thread cannot keep a weight of each logit then
            tile = tile._replace(warps=tile.warps * numbers_held(layout))
        return tile if cols <= MAX_RESIDENT_CLASSES_STRIDED else None
    if cols < TILE_OF_SHORT_ROWS:
        return tile_of_short_rows(layout)
    held = numbers_held(layout)
    bytes_of_logit = max(itemsize, 4) * held
    two_blocks, one_block = (size * 4 // bytes_of_logit for size in (MAX_TILE_TWO_BLOCKS, MAX_TILE_ONE_BLOCK))
    if cols <= two_blocks:
        return tile_of(1, cols)
    if cols <= two_blocks * max_blocks:
        return Tile(1, cols, 0, two_blocks * held // (WARP * LOGITS_PER_THREAD_CLUSTER), ctas=cols // two_blocks)
    return tile_of(1, cols) if cols <= one_block else None


def tile_of_short_rows(layout):
    cols = next_power_of_two(layout.classes)
    rows = min(TILE_OF_SHORT_ROWS // cols, next_power_of_two(layout.positions))
    shortest = LOGITS_PER_THREAD_SHORTEST // numbers_held(layout)
    per_thread = shortest if cols <= MAX_CLASSES_SHORTEST else LOGITS_PER_THREAD_SHORT
    return Tile(rows, cols, 0, max(rows * cols // (WARP * per_thread), 1))


def tile_read_twice(layout, itemsize, target_itemsize, has_rows):
    """The Tile of a row that `both` reads twice, or None.

    So few blocks fit on a multiprocessor that the L2 cache holds the rows in flight: one of 32 warps, or several of 16
    or 8. It is None if not even one row for each multiprocessor fits.
    """
    if is_strided(layout):
        few = layout.classes <= MAX_CLASSES_READ_TWICE_STRIDED
        return looping_tile(layout, itemsize, FORWARD_TILE) if few else None
    rows = L2_BYTES // (MULTIPROCESSORS * layout.classes * (itemsize + target_itemsize))
    if rows == 0:
        return None
    warps, vec = max(WARPS_OF_A_MULTIPROCESSOR >> (rows.bit_length() - 1), 8), ACCESS_BYTES // itemsize
    per_thread = LOGITS_PER_THREAD_READ_TWICE
    if has_rows:
        per_thread = LOGITS_PER_THREAD_WITH_ROWS
    elif target_itemsize or warps == 16 or (warps > 16 and layout.classes % vec):
        per_thread = LOGITS_PER_THREAD_AT_EDGES
    return Tile(1, warps * WARP * per_thread // numbers_held(layout), vec, warps)


def looping_tile(layout, itemsize, size):
    """The Tile of at most `size` logits that takes its elements' classes in turn.

    The logits of one access share a running maximum. It costs one more exponential for each access.
    """
    cols = next_power_of_two(layout.classes)
    if is_strided(layout):
        rows = min(next_power_of_two(layout.positions), MAX_LOOPING_ELEMENTS_STRIDED // numbers_held(layout))
        cols = min(cols, size // rows)
        return tile_of(rows, cols, cols)
    if cols < TILE_OF_SHORT_ROWS:
        return tile_of_short_rows(layout)._replace(group=min(ACCESS_BYTES // itemsize, cols))
    cols = min(cols, size)
    return tile_of(1, cols, ACCESS_BYTES // itemsize)


def with_wide_accesses(tile, layout, itemsize, aligned):
    """The Tile that accesses 16 bytes at a time, if the classes of logits, gradient and soft targets lie so in memory.

    aligned: both begin at a multiple of 16 bytes.

    A row may start between two accesses, if it does so in all of these arrays alike. Its first and last few logits are
    then the tile's edge.
    """
    arrays = layout.logits_strides, layout.gradient_strides, layout.target_strides
    steps = list(zip(*filter(None, arrays), strict=True))
    vec = ACCESS_BYTES // itemsize
    if {*steps.pop()} != {1} or not aligned:
        return tile
    if all(step % vec == 0 for step in (layout.classes, *sum(steps, ()))):
        return tile._replace(vec=min(vec, tile.cols))
    alike = all((step - logits) % vec == 0 for logits, *others in steps for step in others)
    if tile.rows > 1 or tile.cols < 2 * vec or not alike:
        return tile
    return tile._replace(vec=vec, edge=max(2 * vec, WARP * tile.warps * tile.ctas))
