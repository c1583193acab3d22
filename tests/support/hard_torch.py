"""PyTorch's paths through the table of hard inputs."""

from contextlib import contextmanager, nullcontext

import numpy as np
from hard_answers import answers
from hard_numpy import empty, half, not_columns, rows_differ
from hard_paths import (
    REDUCTIONS,
    alike,
    infinite,
    infinite_entropy,
    infinite_slopes,
    labels,
    loss_dtype,
    no_axes,
    no_head,
    no_targets,
    not_in_the_original,
    not_of_rank_one,
    not_rows,
    options,
    path,
    refused_labels,
    rule,
    shared_memory,
    unlike_slopes,
)  # fmt: skip
from hard_rows import LAYOUTS
from requirements import interpreted, need

import multismooth

try:
    import torch

    import multismooth.torch as ms
except ImportError:  # the tests that need it are skipped
    torch = None


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


UNDER = {
    "nothing": nullcontext,
    "default device": lambda: torch.device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype float16": lambda: default_dtype(torch.float16),
}


def tensor(array, layout="plain"):
    """An array as a tensor that lies in memory like it."""
    if not isinstance(array, np.ndarray | np.generic):
        return array
    if layout == "expanded":
        return tensor(array[:1].copy()).expand(array.shape)
    array = LAYOUTS[layout](np.asarray(array))
    if array.dtype.kind == "V":
        return tensor(array.astype(np.float32)).bfloat16()
    found = torch.from_numpy(array)
    if layout == "negative bit" and array.dtype.kind == "f":
        found = torch.complex(torch.zeros_like(found), -found).conj().imag
        assert found.is_neg()
    return found


class Row:
    """A row's tensors; a leaf of its own for the logits and the soft targets of every call that wants gradients."""

    def __init__(self, hard):
        self.hard, layout = hard, hard.layout
        beside = LAYOUTS["read-only"] if layout == "arrays beside tensors" else lambda a: tensor(a, layout)
        self.z, self.y = tensor(hard.logits, layout), beside(hard.targets)
        self.settings = {
            name: beside(value) if isinstance(value, np.ndarray) else value for name, value in hard.settings.items()
        }
        self.wide, self.own = loss_dtype(hard), hard.dtype
        expected = answers(hard.name)
        dtype = getattr(torch, self.wide)
        self.cotangent = torch.tensor(expected.cotangent, dtype=dtype)
        self.direction = torch.tensor(expected.direction, dtype=self.z.dtype)
        self.turn = torch.tensor(expected.turn)

    def upstream(self, reduction):
        return self.cotangent if reduction == "none" else torch.ones_like(self.cotangent.sum(), device="cpu")

    def leaf(self):
        self.z = self.z.detach().requires_grad_()
        return self

    def call(self, function, reduction="mean", **more):
        return function(self.z, self.y, **options(self.hard, self.settings, reduction), **more)

    def of(self, reduction, function=None):
        """logits → loss."""
        function = function or ms.loss
        return lambda z: function(z, self.y, **options(self.hard, self.settings, reduction))

    def head(self):
        hidden, classifier, bias = self.hard.head
        return [tensor(hidden, self.hard.layout), tensor(classifier), tensor(bias)]


def on(name, *unfit):
    """A path whose calls are made under what the row says."""

    def enter(run):
        def under(hard):
            row = Row(hard)
            with UNDER[hard.under]():
                return list(run(row))

        path(name, "torch", *unfit)(under)
        return run

    return enter


@on("loss")
def loss(row):
    for reduction in REDUCTIONS:
        yield f"loss {reduction}", row.call(ms.loss, reduction), row.wide


@on("backward")
def backward(row):
    for reduction in REDUCTIONS:
        value = row.leaf().call(ms.loss, reduction)
        yield f"loss {reduction}", value, row.wide
        for _ in range(2):  # a graph that is kept
            (slope,) = torch.autograd.grad(value, row.z, row.upstream(reduction), retain_graph=True)
            yield f"slope {reduction}", slope, row.own


@on("double backward")
def double_backward(row):
    for reduction in ("mean", "none"):
        value = row.leaf().call(ms.loss, reduction)
        (slope,) = torch.autograd.grad(value, row.z, row.upstream(reduction), create_graph=True)
        yield f"slope {reduction}", slope, row.own
        yield f"curve {reduction}", torch.autograd.grad(slope, row.z, row.direction)[0], row.own


@on("torch.func.jvp", shared_memory, no_axes)
def forward_mode(row):
    for reduction in ("mean", "none"):
        value, tangent = torch.func.jvp(row.of(reduction), (row.z,), (row.direction,))
        yield f"loss {reduction}", value, row.wide
        yield f"tangent {reduction}", tangent, row.wide


@on("torch.func.grad", shared_memory)
def func_grad(row):
    yield "slope mean", torch.func.grad(row.of("mean"))(row.z), row.own
    weighted = lambda z: (row.of("none")(z) * row.cotangent).sum()  # noqa: E731
    slope, curve = torch.func.jvp(torch.func.grad(weighted), (row.z,), (row.direction,))
    yield "slope none", slope, row.own
    yield "curve none", curve, row.own


@on("vmap")
def vmap(row):
    both = torch.stack([row.z, row.z])
    for reduction in ("mean", "none"):
        for value in torch.func.vmap(row.of(reduction))(both):
            yield f"loss {reduction}", value, row.wide
        if isinstance(row.y, torch.Tensor):
            targets = torch.stack([row.y, row.y])
            function = lambda z, y: ms.loss(z, y, **options(row.hard, row.settings, reduction))  # noqa: E731, B023
            yield f"loss {reduction}", torch.func.vmap(function)(both, targets)[1], row.wide
    for slope in torch.func.vmap(torch.func.grad(row.of("mean")))(both):
        yield "slope mean", slope, row.own


@on("vmap over backward")
def batched_backward(row):
    value = row.leaf().call(ms.loss)
    (slopes,) = torch.autograd.grad(value, row.z, torch.stack([row.upstream("mean")] * 2), is_grads_batched=True)
    yield "slope mean", slopes[1], row.own


@on("the targets' gradients", labels, infinite_slopes, infinite_entropy)
def of_targets(row):
    y = row.y if isinstance(row.y, torch.Tensor) else torch.tensor(row.y)
    row.leaf().y = y = y.detach().requires_grad_()
    dtype = str(y.dtype).rpartition(".")[2]
    value = row.call(ms.loss)
    slope, moved = torch.autograd.grad(value, (row.z, y), create_graph=True)
    yield "slope mean", slope, row.own
    yield "of_targets mean", moved, dtype
    (twist,) = torch.autograd.grad(moved, row.z, row.turn.to(y.dtype))
    yield "twist mean", twist, row.own
    row.z = row.z.detach()
    yield "of_targets mean", torch.autograd.grad(row.call(ms.loss), y)[0], dtype
    functional = torch.func.grad(lambda y: ms.loss(row.z, y, **options(row.hard, row.settings, "mean")))
    yield "of_targets mean", functional(y.detach()), dtype


@on("the settings' gradients", unlike_slopes, infinite_entropy)
def of_settings(row):
    for name in ("label_smoothing", "weight", "prior", "sample_weight"):
        value = row.settings.get(name, 0.1 if name == "label_smoothing" else None)
        if value is not None and getattr(value, "dtype", torch.float32) != torch.bool:
            dtype = getattr(value, "dtype", getattr(torch, row.wide))
            own = row.settings[name] = torch.as_tensor(value, dtype=dtype, device="cpu").detach().requires_grad_()
            (found,) = torch.autograd.grad(row.call(ms.loss), own)
            yield f"of_setting {name}", found, str(dtype).rpartition(".")[2]
            row.settings[name] = value


@on("terms")
def terms(row):
    found = row.leaf().call(ms.terms, None)
    yield "loss none", found.loss, row.wide
    yield "nll", found.nll, row.wide
    yield "share", found.weight, row.wide
    yield "slope none", torch.autograd.grad(found.loss, row.z, row.cotangent)[0], row.own


@on("loss_and_grad")
def loss_and_grad(row):
    for reduction in REDUCTIONS:
        value, gradient = row.call(ms.loss_and_grad, reduction)
        yield f"loss {reduction}", value, row.wide
        yield f"raw {reduction}", gradient, row.own
    yield from into(row)


def into(row):
    """Gradients into memory of the caller's."""
    out = torch.full(row.z.shape, float("nan"), dtype=row.z.dtype, device="cpu")
    assert row.call(ms.loss_and_grad, out=out)[1] is out
    yield "raw mean", out, row.own
    given, row.z = row.z, row.z.clone()
    yield "raw none", row.call(ms.loss_and_grad, "none", out=row.z)[1], row.own
    row.z = given


@on("smooth_targets", no_targets)
def smooth_targets(row):
    names = ("label_smoothing", "convention", "prior", "class_mask", "ignore_index", "axis")
    settings = {name: value for name, value in row.settings.items() if name in names}
    for dtype in ("float32", "float64"):
        yield "q", ms.smooth_targets(row.y, row.hard.classes, dtype=getattr(torch, dtype), **settings), dtype


# --- linear heads -----------------------------------------------------------------------------------------------------


def differentiated(row, function, reduction, **more):
    """(the loss of a head, its gradients) by autograd."""
    parts = [part.requires_grad_() for part in row.head()]
    value = function(*parts[:2], row.y, bias=parts[2], **options(row.hard, row.settings, reduction), **more)
    return value, torch.autograd.grad(value, parts, row.upstream(reduction))


@on("linear_loss", no_head)
def linear(row):
    for chunk_rows, reduction in ((None, "mean"), (1, "sum"), (3, "mean"), (3, "none")):
        value, found = differentiated(row, ms.linear_loss, reduction, chunk_rows=chunk_rows)
        yield f"loss {reduction}", value, row.wide
        for name, gradient in zip(("slope", "of_classifier", "of_bias"), found, strict=True):
            yield f"{name} {reduction}", gradient, row.own


@on("linear_loss without gradients, linear_loss_and_grad", no_head, alike)
def linear_and_grad(row):
    hidden, classifier, bias = row.head()
    for reduction in REDUCTIONS:
        settings = options(row.hard, row.settings, reduction) | {"chunk_rows": 3, "bias": bias}
        yield f"loss {reduction}", ms.linear_loss(hidden, classifier, row.y, **settings), row.wide
        value, found = ms.linear_loss_and_grad(hidden, classifier, row.y, **settings)
        yield f"loss {reduction}", value, row.wide
        for name, gradient in zip(("raw", "of_classifier", "of_bias"), found, strict=True):
            if reduction != "none":
                yield f"{name} {reduction}", gradient, row.own


@on("linear_loss, double backward and torch.func", no_head, alike, no_axes)
def linear_twice(row):
    hidden, classifier, bias = row.head()

    def function(hidden, reduction="mean"):
        settings = options(row.hard, row.settings, reduction)
        return ms.linear_loss(hidden, classifier, row.y, bias=bias, chunk_rows=3, **settings)

    leaf = hidden.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    yield "curve mean", torch.autograd.grad(slope, leaf, row.direction)[0], row.own
    yield "tangent none", torch.func.jvp(lambda x: function(x, "none"), (hidden,), (row.direction,))[1], row.wide
    yield "slope mean", torch.func.grad(function)(hidden), row.own
    yield "loss none", torch.func.vmap(lambda x: function(x, "none"))(torch.stack([hidden] * 2))[1], row.wide


@on("smoothing_correction", no_head, not_of_rank_one)
def correction(row):
    row.settings.pop("z_loss", None)
    hidden, classifier, bias = row.head()
    for reduction in REDUCTIONS:
        settings = options(row.hard, row.settings, reduction)
        value = ms.smoothing_correction(hidden, classifier, row.y, bias=bias, **settings)
        yield f"correction {reduction}", value, row.wide


# --- drop-ins ---------------------------------------------------------------------------------------------------------


def as_original(row):
    """The settings of PyTorch's own functions."""
    found = {name: value for name, value in row.settings.items() if name != "axis"}
    return {"label_smoothing": 0.1} | found


@on("cross_entropy", not_in_the_original, refused_labels)
def cross_entropy(row):
    for reduction in REDUCTIONS:
        value = ms.cross_entropy(row.leaf().z, row.y, reduction=reduction, **as_original(row))
        yield f"original {reduction}", value, row.own
        upstream = row.upstream(reduction).to(value.dtype)
        yield f"slope {reduction}", torch.autograd.grad(value, row.z, upstream)[0], row.own


@on("linear_cross_entropy", not_in_the_original, refused_labels, not_rows, no_head)
def linear_cross_entropy(row):
    hidden, classifier, bias = row.head()
    settings = as_original(row)
    if row.hard.soft:
        settings.pop("ignore_index", None)
    for reduction in REDUCTIONS:
        leaf = hidden.detach().requires_grad_()
        value = ms.linear_cross_entropy(leaf, classifier, row.y, linear_bias=bias, reduction=reduction, **settings)
        yield f"original {reduction}", value, row.own
        upstream = row.upstream(reduction).to(value.dtype)
        yield f"slope {reduction}", torch.autograd.grad(value, leaf, upstream)[0], row.own


# --- kernels by name --------------------------------------------------------------------------------------------------


def kernel(name, *unfit):
    @on(f"implementation {name}", *unfit)
    def forced(row):
        if name == "numba":
            need("numba")
        with multismooth.implementation(name):
            yield from into(row)
            for reduction in ("mean",) if name == "columns" else ("mean", "none"):
                yield from once(row, reduction)


def once(row, reduction):
    value = row.leaf().call(ms.loss, reduction)
    yield f"loss {reduction}", value, row.wide
    yield f"slope {reduction}", torch.autograd.grad(value, row.z, row.upstream(reduction))[0], row.own


@rule("the interpreter takes long, or truncates to bfloat16")
def slow(hard):
    chosen = hard.core or infinite(hard) or hard.classes == 1 or "3e38" in hard.name or "offset" in hard.name
    return not chosen or hard.dtype == "bfloat16"


@rule("its smoothing term is counted from the label's logit, from which the others are too far here")
def far_label(hard):
    return hard.name in ("3e38 and 0", "labels a million below, ε = 1, prior 0 there")


@on("implementation triton", empty, slow, rows_differ, far_label)
def triton(row):
    interpreted()
    with multismooth.implementation("triton"), np.errstate(all="ignore"):  # the interpreter computes in NumPy
        for reduction in ("mean", "none"):
            yield from once(row, reduction)


@rule("float16 has other kernels, and bfloat16's take a minute to compile: test_kernels has them")
def compiled_elsewhere(hard):
    return hard.logits.itemsize == 2


kernel("whole")
kernel("chunked", empty)
kernel("columns", empty, half, not_columns)
kernel("numba", empty, compiled_elsewhere, rows_differ)
