"""Calling somebody's loss: NumPy goes in, arrays of its framework reach it, loss and gradient come back as NumPy."""

import sys
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product

import numpy as np

from multismooth.errors import MissingBackendError, complain
from multismooth.parity.calling.frameworks import CALLERS, NOTHING, Call

FRAMEWORKS = ("torch", "jax", "numpy")
CLASSES = (5, 3, 10, 2, 4, 6, 7, 8, 9, 12, 16, 20, 21, 32, 50, 64, 100, 1000)

# layout: (how (B, T, K) logits are turned, what the function is shown)
LAYOUTS = {
    "rows": (None, "(N, K), (N,)"),
    "sentences": ((0, 1, 2), "(B, T, K), (B, T)"),
    "channels": ((0, 2, 1), "(B, K, T), (B, T)"),
}


class Box:
    """fn as a function of NumPy arrays (N, K), (N,): `box(logits, labels) -> Answer`, whatever it runs in."""

    def __init__(self, caller, mode, layout="rows", dtype="float64", given=NOTHING):
        self.caller, self.mode, self.layout, self.dtype, self.given = caller, mode, layout, dtype, given
        self.num_classes, self.calls = 0, 0

    @property
    def framework(self):
        return self.mode.partition(" ")[0]

    def sentences(self, n):
        """B of the (B, T) that n elements are shown as; None where they are shown as (N,)."""
        if self.layout == "rows":
            return None
        return max((b for b in range(1, n + 1) if n % b == 0 and b * b <= n), default=1)

    def __call__(self, logits, labels, call=None):
        self.calls += 1
        z, y, call = self.shown(logits, labels, call)
        with silence():
            answer = self.caller(z, y, call)
        loss, gradient = answer.loss, answer.gradient
        if loss.size != 1 and loss.size != labels.size:
            got, remedy = f"shape {loss.shape} for targets {y.shape}", "Reduce it, or return one loss per element."
            raise complain("fn", "a loss, or one per element", got, remedy)
        if gradient is not None:
            gradient = self.as_rows(gradient, logits)
        loss = loss.reshape(-1) if loss.size == labels.size and loss.ndim else loss.reshape(())
        return answer._replace(loss=loss, gradient=gradient)

    def pullback(self, logits, labels, cotangents, call=None):
        """The gradients of Σ cotangent·loss, from one forward pass; None where fn cannot be differentiated."""
        z, y, call = self.shown(logits, labels, call)
        with silence():
            slopes = self.caller.pullback(z, y, call, cotangents)
        return None if slopes is None else [self.as_rows(slope, logits) for slope in slopes]

    def shown(self, logits, labels, call):
        """What the caller is given for (N, K), (N,): this box's layout and dtype."""
        z, y, call = logits.astype(np.float64), labels, call or Call()
        dtype = self.dtype if call.dtype == "float64" else call.dtype
        call = call._replace(dtype=dtype, given={**self.given, **call.given})
        turn = LAYOUTS[self.layout][0]
        if turn:
            y = y.reshape(self.sentences(len(y)), -1)
            z = np.ascontiguousarray(z.reshape(*y.shape, z.shape[-1]).transpose(turn))
            given = {n: v.reshape(y.shape) if n == "sample_weight" else v for n, v in call.given.items()}
            call = call._replace(given=given)
        return z, y, call

    def as_rows(self, gradient, logits):
        turn = LAYOUTS[self.layout][0]
        return gradient.transpose(turn).reshape(logits.shape) if turn else gradient


@contextmanager
def silence():
    """What fn warns of is the business of its own tests."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def said(error):
    """An exception in a line."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def connect(fn, framework=None, num_classes=None, *, layouts=tuple(LAYOUTS), given=NOTHING):
    """The first way of calling fn that gives a finite loss: framework, layout, dtype and number of classes.

    `given` are keyword arguments that fn gets in every call.

    Raises ValueError with every way that was tried when none does.
    """
    if not callable(fn):
        expected, remedy = "a function fn(logits, targets) that returns a loss", "Pass the function, not its result."
        raise complain("fn", expected, type(fn).__name__, remedy)
    if framework not in (None, *FRAMEWORKS):
        raise complain("framework", 'None, "torch", "jax" or "numpy"', repr(framework), "None tries them all.")
    if framework in FRAMEWORKS and not find_spec(framework):
        raise MissingBackendError(
            f"parity needs {framework} to call fn with, and it is not installed: pip install {framework}"
        )
    failures = {}
    for classes in CLASSES if num_classes is None else (num_classes,):
        for mode in _modes(framework):
            caller = CALLERS[mode](fn)
            for layout, dtype in product(layouts, ("float64", "float32")):
                box = Box(caller, mode, layout, dtype, given)
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
            again = said(error)
        else:
            if np.isfinite(answer.loss).all():
                return ""
            again = f"the loss is {answer.loss.flat[0]}"
        if again == why and not again.startswith("the loss is"):
            return why  # raised whatever the labels are; a class may be masked, and its loss inf
        why = again
    return why


def _modes(framework):
    """Ways of calling, the likeliest first: autodiff, NumPy, values only; what is not even imported comes last."""
    if framework:
        return [mode for mode in CALLERS if mode.partition(" ")[0] == framework]
    here = [mode for mode in CALLERS if mode.partition(" ")[0] in sys.modules]
    installed = [mode for mode in CALLERS if mode not in here and find_spec(mode.partition(" ")[0])]
    return here + [mode for mode in installed if "values" not in mode]
