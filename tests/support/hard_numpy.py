"""NumPy's paths through the table of hard inputs."""

import numpy as np
from hard_paths import (
    REDUCTIONS,
    loss_dtype,
    no_head,
    no_targets,
    not_of_rank_one,
    options,
    path,
    rule,
)  # fmt: skip
from hard_rows import LAYOUTS
from requirements import need

import multismooth
import multismooth.numpy as ms
from multismooth.cpu.choice import MAX_CLASSES_COLUMNS


class Row:
    """A row's arrays as they lie in memory."""

    def __init__(self, hard):
        lay = LAYOUTS[hard.layout]
        self.hard, self.z, self.y = hard, lay(hard.logits), lay(hard.targets)
        self.settings = {
            name: lay(value) if isinstance(value, np.ndarray) else value for name, value in hard.settings.items()
        }
        self.wide, self.own = loss_dtype(hard), hard.dtype

    def call(self, function, reduction="mean", **more):
        return function(self.z, self.y, **options(self.hard, self.settings, reduction), **more)

    def head(self, function, reduction, **more):
        hidden, classifier, bias = self.hard.head
        hidden, more = LAYOUTS[self.hard.layout](hidden), more | options(self.hard, self.settings, reduction)
        return function(hidden, classifier, self.y, bias=bias, **more)


def results(hard):
    row = Row(hard)
    for reduction in REDUCTIONS:
        yield f"loss {reduction}", row.call(ms.loss, reduction), row.wide
        value, gradient = row.call(ms.loss_and_grad, reduction)
        yield f"loss {reduction}", value, row.wide
        yield f"raw {reduction}", gradient, row.own


@path("loss, loss_and_grad", "numpy")
def everyday(hard):
    yield from results(hard)


@path("loss_and_grad into out", "numpy")
def given(hard):
    row = Row(hard)
    out = np.full_like(row.z, np.nan)
    _, gradient = row.call(ms.loss_and_grad, out=out)
    assert gradient is out
    yield "raw mean", gradient, row.own
    z = row.z = row.z.copy("K")
    yield "raw none", row.call(ms.loss_and_grad, "none", out=z)[1], row.own


@path("terms", "numpy")
def terms(hard):
    row = Row(hard)
    found = row.call(ms.terms, None)
    yield "loss none", found.loss, row.wide
    yield "nll", found.nll, row.wide
    yield "share", found.weight, row.wide


@path("smooth_targets", "numpy", no_targets)
def smooth_targets(hard):
    row = Row(hard)
    names = ("label_smoothing", "convention", "prior", "class_mask", "ignore_index", "axis")
    settings = {name: value for name, value in row.settings.items() if name in names}
    for dtype in ("float32", "float64"):
        found = ms.smooth_targets(row.y, hard.classes, dtype=dtype, **settings)
        yield "q", found, dtype


@path("linear_loss", "numpy", no_head)
def linear(hard):
    row = Row(hard)
    for reduction in REDUCTIONS:
        yield f"loss {reduction}", row.head(ms.linear_loss, reduction, chunk_rows=3), row.wide
    for chunk_rows, reduction in ((None, "mean"), (1, "sum"), (3, "mean")):
        value, found = row.head(ms.linear_loss_and_grad, reduction, chunk_rows=chunk_rows)
        yield f"loss {reduction}", value, row.wide
        for name, gradient in zip(("raw", "of_classifier", "of_bias"), found, strict=True):
            yield f"{name} {reduction}", gradient, row.own


@path("smoothing_correction", "numpy", no_head, not_of_rank_one)
def correction(hard):
    row = Row(hard)
    row.settings.pop("z_loss", None)
    for reduction in REDUCTIONS:
        yield f"correction {reduction}", row.head(ms.smoothing_correction, reduction), row.wide


def kernel(name, *unfit):
    @path(f"implementation {name}", "numpy", *unfit)
    def forced(hard):
        if name == "numba":
            need("numba")
        with multismooth.implementation(name):
            yield from results(hard)


@rule("no logits, which are computed by the text alone")
def empty(hard):
    return hard.logits.size == 0


@rule("float16 has other kernels")
def half(hard):
    return hard.logits.itemsize < 4


def uniform(hard):
    """Whether every element has the same coefficients."""
    return set(hard.settings) <= {"label_smoothing", "axis", "ignore_index"} and not hard.dead.any()


@rule("few classes of rows that are alike are meant")
def not_columns(hard):
    fits = hard.logits.ndim == 2 and hard.axis == 1 and hard.classes <= MAX_CLASSES_COLUMNS and np.ndim(
        hard.settings.get("label_smoothing", 0.0)) == 0 and uniform(hard)  # fmt: skip
    return not fits or hard.soft


@rule("rows of their own for some elements")
def rows_differ(hard):
    mask, prior = hard.settings.get("class_mask"), hard.settings.get("prior")
    return hard.soft or (mask is not None and mask.ndim > 1) or (prior is not None and prior.ndim > 1)


kernel("spec")
kernel("chunked", empty)
kernel("columns", empty, half, not_columns)
kernel("numba", empty, half, rows_differ)
