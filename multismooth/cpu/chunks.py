"""Large problems on a CPU, one chunk at a time: the loop that the kernels of PyTorch and NumPy share.

A kernel takes (z, plan, out) for one chunk, in a layout of `multismooth.cpu.layout`, and returns (lse, nll, smooth). It
writes the gradient of the summed loss to `out`, unless `out` is None. `out` may be z itself. `spec` computes what a
kernel does not: elements that the kernel cannot compute accurately, and every chunk with soft targets.
"""

import math

from multismooth import spec
from multismooth.cpu.threads import share
from multismooth.plan import mapped, shared


def chunk_slices(shape, size):
    """Indices that cut logits of this shape into chunks of about `size` entries.

    Every chunk is cut along the first axis. One image alone may be far larger than a chunk; then the last axis is cut
    too. Such a part of an image is strided and has to be copied, so images of up to four chunks stay whole.
    """
    positions = shape[2] if len(shape) == 3 else 1
    step = max(1, size // (shape[1] * positions))
    parts = -(-shape[1] * positions // (4 * size))
    width = -(-positions // parts)
    for start in range(0, shape[0], step):
        if len(shape) == 2:
            yield (slice(start, start + step),)
        else:
            for left in range(0, positions, width):
                yield slice(start, start + step), slice(None), slice(left, left + width)


def balanced_chunk_size(total, most, workers):
    """The size, at most `most`, that cuts `total` entries into equal chunks, the same number for every worker."""
    rounds = -(-total // (most * workers))
    return -(-total // (rounds * workers))


def chunk_plan(plan, index):
    """The part of a laid out plan that belongs to one chunk; `index` is one of `chunk_slices`."""
    elements = index[::2]
    return mapped(plan, lambda x: x[elements], lambda row: row if shared(row) else row[index])


def selected(plan, which, xp):
    """The part of a laid out plan that belongs to the elements where the boolean array `which` is True, as rows."""

    def rows(row):
        return xp.reshape(row, (1, -1)) if shared(row) else xp.moveaxis(row, 1, -1)[which]

    return mapped(plan, lambda x: x[which], rows)


def by_spec(z, plan, with_gradient, xp):
    """((lse, nll, smooth), gradient or None) of a chunk, computed by `spec`."""
    found = spec.statistics(z, plan, 1, xp)
    return spec.finished(found, xp), spec.gradient(z, found, plan, 1, xp) if with_gradient else None


class Fallback:
    """The elements of a chunk that its kernel cannot compute accurately, computed by `spec`.

    `which` is a boolean array that selects them. Make a Fallback before the kernel writes to `out`, which may be z.
    """

    def __init__(self, z, plan, which, with_gradient, xp, upstream=1.0):
        self.plan = selected(plan, which, xp)
        scaled = spec.scaled(self.plan, upstream)
        self.statistics, self.gradient = by_spec(xp.moveaxis(z, 1, -1)[which], scaled, with_gradient, xp)
        self.which, self.xp = which, xp

    def put(self, statistics, out):
        """Overwrite these elements in the kernel's own (lse, nll, smooth) and in its gradient `out`."""
        for mine, right in zip(statistics, self.statistics, strict=True):
            mine[self.which] = right
        self.put_gradient(out)

    def put_gradient(self, out):
        if out is not None:
            self.xp.moveaxis(out, 1, -1)[self.which] = self.xp.astype(self.gradient, out.dtype)


def evaluate(kernel, layout, logits, plan, xp, out=None, most=2**20, workers=1, upstream=1.0):
    """The losses per element; the gradient of upstream·Σ loss goes to `out`.

    `out` has the layout of the logits, or is the logits. `most` is the largest size of a chunk, in logits.
    """
    z, plan = layout.logits(logits, xp), layout.plan(plan, logits, xp)
    target = None if out is None else layout.logits(out, xp)
    # (lse, nll, smooth) are those of the loss itself: all that they take from the plan's scale is whether b is 0.
    scaled = plan if upstream == 1.0 else spec.scaled(plan, upstream)

    def computed(own, part, g):
        if plan.u is None:
            return kernel(own, part, g)
        statistics, gradient = by_spec(own, part, g is not None, xp)
        if g is not None:
            g[...] = xp.astype(gradient, g.dtype)
        return statistics

    def run(index):
        return computed(z[index], chunk_plan(scaled, index), None if target is None else target[index])

    entries = math.prod(z.shape)
    if z.ndim == 2 and workers == 1 and entries <= most:
        parts = [computed(z, scaled, target)]
    else:
        slices = chunk_slices(z.shape, balanced_chunk_size(entries, most, workers))
        parts = share(run, list(slices), workers)
    if len(parts) > 1 or z.ndim == 3:
        parts = [[xp.concat([xp.reshape(x, (-1,)) for x in column]) for column in zip(*parts, strict=True)]]
        plan = mapped(plan, lambda x: xp.reshape(x, (-1,)), lambda row: row)
    return layout.elements_back(spec.elements(*parts[0], plan, xp), xp)
