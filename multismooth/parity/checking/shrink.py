"""The smallest failing case: elements and classes are dropped and logits rounded while the same trial still fails."""

from dataclasses import replace

import numpy as np

from multismooth.convention import Convention
from multismooth.parity.calling.black_box import LAYOUTS
from multismooth.parity.checking.subjects import asked
from multismooth.parity.identification import changed
from multismooth.registry import conventions

STRIDES = {"torch": "torch.stack([z, -z], -1)[..., 0]", "numpy": "np.stack([z, -z], -1)[..., 0]"}


def shrink(fails, case, ground):
    """A smaller case with fails(case); its classes may go too where the loss takes any K."""
    n = len(case.labels)
    step = n // 2
    while step:
        for start in range(len(case.labels) - step, -1, -step):
            keep = np.ones(len(case.labels), bool)
            keep[start : start + step] = False
            if keep.any() and fails(fewer := case.rows(keep)):
                case = fewer
        step //= 2
    lowest = next(k for k in range(ground.num_classes) if k not in ground.forbidden and k != ground.ignored)
    relabelled = np.where(np.isin(case.labels, range(case.logits.shape[1])), lowest, case.labels)
    if not np.isin(ground.ignored, case.labels) and fails(fewer := replace(case, labels=relabelled)):
        case = fewer
    while ground.free and case.logits.shape[1] > 2 and case.labels.max(initial=0) < case.logits.shape[1] - 1:
        k = case.logits.shape[1]
        sizes = (2, 3, k // 2, 3 * k // 4, k - 1 if k <= 12 else k)  # one by one, each compiled anew, takes minutes
        smaller = (c for c in dict.fromkeys(sizes) if case.labels.max(initial=0) < c < k)
        fewer = next((c for c in map(case.classes, smaller) if fails(c)), None)
        if fewer is None:
            break
        case = fewer
    shape = case.logits.shape
    for rounded in (np.zeros(shape), _pattern(shape), np.round(case.logits)):
        plain = replace(case, logits=np.where(np.isfinite(case.logits), rounded, case.logits))
        if fails(plain):
            return plain
    return case


def code(case, a, b):
    """Python that shows the case: what both sides give for it."""
    lines = [f"logits = {_numbers(case.logits)}", f"labels = np.array({case.labels.tolist()}, dtype=int)"]
    for side in (a, b):
        lines += _of_reference(side, case) if side.name == "multismooth" else _of_subject(side, case)
    imports = ["import numpy as np", *(line for line in lines if line.startswith(("import ", "from ")))]
    return "\n".join([*dict.fromkeys(imports), "", *(line for line in lines if line not in imports)])


def _of_reference(side, case):
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in _telling(side.arguments(case)).items())
    imports = ["import multismooth"] + ["from multismooth import Convention"] * ("Convention(" in arguments)
    return [*imports, f"print(multismooth.numpy.loss_and_grad(logits, labels, {arguments}))"]


def _of_subject(side, case):
    given = "".join(f", {name}={_framed(value, side)}" for name, value in {**side.given, **case.given}.items())
    answer, _ = asked(side, case)
    first = "[0]" if answer and answer.more else ""
    turn, n = LAYOUTS[side.box.layout][0], len(case.labels)
    shape = "" if turn is None else f".reshape({side.box.sentences(n)}, -1, {case.logits.shape[1]}).transpose{turn}"
    flat = "" if turn is None else f".reshape({side.box.sentences(n)}, -1)"
    dtype = side.box.dtype if case.dtype == "float64" else case.dtype
    return _SNIPPETS[side.framework](side, shape, flat, dtype, given, first, case.strided)


def _origin(side):
    fn = side.fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if module and name.isidentifier() and module != "__main__":
        return name, [f"from {module} import {name}"]
    return side.variable, [f"# {side.variable}: {side.name}"]


def _torch(side, shape, flat, dtype, given, first, strided):
    name, lines = _origin(side)
    z = f"torch.tensor(logits{shape}, dtype=torch.{dtype})"
    lines = ["import torch", *lines, f"z = {z}"]
    if strided:
        lines.append(f"z = {STRIDES['torch']}")
    return [
        *lines,
        f"loss = {name}(z.requires_grad_(), torch.tensor(labels{flat}){given}){first}",
        "print(loss.detach(), torch.autograd.grad(loss.sum(), z)[0])",
    ]


def _jax(side, shape, flat, dtype, given, first, strided):
    name, lines = _origin(side)
    cast = "" if dtype == "float64" else f", dtype={dtype!r}"  # float64 would warn where x64 is off
    return [
        "import jax",
        *lines,
        f"z, y = jax.numpy.asarray(logits{shape}{cast}), jax.numpy.asarray(labels{flat})",
        f"print({name}(z, y{given}), jax.grad(lambda z: {name}(z, y{given}){first}.sum())(z))",
    ]


def _numpy(side, shape, flat, dtype, given, first, strided):
    name, lines = _origin(side)
    lines.append(f"z = logits{shape}.astype({dtype!r})")
    if strided:
        lines.append(f"z = {STRIDES['numpy']}")
    return [*lines, f"print({name}(z, labels{flat}{given}))"]


_SNIPPETS = {"torch": _torch, "jax": _jax, "numpy": _numpy}


def _telling(arguments):
    return {name: value for name, value in arguments.items() if value is not None and (name, value) != ("z_loss", 0.0)}


def _literal(value):
    if isinstance(value, Convention):
        if conventions.get(value.name) == value:
            return repr(value.name)
        return f"Convention({', '.join(f'{name}={own!r}' for name, own in changed(value).items())})"
    return _numbers(value) if isinstance(value, np.ndarray) else repr(value)


def _framed(value, side):
    """A keyword argument, arrays as the side's framework has them."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    text = _numbers(value)
    cast = ".to(z.dtype)" if value.dtype.kind == "f" else ""
    return {"torch": f"torch.tensor({text}){cast}", "jax": f"jax.numpy.asarray({text})"}.get(side.framework, text)


def _pattern(shape):
    """Logits that are short to write, however many there are."""
    return np.resize(np.arange(7.0) - 3, shape)


def _numbers(array):
    if array.size == 0 or (array.size > 100 and not array.any()):
        return f"np.zeros({array.shape})"
    if array.size > 100 and np.array_equal(array, _pattern(array.shape)):
        return f"np.resize(np.arange(7.0) - 3, {array.shape})"
    return f"np.array({array.tolist()!r})".replace("nan", "np.nan").replace("inf", "np.inf")
