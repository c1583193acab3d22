"""JAX's paths through the table of hard inputs.

Compiling takes half a second for each function and kind of row. So what JAX compiles for one row serves all rows that
differ from it in numbers alone: the public functions do so by themselves, and derivatives are functions of all arrays.
The `core` rows are also computed operation by operation (`jax.disable_jit`), in the same text.
"""

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

FIXED = ("axis", "convention", "ignore_index")  # settings that no compiled function takes as an argument
COMPILED = {}  # (path, what is fixed, shapes and dtypes): (a compiled function, names and dtypes of its results)


class Row:
    """A row's arrays in JAX, or NumPy's as they lie in memory, which the functions are to convert.

    arrays: what stands for them where they are traced (see `traced`).
    """

    def __init__(self, hard, arrays=None):
        self.hard, self.wide, self.own = hard, loss_dtype(hard), hard.dtype
        arrays = arrays or own_arrays(hard, LAYOUTS[hard.layout] if hard.layout != "plain" else jax.device_put)
        self.z, self.y, self.settings, self.linear_head = (arrays[name] for name in ("z", "y", "settings", "head"))
        self.cotangent, self.direction, self.turn = (arrays[name] for name in ("cotangent", "direction", "turn"))

    def call(self, function, reduction="mean", **more):
        return function(self.z, self.y, **options(self.hard, self.settings, reduction), **more)

    def head(self, function, reduction, hidden=None, **more):
        own, classifier, bias = self.linear_head
        settings = options(self.hard, self.settings, reduction) | more
        return function(own if hidden is None else hidden, classifier, self.y, bias=bias, **settings)


def own_arrays(hard, lay):
    """{name: arrays} of a row; `lay` makes an array of NumPy's what the functions are given."""
    expected = answers(hard.name)
    return {
        "z": lay(hard.logits),
        "y": lay(hard.targets),
        "settings": {k: lay(value) if isinstance(value, np.ndarray) else value for k, value in hard.settings.items()},
        "head": hard.head and tuple(map(jax.device_put, hard.head)),
        "cotangent": jax.device_put(expected.cotangent.astype(loss_dtype(hard))),
        "direction": jax.device_put(expected.direction.astype(hard.logits.dtype)),
        "turn": jax.device_put(expected.turn),
    }


def traced(hard, run, **compiler):
    """The results of a row by one compiled function of all that may be traced: arrays, and ε where it is a number."""
    arrays = own_arrays(hard, jax.device_put)
    settings = {"label_smoothing": 0.1} | arrays["settings"]
    fixed = {name: settings.pop(name) for name in FIXED if name in settings}
    arrays["settings"] = settings
    kinds = jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), arrays)
    key = run, bool(compiler), tuple(fixed.items()), repr(kinds)
    if key not in COMPILED:
        names = []

        def function(arrays):
            row = Row(hard, arrays | {"settings": fixed | arrays["settings"]})
            quantities, results, dtypes = zip(*run(row), strict=True)
            names[:] = zip(quantities, dtypes, strict=True)
            return results

        COMPILED[key] = jax.jit(function, **compiler), names
    function, names = COMPILED[key]
    results = function(arrays)
    return [(quantity, result, dtype) for (quantity, dtype), result in zip(names, results, strict=True)]


def called(hard, run):
    """The results of a row as a user calls the functions."""
    return list(run(Row(hard)))


def stepwise(hard, run):
    """The results of a row, operation by operation."""
    with jax.disable_jit():
        return list(run(Row(hard)))


def on(name, *unfit, how=called, **more):
    def enter(run):
        def under(hard):
            with jax.enable_x64(hard.dtype == "float64"):
                return how(hard, run, **more)

        path(name, "jax", *unfit)(under)
        return run

    return enter


@on("loss, loss_and_grad, operation by operation", not_core, how=stepwise)
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


@on("every derivative, operation by operation", not_core, how=stepwise)
@on("every derivative under jax.jit, as XLA compiles by default", not_core, how=traced, compiler_options=XLA_DEFAULTS)
@on("every derivative", how=traced)
def every_derivative(row):
    z = jnp.asarray(row.z)

    def each(z):
        return ms.loss(z, row.y, reduction="none", **options(row.hard, row.settings, None))

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


@on("the targets' gradients", labels, infinite_slopes, infinite_entropy, how=traced)
def of_targets(row):
    def of(z, y):
        return ms.loss(z, y, **options(row.hard, row.settings, "mean"))

    z, y = jnp.asarray(row.z), jnp.asarray(row.y)
    slope, moved = jax.grad(of, (0, 1))(z, y)
    yield "slope mean", slope, row.own
    yield "of_targets mean", moved, str(y.dtype)
    turn = jnp.asarray(row.turn, y.dtype)
    yield "twist mean", jax.grad(lambda z: jax.jvp(lambda y: of(z, y), (y,), (turn,))[1])(z), row.own


@on("the settings' gradients", unlike_slopes, infinite_entropy, how=traced)
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
def not_few(hard):
    return hard.name not in ("offset 0", "NaN behind an ignored label", "NaN behind weight 0, soft", "one-hot rows")


@on("linear_loss and its derivatives, operation by operation", not_few, no_head, how=stepwise)
@on("linear_loss and its derivatives, each compiled alone", not_few, no_head)
def derivatives_and_a_rest(row):
    return linear_derivatives(row, chunk_rows=3)


@on("linear_loss and its derivatives", no_head, how=traced)
def linear_derivatives(row, chunk_rows=2):
    """A last chunk that is smaller is compiled once more, for half a second: it is for few rows, and for `linear`."""
    hidden = row.linear_head[0]

    def of(reduction):
        return lambda x: row.head(ms.linear_loss, reduction, x, chunk_rows=chunk_rows)

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
