"""Large problems on a CPU, a chunk at a time: the loop that the kernels of PyTorch, NumPy and Numba have in common.

A kernel is (z, plan, out) → (lse, nll, smooth) for a chunk of laid out logits and labels; it writes the gradient of the
summed loss to `out`, which may be z, unless that is None. Elements that it cannot do justice to are computed again by
the text of `spec`, and so is everything with soft targets.
"""

import math

from multismooth import spec
from multismooth.cpu.threads import share
from multismooth.plan import mapped, shared


def places(shape, entries):
    """Where chunks of about so many entries lie: along the first axis, and the last where one item is far too much."""
    inner = shape[2] if len(shape) == 3 else 1
    step = max(1, entries // (shape[1] * inner))
    parts = -(-shape[1] * inner // (4 * entries))  # a part of an item is strided, and copied: not for a little too much
    width = -(-inner // parts)
    for start in range(0, shape[0], step):
        if len(shape) == 2:
            yield (slice(start, start + step),)
        else:
            for left in range(0, inner, width):
                yield slice(start, start + step), slice(None), slice(left, left + width)


def portion(size, entries, workers):
    """About so many entries, or fewer, so that every worker gets as many chunks as the others, all of a size."""
    rounds = -(-size // (entries * workers))
    return -(-size // (rounds * workers))


def cut(plan, place):
    """The plan of a chunk of the laid out logits."""
    elements = place[::2]
    return mapped(plan, lambda x: x[elements], lambda row: row if shared(row) else row[place])


def by_spec(z, plan, with_gradient, xp):
    """((lse, nll, smooth), gradient or None) of a chunk by the text of `spec`."""
    found = spec.statistics(z, plan, 1, xp)
    return spec.finished(found, xp), spec.gradient(z, found, plan, 1, xp) if with_gradient else None


class Fallback:
    """The elements of a chunk that are computed by `spec`: made before `out` is written to, which may be z."""

    def __init__(self, z, plan, which, with_gradient, xp, upstream=1.0):
        def rows(row):
            return xp.reshape(row, (1, -1)) if shared(row) else xp.moveaxis(row, 1, -1)[which]

        self.plan = mapped(plan, lambda x: x[which], rows)
        scaled = spec.scaled(self.plan, upstream)
        self.found, self.gradient = by_spec(xp.moveaxis(z, 1, -1)[which], scaled, with_gradient, xp)
        self.which, self.xp = which, xp

    def put(self, statistics, out):
        """Write what was found over the kernel's own statistics and gradient."""
        for mine, right in zip(statistics, self.found, strict=True):
            mine[self.which] = right
        self.put_gradient(out)

    def put_gradient(self, out):
        if out is not None:
            self.xp.moveaxis(out, 1, -1)[self.which] = self.xp.astype(self.gradient, out.dtype)


def evaluate(kernel, layout, logits, plan, xp, out=None, entries=2**20, workers=1, upstream=1.0):
    """Per-element losses; the gradient of upstream·Σ goes to `out`, which has the layout of the logits or is they."""
    z, plan = layout.entries(logits, xp), layout.plan(plan, logits, xp)
    target = None if out is None else layout.entries(out, xp)
    scaled = plan if upstream == 1.0 else spec.scaled(plan, upstream)  # all that statistics ask of it is whether b is 0

    def run(place):
        own, part, g = z[place], cut(scaled, place), None if target is None else target[place]
        if plan.u is None:
            return kernel(own, part, g)
        found, gradient = by_spec(own, part, g is not None, xp)
        if g is not None:
            g[...] = xp.astype(gradient, g.dtype)
        return found

    entries = portion(math.prod(z.shape), entries, workers)
    parts = share(run, list(places(z.shape, entries)), workers)
    if len(parts) > 1 or z.ndim == 3:
        parts = [[xp.concat([xp.reshape(x, (-1,)) for x in column]) for column in zip(*parts, strict=True)]]
        plan = mapped(plan, lambda x: xp.reshape(x, (-1,)), lambda row: row)
    return layout.back(spec.elements(*parts[0], plan, xp), xp)
