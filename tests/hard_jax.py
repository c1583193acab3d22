"""JAX's paths through the table of hard inputs."""

from contextlib import nullcontext

import numpy as np
from hard_answers import answers
from hard_numpy import no_targets
from hard_paths import loss_dtype, not_core, options, path
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
        expected, dtype = answers(hard.name), getattr(jnp, self.wide)
        self.cotangent = jnp.asarray(expected.cotangent, dtype)
        self.direction = jnp.asarray(expected.direction, jnp.asarray(self.z).dtype)

    def call(self, function, reduction="mean", **more):
        return function(self.z, self.y, **options(self.hard, self.settings, reduction), **more)

    def head(self):
        return [jnp.asarray(part) for part in self.hard.head]


def on(name, *unfit):
    def enter(run):
        def wide(hard):
            with jax.enable_x64(True) if hard.dtype == "float64" else nullcontext():
                return list(run(Row(hard)))

        path(name, "jax", *unfit)(wide)
        return run

    return enter


@on("loss")
def loss(row):
    yield "loss mean", row.call(ms.loss), row.wide
    yield "loss none", row.call(ms.loss, "none"), row.wide


@on("loss_and_grad")
def loss_and_grad(row):
    value, gradient = row.call(ms.loss_and_grad)
    yield "loss mean", value, row.wide
    yield "raw mean", gradient, row.own


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


def traced(row, function):
    """A jitted function of the logits, the targets and all settings that may be traced."""
    fixed = {name: value for name, value in row.settings.items() if name in ("axis", "convention", "ignore_index")}
    moving = {name: value for name, value in row.settings.items() if name not in fixed}

    def call(z, y, moving):
        return function(z, y, {"label_smoothing": 0.1} | fixed | moving)

    return jax.jit(call)(row.z, row.y, {"label_smoothing": row.settings.get("label_smoothing", 0.1)} | moving)


@on("jax.jit, every derivative", not_core)
def derivatives(row):
    def function(z, y, settings):
        def each(z):
            return ms.loss(z, y, reduction="none", **options(row.hard, settings, None))

        def weighted(z):
            return (each(z) * row.cotangent).sum()

        value, pull = jax.vjp(each, z)
        slope, curve = jax.jvp(jax.grad(weighted), (z,), (row.direction,))
        found = [
            ("loss none", value, row.wide),
            ("slope none", pull(row.cotangent)[0], row.own),
            ("slope none", slope, row.own),
            ("curve none", curve, row.own),
            ("curve none", jax.grad(lambda z: (jax.grad(weighted)(z) * row.direction).sum())(z), row.own),
            ("tangent none", jax.jvp(each, (z,), (row.direction,))[1], row.wide),
            ("loss none", jax.vmap(each)(jnp.stack([z, z]))[1], row.wide),
        ]
        names.extend((quantity, dtype) for quantity, _, dtype in found)
        return [result for _, result, _ in found]

    names = []
    results = traced(row, function)
    yield from ((quantity, result, dtype) for (quantity, dtype), result in zip(names, results, strict=True))


@on("jax.grad of logits, targets and settings", not_core)
def gradients(row):
    moving = {
        name: row.settings.get(name, 0.1)
        for name in ("label_smoothing", "weight", "prior")
        if name in row.settings or name == "label_smoothing"
    }
    soft = row.hard.soft

    def function(z, y, moving):
        return ms.loss(z, y, **row.settings | moving)

    wrt = (0, 1, 2) if soft else (0, 2)
    found = dict(zip(wrt, jax.grad(function, wrt)(row.z, row.y, moving), strict=True))
    yield "slope mean", found[0], row.own
    if soft:
        yield "of_targets mean", found[1], str(row.y.dtype)
    for name, value in found[2].items():
        yield f"of_setting {name}", value, "float32"
