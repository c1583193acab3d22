"""Finds out how a loss can be called: framework, number of classes, and every layout and form that it takes."""

import sys
from importlib.util import find_spec
from itertools import product

import numpy as np

from multismooth.errors import MissingBackendError, complain
from multismooth.parity.calling.answers import NO_KEYWORDS, NoLoss
from multismooth.parity.calling.black_box import BlackBox, one_line
from multismooth.parity.calling.forms import LAYOUTS, TARGETS, Form, default_length
from multismooth.parity.calling.frameworks import FRAMEWORKS, MODES

NUMBERS_OF_CLASSES = (5, 3, 10, 2, 4, 6, 7, 8, 9, 12, 16, 20, 21, 32, 50, 64, 100, 1000)  # in the order of trying


def connect(fn, framework=None, num_classes=None, *, layouts=None, keywords=NO_KEYWORDS):
    """A BlackBox in the first form in which fn answers as a loss does, with every other layout in `.layouts`.

    `keywords` are arguments that fn gets in every call. layouts: names in `LAYOUTS`; None tries them all.

    Raises ValueError with every way that was tried when none works.
    """
    layouts = tuple(LAYOUTS if layouts is None else layouts)
    _require_function(fn, framework)
    failures, doubtful = {}, None
    for classes in NUMBERS_OF_CLASSES if num_classes is None else (num_classes,):
        first = classes == NUMBERS_OF_CLASSES[0] or num_classes is not None
        for mode in _modes(framework):
            if doubtful and "values" in mode:
                continue
            for form, dtype in _ways(layouts, first):
                if doubtful and form.scores != "logits" and doubtful[0].form.targets == "labels":
                    continue
                box = BlackBox(fn, mode, form, dtype, keywords)
                try:
                    failure = _failure(box, classes)
                except NoLoss as error:
                    raise complain("fn", "a loss as its result", str(error), error.remedy) from None
                if failure:
                    failures.setdefault((mode, failure), (form.shapes, classes))
                    if failure.startswith(("Tracer", "Concretization")):
                        break  # it cannot be compiled, in whatever form
                    continue
                if answers_to_labels(box, classes) and not (form.targets == "rows" and is_linear(box, classes)):
                    return _connected(box, layouts, classes, num_classes)
                doubtful = doubtful or (box, classes)
        if doubtful:  # what it computes is another question, but it can be called
            return _connected(doubtful[0], layouts, doubtful[1], num_classes)
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


def _require_function(fn, framework):
    if not callable(fn):
        expected, remedy = "a function fn(logits, targets) that returns a loss", "Pass the function, not its result."
        raise complain("fn", expected, type(fn).__name__, remedy)
    if framework not in (None, *FRAMEWORKS):
        names = ", ".join(f'"{name}"' for name in FRAMEWORKS)
        raise complain("framework", f"None or one of {names}", repr(framework), "None tries them all.")
    if framework in FRAMEWORKS and not find_spec(framework):
        raise MissingBackendError(
            f"parity needs {framework} to call fn with, and it is not installed: pip install {framework}"
        )


def _ways(layouts, everything):
    """(Form, dtype) in the order of trying: logits first, labels before rows, float64 before float32."""
    ways = product(("logits", "probabilities"), TARGETS, (False, True), ("float64", "float32"), layouts)
    for scores, targets, swapped, dtype, layout in ways:
        if everything or not (swapped or dtype == "float32" or scores != "logits"):
            yield Form(layout, targets, swapped, scores), dtype


def _connected(box, layouts, classes, num_classes):
    """The box with its K, and with the boxes of the other layouts that fn takes."""
    box.num_classes, box.any_num_classes = classes, num_classes is None
    for layout in layouts:
        if layout != box.form.layout:
            other = box.with_form(layout=layout)
            if not _failure(other, classes) and answers_to_labels(other, classes):
                box.layouts[layout] = other
            other.num_classes, other.any_num_classes = classes, box.any_num_classes
    for other in box.layouts.values():
        other.layouts = box.layouts
    box.calls = 0
    return box


# --- does a call mean anything? -------------------------------------------------------------------------------------


def _failure(box, classes):
    """Why fn gives no finite loss for so many classes, in a line; "" if it gives one."""
    n = default_length(classes)
    logits = np.random.default_rng(classes).normal(size=(n, classes))
    before = ""
    for labels in (np.arange(n) % classes, *(np.full(n, k) for k in range(min(classes, 6)))):
        try:
            answer = box(logits, labels)
        except NoLoss:
            raise
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


def answers_to_labels(box, classes):
    """Whether fn reads the arrays as this box arranges them: a larger logit of the label lowers its loss.

    A loss of another layout often accepts the arrays, and reads labels and logits that do not belong together. Nor is
    a layout meant in which the softmax runs over another axis than the classes.
    """
    n = default_length(classes)
    z = np.random.default_rng((1, classes)).normal(size=(n, classes))
    try:
        labels, answer = _labels_and_answer(box, z)
        if answer is None or (box.form.scores == "logits" and _softmax_over_another_axis(box, z, labels, answer)):
            return False
        unread = _labels_not_read(box, z, labels, answer)
    except Exception:
        return False
    return unread <= 1 < len(set(labels)) or unread == 0  # one label may be ignored


def _labels_and_answer(box, z):
    """Labels for which fn gives a finite loss, with its Answer: all classes, or those that it accepts alone.

    (None, None) without any.
    """
    n, k = z.shape
    labels = np.arange(n) % k
    if (answer := _finite_answer(box, z, labels)) is not None:
        return labels, answer
    accepted = [c for c in range(min(k, 8)) if _finite_answer(box, z, np.full(n, c)) is not None]
    labels = np.resize(np.array(accepted, dtype=int), n)
    answer = _finite_answer(box, z, labels) if accepted else None
    return (None, None) if answer is None else (labels, answer)


def _finite_answer(box, z, labels):
    """fn's Answer; None where fn raises or its loss is not finite."""
    try:
        answer = box(z, labels)
    except Exception:
        return None
    return answer if np.isfinite(answer.loss).all() else None


def is_linear(box, classes):
    """Whether the loss is linear in the logits: it is in log-probabilities, and in the rows of targets."""
    n, box = default_length(classes), box.with_form(scores="logits")
    z, labels = np.random.default_rng((2, classes)).normal(size=(n, classes)), np.arange(n) % classes
    try:
        ahead, back, at = (box(x, labels).loss.sum() for x in (z, -z, 0 * z))
    except Exception:
        return False
    return abs(ahead + back - 2 * at) <= 1e-3 * max(abs(ahead - back), 1e-300)


def _labels_not_read(box, z, labels, answer):
    """How many labels fn does not read: its loss does not fall with their logit more than with another label."""
    at = np.arange(len(z))
    if answer.gradient is None:
        lower = [box(_raised(z, element, labels[element]), labels).loss.sum() for element in at[:12]]
        rises = falls = np.resize(np.array(lower) < answer.loss.sum(), len(z))
        others = labels = np.resize(labels[:12], len(z))
    else:
        others = np.random.default_rng(6).permutation(labels)  # as many of each: a denominator stays as it is
        if len(set(labels)) == 1:
            return int((answer.gradient.argmin(1) == labels).mean() < 0.75)
        after = box(z, others).gradient
        moved = after - answer.gradient
        rises, falls = moved[at, labels] > 0, moved[at, others] < 0
        both = (labels != others) & answer.gradient.any(1) & after.any(1)  # ignored elements say nothing
        labels, others, rises, falls = labels[both], others[both], rises[both], falls[both]
    read = [min(rises[labels == y].mean(), falls[others == y].mean()) >= 0.6 for y in {*labels} & {*others}]
    return len(read) - sum(read) if read else 9


def _raised(z, element, label):
    """The logits, with a larger one of a label."""
    raised = z.copy()
    raised[element, label] += 0.5
    return raised


def _softmax_over_another_axis(box, z, labels, answer):
    """Whether the loss stays where another axis' logits are shifted alike, and moves where an element's are."""
    shape = box.shape(*z.shape)
    before, random = answer.loss, np.random.default_rng(3)
    shifted = z + random.normal(size=(len(z), 1))
    largest = max(np.abs(before).max(), 1e-3)
    if np.abs(box(shifted, labels).loss - before).max() < 1e-3 * largest:
        return False
    for axis in range(len(shape)):
        shift = random.normal(size=tuple(1 if a == axis else n for a, n in enumerate(shape)) + z.shape[1:])
        moved = (z.reshape(*shape, -1) + shift).reshape(z.shape)
        if shape[axis] > 1 and np.abs(box(moved, labels).loss - before).max() < 1e-5 * largest:
            return True
    return False


def _modes(framework):
    """The modes to try, the likeliest first: imported frameworks, then installed ones; autodiff before loss values.

    A framework that is not imported is tried if it is an extra of this package: the others take seconds to import.
    """
    if framework:
        return [mode for mode in MODES if mode.partition(" ")[0] == framework]
    imported = [mode for mode in MODES if mode.partition(" ")[0] in sys.modules]
    extras = [mode for mode in ("torch", "jax", "jax eagerly") if mode not in imported]
    return imported + [mode for mode in extras if find_spec(mode.partition(" ")[0])]
