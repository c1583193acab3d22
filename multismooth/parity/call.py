"""Calling somebody's loss: NumPy goes in, arrays of its framework reach it, loss and gradient come back as NumPy."""

import sys
import warnings
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from multismooth.errors import MissingBackendError, complain

FRAMEWORKS = ("torch", "jax", "numpy")
CLASSES = (5, 3, 10, 2, 4, 6, 7, 8, 9, 12, 16, 20, 21, 32, 50, 64, 100, 1000)

QUICKLY = {"xla_backend_optimization_level": "0"}  # each program runs a few times only

# layout: (how (B, T, K) logits are turned, what the function is shown)
LAYOUTS = {
    "rows": (None, "(N, K), (N,)"),
    "sentences": ((0, 1, 2), "(B, T, K), (B, T)"),
    "channels": ((0, 2, 1), "(B, K, T), (B, T)"),
}


class Answer(NamedTuple):
    """What one call returned: `loss` is () or (N,), `gradient` that of the summed loss or None."""

    loss: np.ndarray
    gradient: Any
    precision: float  # of the coarsest dtype on the way


class Box:
    """fn as a function of NumPy arrays (N, K), (N,): `box(logits, labels) -> Answer`, whatever it runs in."""

    def __init__(self, fn, mode, layout="rows", dtype=np.float64):
        self.fn, self.mode, self.layout, self.dtype = fn, mode, layout, dtype
        self.num_classes, self.calls = 0, 0
        self._evaluate = _MODES[mode](fn)

    @property
    def framework(self):
        return self.mode.partition(" ")[0]

    def sentences(self, n):
        """B of the (B, T) that n elements are shown as; None where they are shown as (N,)."""
        return None if self.layout == "rows" else max(b for b in range(1, n + 1) if n % b == 0 and b * b <= n)

    def __call__(self, logits, labels):
        self.calls += 1
        z, y = logits.astype(self.dtype), labels
        turn = LAYOUTS[self.layout][0]
        if turn:
            y = y.reshape(self.sentences(len(y)), -1)
            z = np.ascontiguousarray(z.reshape(*y.shape, -1).transpose(turn))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            loss, gradient, precision = self._evaluate(z, y)
        if loss.size != 1 and loss.size != labels.size:
            raise complain("fn", "a loss, or one per element", f"shape {loss.shape} for targets {y.shape}", "")
        if gradient is not None:
            gradient = gradient.transpose(turn).reshape(logits.shape) if turn else gradient
        loss = loss.reshape(-1) if loss.size == labels.size and loss.ndim else loss.reshape(())
        return Answer(loss, gradient, precision)


def connect(fn, framework=None, num_classes=None):
    """The first way of calling fn that gives a finite loss: framework, layout, dtype and number of classes.

    Raises ValueError with every way that was tried when none does.
    """
    if not callable(fn):
        raise complain("fn", "a function fn(logits, targets) that returns a loss", type(fn).__name__, "")
    if framework not in (None, *FRAMEWORKS):
        raise complain("framework", 'None, "torch", "jax" or "numpy"', repr(framework), "None tries them all.")
    if framework in FRAMEWORKS and not find_spec(framework):
        raise MissingBackendError(f"parity needs {framework} to call fn with, and it is not installed")
    failures = {}
    for classes in CLASSES if num_classes is None else (num_classes,):
        for mode in _modes(framework):
            for box in (Box(fn, mode, layout, dtype) for layout in LAYOUTS for dtype in (np.float64, np.float32)):
                if failure := _failure(box, classes):
                    failures.setdefault((mode, failure), (LAYOUTS[box.layout][1], classes))
                    continue
                box.num_classes, box.calls = classes, 0
                return box
    tried = [
        f"\n  {mode}: fn(logits, targets) of shapes {shapes}, K = {classes}: {why}"
        for (mode, why), (shapes, classes) in list(failures.items())[:12]
    ]
    raise complain(
        "fn",
        "a function fn(logits, targets) that returns a loss, or (loss, gradient)",
        "no finite loss from any call, for example" + "".join(tried),
        "\nWrap it so that it takes floating logits and integer labels; if it takes one number of classes "
        "only, name it with num_classes=.",
    )


def _failure(box, classes):
    """Why a box cannot be called with so many classes, in a line; "" if it can."""
    n = 3 * max(min(classes, 34) - 1, 1)
    logits = np.random.default_rng(classes).normal(size=(n, classes))
    why = ""
    for labels in (np.arange(n) % classes, *(np.full(n, k) for k in range(min(classes, 6)))):
        try:
            answer = box(logits, labels)
        except Exception as error:
            again = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        else:
            if np.isfinite(answer.loss).all():
                return ""
            again = f"the loss is {answer.loss.flat[0]}"
        if again == why:
            return why  # whatever the labels are
        why = again
    return why


def _modes(framework):
    """Ways of calling, the likeliest first: autodiff, NumPy, values only; what is not even imported comes last."""
    if framework:
        return [mode for mode in _MODES if mode.partition(" ")[0] == framework]
    here = [mode for mode in _MODES if mode.partition(" ")[0] in sys.modules]
    installed = [mode for mode in _MODES if mode not in here and find_spec(mode.partition(" ")[0])]
    return here + [mode for mode in installed if "values" not in mode]


# --- one function per way of calling --------------------------------------------------------------------------------


def _parts(result, logits):
    """(loss, gradient or None) of what fn returned: a loss, (loss, gradient), or (loss, anything else)."""
    if not isinstance(result, (tuple, list)) or not result:
        return result, None
    loss, second = result[0], result[1] if len(result) > 1 else None
    is_gradient = getattr(second, "shape", None) == logits.shape and second is not logits
    return loss, second if is_gradient and bool((second != logits).any()) else None


def _array(value):
    return np.asarray(value, dtype=np.float64)


def _by_torch(fn, gradient=True):
    import torch

    def evaluate(z, y):
        logits = torch.tensor(z, requires_grad=gradient)
        with torch.enable_grad():
            loss, slope = _parts(fn(logits, torch.tensor(y)), logits.detach())
        loss = torch.as_tensor(loss)
        if slope is None and gradient:
            (slope,) = torch.autograd.grad(loss.sum(), logits)
        precision = max(torch.finfo(x.dtype).eps for x in (loss, slope) if x is not None and x.is_floating_point())
        return _array(loss.detach().double()), None if slope is None else _array(slope.detach().double()), precision

    return evaluate


def _by_jax(fn, compiled=True):
    import jax
    import jax.numpy as jnp

    if not compiled:
        differentiated = partial(_jax_value_and_grad, fn)
    elif isinstance(fn, jax.tree_util.Partial):
        differentiated = partial(_jitted_once(), fn)
    else:
        differentiated = jax.jit(partial(_jax_value_and_grad, fn), compiler_options=QUICKLY)

    def evaluate(z, y):
        logits = jnp.asarray(z)
        loss, slope, autodiff = differentiated(logits, jnp.asarray(y))
        slope = autodiff if slope is None or not bool((slope != logits).any()) else slope
        precision = max(float(jnp.finfo(jnp.asarray(x).dtype).eps) for x in (loss, slope))
        return _array(loss), _array(slope), precision

    return evaluate


def _jax_value_and_grad(fn, logits, labels):
    """(loss, a gradient that fn itself returned or None, the gradient of the summed loss)."""
    import jax
    import jax.numpy as jnp

    def total(logits):
        loss, slope = fn(logits, labels), None
        if isinstance(loss, (tuple, list)):
            loss, slope = loss[0], loss[1] if len(loss) > 1 and jnp.shape(loss[1]) == logits.shape else None
        return jnp.sum(loss), (loss, slope)

    gradient, (loss, slope) = jax.grad(total, has_aux=True)(logits)
    return loss, slope, gradient


@cache
def _jitted_once():
    """For functions that are `jax.tree_util.Partial`s: their arguments are traced, so variants share one program."""
    import jax

    return jax.jit(_jax_value_and_grad, compiler_options=QUICKLY)


def _by_numpy(fn, convert=lambda array: array):
    def evaluate(z, y):
        logits = convert(z)
        loss, slope = _parts(fn(logits, convert(y)), logits)
        dtypes = [np.asarray(x).dtype for x in (loss, slope) if x is not None]
        if any(dtype.kind != "f" for dtype in dtypes):
            raise TypeError(f"fn returned {type(loss).__name__} of dtype {dtypes[0]}, which is no loss")
        precision = max(float(np.finfo(dtype).eps) for dtype in dtypes)
        return _array(loss), None if slope is None else _array(slope), precision

    return evaluate


def _jax_values(fn):
    import jax.numpy as jnp

    return _by_numpy(fn, jnp.asarray)


_MODES = {
    "torch": _by_torch,
    "jax": _by_jax,
    "jax eagerly": lambda fn: _by_jax(fn, compiled=False),
    "numpy": _by_numpy,
    "torch values": lambda fn: _by_torch(fn, gradient=False),
    "jax values": _jax_values,
}
