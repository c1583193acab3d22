"""A case as Python code to paste, which prints what both sides give for it."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from multismooth.convention import Convention
from multismooth.parity.calling.forms import one_hot
from multismooth.parity.checking.shrink import repeated_integers
from multismooth.parity.checking.subjects import answer_or_error
from multismooth.parity.reading import changed_fields
from multismooth.registry import conventions

STRIDES = {"torch": "torch.stack([z, -z], -1)[..., 0]", "numpy": "np.stack([z, -z], -1)[..., 0]"}


def code(case, a, b):
    """Python that prints what both sides give for the case."""
    if a.box.form.targets == "rows" and case.labels.ndim == 1:
        with suppress(IndexError):  # a label that names no class
            case = replace(case, labels=one_hot(case.labels, case.logits.shape[1]))
    integers = "" if case.labels.ndim == 2 else ", dtype=int"
    lines = [f"logits = {_array(case.logits)}", f"labels = np.array({case.labels.tolist()}{integers})"]
    for side in (a, b):
        lines += _call_of_reference(side, case) if side.name == "multismooth" else _call_of_subject(side, case)
    imports = ["import numpy as np", *(line for line in lines if line.startswith(("import ", "from ")))]
    return "\n".join([*dict.fromkeys(imports), "", *(line for line in lines if line not in imports)])


def _call_of_reference(side, case):
    arguments = {n: v for n, v in side.arguments(case).items() if v is not None and (n, v) != ("z_loss", 0.0)}
    text = ", ".join(f"{name}={_literal(value)}" for name, value in arguments.items())
    imports = ["import multismooth"] + ["from multismooth import Convention"] * ("Convention(" in text)
    return [*imports, f"print(multismooth.numpy.loss_and_grad(logits, labels, {text}))"]


def _call_of_subject(side, case):
    keywords = {**side.keywords, **case.keywords}
    text = "".join(f", {name}={_framework_literal(value, side)}" for name, value in keywords.items())
    answer, _ = answer_or_error(side, case)
    first = "[0]" if answer and answer.is_tuple else ""
    shape, flat = side.box_of(case).form.as_code(len(case.labels), case.logits.shape[1])
    flat = shape if case.labels.ndim == 2 else flat
    dtype = side.box.dtype if case.dtype == "float64" else case.dtype
    return _SNIPPETS[side.framework](side, shape, flat, dtype, text, first, case.strided)


def _name_and_import(side):
    """(the name of fn in the code, the line that imports it, or a comment that says what it stands for)."""
    fn = side.fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if module and name.isidentifier() and module != "__main__":
        lines = [f"from {module} import {name}"]
    else:
        name, lines = side.variable, [f"# {side.variable}: {side.name}"]
    if side.box.form.swapped:
        lines.append(f"swapped = lambda logits, targets, **keywords: {name}(targets, logits, **keywords)")
        name = "swapped"
    return name, lines


def _torch(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    z = f"torch.tensor(logits{shape}, dtype=torch.{dtype})"
    lines = ["import torch", *lines, f"z = {z}"]
    if strided:
        lines.append(f"z = {STRIDES['torch']}")
    return [
        *lines,
        f"loss = {name}(z.requires_grad_(), torch.tensor(labels{flat}){keywords}){first}",
        "print(loss.detach(), torch.autograd.grad(loss.sum(), z)[0])",
    ]


def _jax(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    cast = "" if dtype == "float64" else f", dtype={dtype!r}"  # float64 would warn where x64 is off
    return [
        "import jax",
        *lines,
        f"z, y = jax.numpy.asarray(logits{shape}{cast}), jax.numpy.asarray(labels{flat})",
        f"print({name}(z, y{keywords}), jax.grad(lambda z: {name}(z, y{keywords}){first}.sum())(z))",
    ]


def _numpy(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    lines.append(f"z = logits{shape}.astype({dtype!r})")
    if strided:
        lines.append(f"z = {STRIDES['numpy']}")
    return [*lines, f"print({name}(z, labels{flat}{keywords}))"]


def _tensorflow(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    return [
        "import tensorflow as tf",
        *lines,
        f"z, y = tf.constant(logits{shape}, dtype={dtype!r}), tf.constant(labels{flat})",
        "with tf.GradientTape() as tape:",
        "    tape.watch(z)",
        f"    loss = {name}(z, y{keywords}){first}",
        "print(loss, tape.gradient(loss, z))",
    ]


def _mlx(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    return [
        "import mlx.core as mx",
        *lines,
        f"z, y = mx.array(logits{shape}, dtype=mx.{dtype}), mx.array(labels{flat})",
        f"print({name}(z, y{keywords}), mx.grad(lambda z: {name}(z, y{keywords}){first}.sum())(z))",
    ]


def _tinygrad(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    return [
        "from tinygrad import Tensor, dtypes",
        *lines,
        f"z, y = Tensor(logits{shape}, dtype=dtypes.{dtype}), Tensor(labels{flat})",
        f"loss = {name}(z, y{keywords}){first}",
        "print(*(x.cast(dtypes.double).numpy() for x in (loss, loss.sum().gradient(z)[0])))",
    ]


def _paddle(side, shape, flat, dtype, keywords, first, strided):
    name, lines = _name_and_import(side)
    return [
        "import paddle",
        *lines,
        f"z = paddle.to_tensor(logits{shape}, dtype={dtype!r}, stop_gradient=False)",
        f"loss = {name}(z, paddle.to_tensor(labels{flat}){keywords}){first}",
        "print(loss, paddle.grad(loss.sum(), z)[0])",
    ]


_SNIPPETS = {
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
    "mlx": _mlx,
    "tinygrad": _tinygrad,
    "paddle": _paddle,
    "numpy": _numpy,
}
_ARRAYS = {  # an array of each framework, as code; floating ones in the dtype of z
    "torch": ("torch.tensor({})", ".to(z.dtype)"),
    "jax": ("jax.numpy.asarray({})", ""),
    "tensorflow": ("tf.constant({}{})", ", z.dtype"),
    "mlx": ("mx.array({}{})", ", z.dtype"),
    "tinygrad": ("Tensor({}{})", ", dtype=z.dtype"),
    "paddle": ("paddle.to_tensor({}{})", ", z.dtype"),
    "numpy": ("{}", ""),
}


def _literal(value):
    if isinstance(value, Convention):
        if conventions.get(value.name) == value:
            return repr(value.name)
        return f"Convention({', '.join(f'{name}={own!r}' for name, own in changed_fields(value).items())})"
    return _array(value) if isinstance(value, np.ndarray) else repr(value)


def _framework_literal(value, side):
    """A keyword argument as code, with arrays of the side's framework."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    call, cast = _ARRAYS[side.framework]
    cast = cast if value.dtype.kind == "f" else ""
    return call.format(_array(value), cast) if call.count("{}") > 1 else call.format(_array(value)) + cast


def _array(array):
    if array.size == 0 or (array.size > 100 and not array.any()):
        return f"np.zeros({array.shape})"
    if array.size > 100 and np.array_equal(array, repeated_integers(array.shape)):
        return f"np.resize(np.arange(7.0) - 3, {array.shape})"
    return f"np.array({array.tolist()!r})".replace("nan", "np.nan").replace("inf", "np.inf")
