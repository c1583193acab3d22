"""How a loss is called: the layout of its arrays, the form of its targets, their order, and what its scores are."""

from functools import cache
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """The shapes that fn gets. Elements (N,) are shown as (N,), (B, T) or (B, H, W)."""

    axes: int  # of the elements
    class_axis: int
    shapes: str  # of logits and labels
    of_logits: str


LAYOUTS = {
    "rows": Layout(1, -1, "(N, K), (N,)", "(N, K)"),
    "sentences": Layout(2, -1, "(B, T, K), (B, T)", "(B, T, K)"),
    "channels": Layout(2, 1, "(B, K, T), (B, T)", "(B, K, T)"),
    "images": Layout(3, 1, "(N, K, H, W), (N, H, W)", "(N, K, H, W)"),
}
TARGETS = ("labels", "rows")  # integers, or a row of K probabilities for each element
SCORES = ("logits", "log-probabilities", "probabilities")


class Form(NamedTuple):
    """One way to call a loss. swapped: the targets come first."""

    layout: str = "rows"
    targets: str = "labels"
    swapped: bool = False
    scores: str = "logits"

    @property
    def shapes(self):
        """The shapes of the two arrays, in their order, as text."""
        layout = LAYOUTS[self.layout]
        shapes = layout.shapes if self.targets == "labels" else f"{layout.of_logits}, {layout.of_logits}"
        if not self.swapped:
            return shapes
        logits = layout.of_logits
        return f"{shapes.removeprefix(logits).lstrip(', ')}, {logits}"

    @property
    def difference(self):
        """What a caller must know who calls fn(logits, labels), as text; "" for that form itself."""
        texts = [
            "the targets come first: fn(targets, logits)" if self.swapped else "",
            "the targets are rows of K probabilities, one-hot or soft" if self.targets == "rows" else "",
            f"it takes {self.scores}, not logits: wrap it, {self.wrapper}" if self.scores != "logits" else "",
        ]
        return "; ".join(filter(None, texts))

    @property
    def wrapper(self):
        """The function that makes fn one of logits, as text."""
        order = "targets, {}" if self.swapped else "{}, targets"
        score = {"log-probabilities": "log_softmax(z)", "probabilities": "softmax(z)"}.get(self.scores, "z")
        return f"lambda z, targets: fn({order.format(score)})"

    def shape(self, n, k):
        """The elements' shape in which fn gets n elements: axes of about the same length, none of them K long."""
        return _shape(n, k, LAYOUTS[self.layout].axes)

    def arrange(self, rows):
        """(N, K) rows as fn gets them."""
        layout = LAYOUTS[self.layout]
        if layout.axes == 1:
            return rows
        return np.ascontiguousarray(
            np.moveaxis(rows.reshape(*self.shape(*rows.shape), rows.shape[-1]), -1, layout.class_axis)
        )

    def as_rows(self, array, shape):
        """The (N, K) rows of an array that is arranged as fn gets it."""
        return np.moveaxis(array, LAYOUTS[self.layout].class_axis, -1).reshape(shape)

    def as_code(self, n, k):
        """(what follows `logits` in code, what follows `labels`)."""
        layout = LAYOUTS[self.layout]
        if layout.axes == 1:
            return "", ""
        shape = self.shape(n, k)
        order = [*range(layout.axes)]
        order.insert(layout.class_axis if layout.class_axis > 0 else layout.axes, layout.axes)
        moved = "" if layout.class_axis == -1 else f".transpose({', '.join(map(str, order))})"
        return f".reshape{(*shape, k)}{moved}", f".reshape{shape}"


@cache
def _shape(n, k, axes):
    if axes == 1:
        return (n,)
    found = [(b, *rest) for b in range(1, n + 1) if n % b == 0 for rest in _shapes(n // b, axes - 1)]
    return min(found or [(n, *[1] * (axes - 1))], key=lambda shape: (k in shape[1:], max(shape) - min(shape), shape))


def _shapes(n, axes):
    """All shapes of n elements with one axis or two."""
    return [(n,)] if axes == 1 else [(a, n // a) for a in range(1, n + 1) if n % a == 0]


def default_length(k):
    """How many elements most problems of k classes have: one number for few classes, because compilers want each anew.

    It has factors, so that it can be shown as (B, T). With K up to 34 it is at least 3·(K − 1), so every class occurs.
    """
    return 3 * max(min(k, 34) - 1, 4)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def scores_of(logits, scores):
    """The scores that fn takes, (N, K), of these logits."""
    if scores == "logits":
        return logits
    log_p = log_softmax(logits)
    return log_p if scores == "log-probabilities" else np.exp(log_p)


def through_scores(gradient, logits, scores):
    """The gradient with respect to logits, from that with respect to the scores."""
    if scores == "logits":
        return gradient
    p = np.exp(log_softmax(logits))
    inner = gradient if scores == "log-probabilities" else gradient * p
    return inner - p * inner.sum(-1, keepdims=True)


def one_hot(labels, num_classes):
    """Rows of 0 and 1. A label that names no class is refused, because a row cannot say so."""
    if labels.ndim == 2:
        return labels
    if ((labels < 0) | (labels >= num_classes)).any():
        raise IndexError("a row of probabilities cannot name a class that does not exist")
    return np.eye(num_classes)[labels]
