"""JAX's paths through the table of hard inputs.

Compiling takes a second for each function and kind of row, so it is done for the `core` rows; all rows are computed
operation by operation (`jax.disable_jit`), in the same text.
"""

from contextlib import ExitStack

import numpy as np
from adapters import XLA_DEFAULTS
from hard_answers import answers
from hard_paths import (
    infinite_entropy,
    infinite_slopes,
    labels,
    loss_dtype,
    no_head,
    no_targets,
    not_core,
    not_of_rank_one,
    options,
    path,
    rule,
    unlike_slopes,
)  # fmt: skip
from hard_rows import LAYOUTS

try:
    import jax
    import jax.numpy as jnp

    import multismooth.jax as ms
except ImportError:  # the tests that need it are skipped
    jax = None


class Row:
    """A row's arrays in JAX, or NumPy's as they lie in memory, which the functions are to convert."""

    def __init__(self, hard):
        lay = LAYOUTS[hard.layout] if hard.layout != "plain" else jnp.asarray
        self.hard, self.wide, self.own = hard, loss_dtype(hard), hard.dtype
        self.z, self.y = lay(hard.logits), lay(hard.targets)
        self.settings = {
            name: lay(value) if isinstance(value, np.ndarray) else value for name, value in hard.settings.items()
        }
        expected, dtype = answers(hard.name), jnp.asarray(self.z).dtype
        self.cotangent = jnp.asarray(expected.cotangent, self.wide)
        self.direction, self.turn = jnp.asarray(expected.direction, dtype), expected.turn

    def call(self, function, reduction="mean", **more):
        return function(self.z, self.y, **options(self.hard, self.settings, reduction), **more)

    def head(self, function, reduction, hidden=None, **more):
        own, classifier, bias = (jnp.asarray(part) for part in self.hard.head)
        settings = options(self.hard, self.settings, reduction) | more
        return function(own if hidden is None else hidden, classifier, self.y, bias=bias, **settings)


def on(name, *unfit, compiled=False):
    def enter(run):
        def under(hard):
            with ExitStack() as stack:
                stack.enter_context(jax.enable_x64(hard.dtype == "float64"))
                if not compiled:
                    stack.enter_context(jax.disable_jit())
                return list(run(Row(hard)))

        path(name + (", compiled" if compiled else ""), "jax", *unfit, *([not_core] if compiled else []))(under)
        return run

    return enter


@on("loss, loss_and_grad", compiled=True)
@on("loss, loss_and_grad")
def everyday(row):
    value, gradient = row.call(ms.loss_and_grad)
    yield "loss mean", value, row.wide
    yield "raw mean", gradient, row.own
    yield "loss none", row.call(ms.loss, "none"), row.wide


@on("terms")
def terms(row):
    found = row.call(ms.terms, None)
    yield "loss none", found.loss, row.wide
    yield "nll", found.nll, row.wide
    yield "share", found.weight, row.wide


@on("smooth_targets", no_targets)
def smooth_targets(row):
    names = ("label_smoothing", "convention", "prior", "class_mask", "ignore_index", "axis")
    settings = {name: value for name, value in row.settings.items() if name in names}
    yield "q", ms.smooth_targets(row.y, row.hard.classes, dtype=row.wide, **settings), row.wide


# --- derivatives ------------------------------------------------------------------------------------------------------


def every_derivative(row, z, y, settings):
    def each(z):
        return ms.loss(z, y, reduction="none", **options(row.hard, settings, None))

    def weighted(z):
        return (each(z) * row.cotangent).sum()

    value, pull = jax.vjp(each, z)
    slope, curve = jax.jvp(jax.grad(weighted), (z,), (row.direction,))
    yield "loss none", value, row.wide
    yield "slope none", pull(row.cotangent)[0], row.own
    yield "slope none", slope, row.own
    yield "curve none", curve, row.own
    yield "curve none", jax.grad(lambda z: (jax.grad(weighted)(z) * row.direction).sum())(z), row.own
    yield "tangent none", jax.jvp(each, (z,), (row.direction,))[1], row.wide
    yield "loss none", jax.vmap(each)(jnp.stack([z, z]))[1], row.wide


@on("every derivative")
def derivatives(row):
    yield from every_derivative(row, jnp.asarray(row.z), row.y, row.settings)


@on("every derivative under jax.jit", compiled=True)
def traced(row):
    """With everything traced that may be: arrays, and ε where it is a number. XLA optimises as by default."""
    fixed = {name: value for name, value in row.settings.items() if name in ("axis", "convention", "ignore_index")}
    moving = {"label_smoothing": 0.1} | {name: value for name, value in row.settings.items() if name not in fixed}
    names = []

    def function(z, y, moving):
        names[:], results, dtypes = zip(*every_derivative(row, z, y, fixed | moving), strict=True)
        names.extend(dtypes)
        return results

    results = jax.jit(function, compiler_options=XLA_DEFAULTS)(row.z, row.y, moving)
    yield from zip(names[: len(results)], results, names[len(results) :], strict=True)


@on("the targets' gradients", labels, infinite_slopes, infinite_entropy)
def of_targets(row):
    def of(z, y):
        return ms.loss(z, y, **options(row.hard, row.settings, "mean"))

    z, y = jnp.asarray(row.z), jnp.asarray(row.y)
    slope, moved = jax.grad(of, (0, 1))(z, y)
    yield "slope mean", slope, row.own
    yield "of_targets mean", moved, str(y.dtype)
    turn = jnp.asarray(row.turn, y.dtype)
    yield "twist mean", jax.grad(lambda z: jax.jvp(lambda y: of(z, y), (y,), (turn,))[1])(z), row.own


@on("the settings' gradients", unlike_slopes, infinite_entropy)
def of_settings(row):
    moving = {name: value for name, value in row.settings.items() if name in ("weight", "prior", "sample_weight")}
    moving = {name: jnp.asarray(value) for name, value in moving.items() if value.dtype != bool}
    moving["label_smoothing"] = jnp.asarray(row.settings.get("label_smoothing", 0.1), row.wide)
    found = jax.grad(lambda moving: ms.loss(row.z, row.y, **row.settings | moving))(moving)
    for name, value in found.items():
        yield f"of_setting {name}", value, str(moving[name].dtype)


# --- linear heads -----------------------------------------------------------------------------------------------------


@on("linear_loss, linear_loss_and_grad", no_head)
def linear(row):
    for chunk_rows, reduction in ((None, "mean"), (3, "sum")):
        value, found = row.head(ms.linear_loss_and_grad, reduction, chunk_rows=chunk_rows)
        yield f"loss {reduction}", value, row.wide
        for name, gradient in zip(("raw", "of_classifier", "of_bias"), found, strict=True):
            yield f"{name} {reduction}", gradient, row.own
    yield "loss none", row.head(ms.linear_loss, "none", chunk_rows=3), row.wide


@rule("compiles for seconds")
def few(hard):
    return hard.name not in ("offset 0", "NaN behind an ignored label", "NaN behind weight 0, soft", "one-hot rows")


@on("linear_loss and its derivatives", few, no_head, compiled=True)
@on("linear_loss and its derivatives", no_head)
def linear_derivatives(row):
    hidden = jnp.asarray(row.hard.head[0])

    def of(reduction):
        return lambda x: row.head(ms.linear_loss, reduction, x, chunk_rows=3)

    value, pull = jax.vjp(of("none"), hidden)
    yield "loss none", value, row.wide
    yield "slope none", pull(row.cotangent)[0], row.own
    slope, curve = jax.jvp(jax.grad(of("mean")), (hidden,), (row.direction,))
    yield "slope mean", slope, row.own
    yield "curve mean", curve, row.own
    tangent = jax.jvp(of("mean"), (hidden,), (row.direction,))[1]
    yield "tangent mean", tangent.astype(row.own), row.own  # from gradients whose products are in the head's dtype


@on("smoothing_correction", no_head, not_of_rank_one)
def correction(row):
    row.settings.pop("z_loss", None)
    for reduction in ("mean", "none"):
        yield f"correction {reduction}", row.head(ms.smoothing_correction, reduction), row.wide
