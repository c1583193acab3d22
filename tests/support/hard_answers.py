"""What is right for a row of `hard_rows`: from the oracle and, where it has no closed form, by differences of it.

A quantity has a name: "loss mean", "slope none", … ; `Answers.expected` knows them, and how near a result must be.
With reduction "none" the elements get upstream gradients of their own, the cotangent.
"""

from functools import cache

import numpy as np
import oracle
from hard_rows import ROWS
from mpmath import mpf, workdps
from oracle import floats, number
from tolerance import EPSILON, assert_close, tolerance

LOSS = 2e-6  # of a float32 loss, relative or absolute
STEP = mpf(10) ** -18
LARGEST = {"float16": 65519.9, "float32": 3.4028235e38}  # what is beyond is infinite


def exact(array):
    """An array of mpf."""
    return np.array([number(float(x)) for x in np.ravel(array)], dtype=object).reshape(np.shape(array))


class Answers:
    """Of one row."""

    def __init__(self, hard):
        self.hard = hard
        rng = np.random.default_rng(5)
        # numbers that bfloat16 holds
        self.cotangent, self.direction, self.turn = (
            rng.integers(-16, 17, shape) / 8 for shape in (hard.elements, hard.logits.shape, hard.logits.shape)
        )
        wide = hard.logits.astype(np.float64)
        targets = hard.targets.astype(np.float64) if hard.targets.dtype.kind == "V" else hard.targets
        self.turn = self.turn * np.asarray(hard.existing)
        self.call = wide, targets
        self.digits = 40 + len(
            str(int(np.abs(wide, where=np.isfinite(wide), out=np.zeros_like(wide)).max(initial=0.0)))
        )
        self.settings = {name: self.widened(value) for name, value in hard.settings.items()}

    @staticmethod
    def widened(value):
        return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind in "fV" else value

    def arguments(self, reduction):
        """The settings of a call with this reduction."""
        return {name: value for name, value in self.settings.items() if reduction == "mean" or name != "normalizer"} | {
            "reduction": reduction
        }

    @cache  # noqa: B019 as long as the table
    def answer(self, reduction):
        return oracle.evaluate(*self.call, digits=self.digits, **self.arguments(reduction))

    def wide(self, per_element):
        """Numbers per element that broadcast to the logits."""
        return np.expand_dims(per_element, self.hard.axis)

    def upstream(self, gradient, reduction):
        """A gradient with respect to the logits, of the loss or of the elements times the cotangent."""
        return gradient * self.wide(exact(self.cotangent)) if reduction == "none" else gradient

    def slopes(self, reduction):
        return self.upstream(self.answer(reduction).gradient, reduction)

    # --- quantities: (expected values, the size of the numbers that they are sums of) ---------------------------------

    def loss(self, reduction):
        return self.answer(reduction).loss, 1.0

    def original(self, reduction):
        """PyTorch's: the mean over nothing is NaN."""
        answer = self.answer(reduction)
        nothing = reduction == "mean" and not any(answer.share.ravel())
        return mpf("nan") if nothing else answer.loss, np.abs(floats(answer.loss))

    def nll(self, _):
        return self.answer("none").nll, 1.0

    def share(self, _):
        return self.answer("none").share, 1.0

    def q(self, _):
        return self.answer("none").q, 1.0

    def slope(self, reduction):
        slopes = self.slopes(reduction)
        return slopes, height(slopes, self.hard.axis)

    def raw(self, reduction):
        """The gradient of the sum, without a cotangent: what `loss_and_grad` returns."""
        gradient = self.answer(reduction).gradient
        return gradient, height(gradient, self.hard.axis)

    def tangent(self, reduction):
        """The derivative in `direction`."""
        parts = self.answer(reduction).gradient * exact(self.direction)
        axes = self.hard.axis if reduction == "none" else None
        return parts.sum(axis=axes), np.abs(floats(parts)).sum(axis=axes) + 1

    def curve(self, reduction):
        """The second derivative: of `slope` in `direction`."""
        return self.moved(reduction, STEP * exact(self.direction), 0)

    def twist(self, reduction):
        """The derivative of `slope` where the soft targets go in the direction `turn`."""
        return self.moved(reduction, 0, STEP * exact(self.turn))

    def moved(self, reduction, step, turn):
        z, t = exact(self.call[0]), exact(self.call[1]) if self.hard.soft else self.call[1]
        with workdps(self.digits + 20):
            ends = [
                oracle.evaluate(
                    z + s * step,
                    t + s * turn if self.hard.soft else t,
                    digits=self.digits + 20,
                    **self.arguments(reduction),
                )
                for s in (1, -1)
            ]
            found = (self.upstream(ends[0].gradient, reduction) - self.upstream(ends[1].gradient, reduction)) / (
                2 * STEP
            )
        return found, 4 * height(found, self.hard.axis)

    def of_targets(self, reduction):
        """The gradient with respect to soft targets."""
        settings = self.arguments(reduction)
        return oracle.target_gradient(exact(self.call[0]), self.call[1], **settings), 1.0

    def of_setting(self, name):
        """The gradient of the mean with respect to an argument that is an array or a number."""

        def function(value):
            changed = self.arguments("mean") | {name: value if np.ndim(value) else value.item()}
            return oracle.total(*self.call, digits=60, **changed)

        value = np.asarray(self.settings.get(name, 0.1))
        found = np.empty(value.shape, dtype=object)
        for index in np.ndindex(value.shape):
            found[index] = oracle.derivative(function, value, index)
        return found, max(1.0, np.abs(floats(found)).max(initial=0.0))

    # --- a linear head ------------------------------------------------------------------------------------------------

    def parts(self, reduction):
        """(slopes, their heights, features) as rows; features of dead elements are 0. One row is 0."""
        hidden, _, _ = self.hard.head
        slopes, classes = self.hard.last(self.slopes(reduction)), self.hard.classes
        features = np.where(np.expand_dims(self.hard.dead, -1), 0.0, self.hard.last(hidden).astype(np.float64))
        heights = np.broadcast_to(height(slopes, -1), slopes.shape)
        rows = (array.reshape(-1, classes) for array in (exact(slopes), heights, exact(features)))
        return tuple(np.concatenate([np.full((1, classes), 0 * row.sum()), row]) for row in rows)

    def of_classifier(self, reduction):
        slopes, heights, features = self.parts(reduction)
        sizes = np.maximum(heights.T @ np.abs(floats(features)), 1.0)
        return slopes.T @ features, np.where(sizes < LARGEST.get(self.hard.dtype, np.inf), sizes, np.inf)

    def of_bias(self, reduction):
        slopes, heights, _ = self.parts(reduction)
        return slopes.sum(axis=0), np.maximum(heights.sum(axis=0), 1.0)

    def correction(self, reduction):
        """The loss less that at ε = 0; it is a sum of logits, a common offset included."""
        plain = self.arguments(reduction) | {"label_smoothing": 0.0}
        plain.pop("prior", None)
        found = self.answer(reduction).loss - oracle.evaluate(*self.call, digits=self.digits, **plain).loss
        logits = np.where(np.isfinite(self.call[0]), self.call[0], 0.0)
        return found, 1.0 + np.abs(logits).max(initial=0.0)

    # --- comparing ----------------------------------------------------------------------------------------------------

    @cache  # noqa: B019
    def expected(self, quantity):
        name, _, of = quantity.partition(" ")
        values, scale = getattr(self, name)(of)
        return floats(values), scale


def height(slopes, axis):
    """The largest entry of each element's gradient, or 1."""
    sizes = np.abs(floats(slopes))
    return np.maximum(sizes.max(axis=axis, keepdims=True, initial=0.0), 1.0)


@cache
def answers(name):
    return Answers(ROWS[name])


def check(name, quantity, result, dtype):
    """A result has the shape of the answer, this dtype, and is near enough."""
    expected, scale = answers(name).expected(quantity)
    if dtype in LARGEST:
        expected = np.where(np.abs(expected) > LARGEST[dtype], np.copysign(np.inf, expected), expected)
    kind, half = quantity.partition(" ")[0], dtype in ("float16", "bfloat16")
    if dtype == "float32" and kind in ("loss", "nll", "original"):
        scale = np.maximum(np.abs(expected), 1.0) * (LOSS / tolerance("float32"))
    if half and kind in ("of_classifier", "of_bias"):  # products of slopes that were rounded themselves
        scale = scale * EPSILON[dtype] / tolerance("float32")
    try:
        assert_close(result, expected, dtype, scale=scale)
    except AssertionError as error:
        error.add_note(f"{quantity} of {name!r}")
        raise
