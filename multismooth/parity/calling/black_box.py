"""A BlackBox makes a loss of any framework and layout a function of NumPy arrays (N, K) and (N,)."""

import sys
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product

import numpy as np

from multismooth.errors import MissingBackendError, complain
from multismooth.parity.calling.frameworks import MODES, NO_KEYWORDS, CallOptions

FRAMEWORKS = ("torch", "jax", "numpy")
NUMBERS_OF_CLASSES = (5, 3, 10, 2, 4, 6, 7, 8, 9, 12, 16, 20, 21, 32, 50, 64, 100, 1000)  # in the order of trying

# layout: (the permutation of the axes of (B, T, K) logits, the shapes that fn gets); None: fn gets (N, K)
LAYOUTS = {
    "rows": (None, "(N, K), (N,)"),
    "sentences": ((0, 1, 2), "(B, T, K), (B, T)"),
    "channels": ((0, 2, 1), "(B, K, T), (B, T)"),
}


class BlackBox:
    """fn as a function of NumPy arrays (N, K), (N,): `box(logits, labels) -> Answer`, whatever framework it runs in.

    caller: the object of `MODES` that calls fn. keywords: arguments that fn gets in every call.
    """

    def __init__(self, caller, mode, layout="rows", dtype="float64", keywords=NO_KEYWORDS):
        self.caller, self.mode, self.layout, self.dtype, self.keywords = caller, mode, layout, dtype, keywords
        self.num_classes, self.calls = 0, 0

    @property
    def framework(self):
        return self.mode.partition(" ")[0]

    def sentences(self, n):
        """B of the (B, T) in which fn gets n elements; None where it gets them as (N,)."""
        if self.layout == "rows":
            return None
        return max((b for b in range(1, n + 1) if n % b == 0 and b * b <= n), default=1)

    def __call__(self, logits, labels, options=None):
        self.calls += 1
        z, y, options = self._arranged(logits, labels, options)
        with no_warnings():
            answer = self.caller(z, y, options)
        loss, gradient = answer.loss, answer.gradient
        if loss.size != 1 and loss.size != labels.size:
            got, remedy = f"shape {loss.shape} for targets {y.shape}", "Reduce it, or return one loss per element."
            raise complain("fn", "a loss, or one per element", got, remedy)
        if gradient is not None:
            gradient = self._as_rows(gradient, logits)
        loss = loss.reshape(-1) if loss.size == labels.size and loss.ndim else loss.reshape(())
        return answer._replace(loss=loss, gradient=gradient)

    def gradients(self, logits, labels, cotangents, options=None):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass; None without autodiff."""
        z, y, options = self._arranged(logits, labels, options)
        with no_warnings():
            gradients = self.caller.gradients(z, y, options, cotangents)
        return None if gradients is None else [self._as_rows(gradient, logits) for gradient in gradients]

    def _arranged(self, logits, labels, options):
        """(logits, labels, CallOptions) in this box's layout and dtype."""
        z, y, options = logits.astype(np.float64), labels, options or CallOptions()
        dtype = self.dtype if options.dtype == "float64" else options.dtype
        keywords = {**self.keywords, **options.keywords}
        axes = LAYOUTS[self.layout][0]
        if axes:
            y = y.reshape(self.sentences(len(y)), -1)
            z = np.ascontiguousarray(z.reshape(*y.shape, z.shape[-1]).transpose(axes))
            keywords = {n: v.reshape(y.shape) if n == "sample_weight" else v for n, v in keywords.items()}
        return z, y, options._replace(dtype=dtype, keywords=keywords)

    def _as_rows(self, gradient, logits):
        axes = LAYOUTS[self.layout][0]  # each of these permutations is its own inverse
        return gradient.transpose(axes).reshape(logits.shape) if axes else gradient


@contextmanager
def no_warnings():
    """Silences fn's warnings: its own tests look at those."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def one_line(error):
    """An exception as one line of text."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def connect(fn, framework=None, num_classes=None, *, layouts=tuple(LAYOUTS), keywords=NO_KEYWORDS):
    """A BlackBox with the first framework, number of classes, layout and dtype for which fn gives a finite loss.

    `keywords` are arguments that fn gets in every call.

    Raises ValueError with every way that was tried when none works.
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
    for classes in NUMBERS_OF_CLASSES if num_classes is None else (num_classes,):
        for mode in _modes(framework):
            caller = MODES[mode](fn)
            for layout, dtype in product(layouts, ("float64", "float32")):
                box = BlackBox(caller, mode, layout, dtype, keywords)
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
    """Why fn gives no finite loss for so many classes, in a line; "" if it gives one."""
    n = 3 * max(min(classes, 34) - 1, 1)
    logits = np.random.default_rng(classes).normal(size=(n, classes))
    before = ""
    for labels in (np.arange(n) % classes, *(np.full(n, k) for k in range(min(classes, 6)))):
        try:
            answer = box(logits, labels)
        except Exception as error:
            why = one_line(error)
        else:
            if np.isfinite(answer.loss).all():
                return ""
            why = f"the loss is {answer.loss.flat[0]}"
        if why == before and not why.startswith("the loss is"):
            return why  # fn raises this whatever the labels are. A loss of inf may come from one masked class alone.
        before = why
    return before


def _modes(framework):
    """The modes to try, the likeliest first: imported frameworks, then installed ones; autodiff before loss values."""
    if framework:
        return [mode for mode in MODES if mode.partition(" ")[0] == framework]
    imported = [mode for mode in MODES if mode.partition(" ")[0] in sys.modules]
    installed = [mode for mode in MODES if mode not in imported and find_spec(mode.partition(" ")[0])]
    return imported + [mode for mode in installed if "values" not in mode]
