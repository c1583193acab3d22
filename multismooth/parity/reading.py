"""A Reading says how `multismooth.loss` computes what a black box computes; the functions here put it into words."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from multismooth import spec
from multismooth.convention import DIVIDES_BY, Convention
from multismooth.namespace import XP
from multismooth.problem import Problem, Settings
from multismooth.reduction import reduced_plan

SENTENCES = "sentences"  # a normalizer: the length of the first axis
SENTENCE_MEANS = "sentence means"  # a reduction: the mean of every sentence, averaged over the sentences
COUNTING_SENTENCES = "sentences that count"  # the normalizer of sentence means that leave out the empty ones
NOTHING = "nothing"  # the normalizer of sentence means that are summed
SENTENCE_LENGTH = "sentence length"  # what a sum of such means divides by, where no label is ignored


@dataclass(frozen=True)
class Reading:
    """A convention with the arguments under which this library computes what fn computes."""

    convention: Convention
    label_smoothing: float
    reduction: str
    ignore_index: int | None = None
    weight: np.ndarray | None = None
    prior: np.ndarray | None = None
    z_loss: float = 0.0
    normalizer: float | str | None = None  # "sentences": the length of the first axis

    @property
    def by_sentences(self):
        """Whether the loss depends on how the elements lie in sentences."""
        return self.reduction == SENTENCE_MEANS or self.normalizer == SENTENCES

    def settings(self, labels=None) -> dict[str, Any]:
        """The keyword arguments of `multismooth.loss` that reproduce fn.

        labels: in the shape (B, …) in which fn gets them, where the loss depends on the sentences. Without them the
        arguments that follow from the labels are named by words.
        """
        settings = {
            "convention": self.convention,
            "label_smoothing": self.label_smoothing,
            "reduction": "mean" if self.reduction == SENTENCE_MEANS and labels is not None else self.reduction,
            "ignore_index": self.ignore_index,
        }
        optional = {
            "weight": self.weight,
            "prior": self.prior,
            "z_loss": self.z_loss or None,
            "normalizer": self.normalizer,
        }
        if labels is not None and self.by_sentences:
            optional |= of_sentences(labels, self.reduction, self.normalizer, self.ignore_index)
        return settings | {name: value for name, value in optional.items() if value is not None}

    def losses_and_gradients(self, observation, shape=None):
        """(losses, gradients) of all calls of an Observation, by the specification.

        The arguments are not checked, because fn may accept what this library refuses. The calls have the same labels,
        so one plan is that of all of them, and they share what `spec` computes of the logits alone.
        """
        arguments = self.settings(observation.labels.reshape(shape or observation.shape))
        if (weights := arguments.get("sample_weight")) is not None:
            arguments["sample_weight"] = weights.reshape(-1)
        settings = Settings(
            axis=1, **{name: arguments.pop(name) for name in ("convention", "reduction", "ignore_index")}
        )
        peak, gap, e = observation.exponentials
        with np.errstate(all="ignore"):
            plan = reduced_plan(Problem(observation.logits[0], observation.labels, **arguments), settings, XP)
            plan = plan._replace(labels=plan.labels[None])  # NumPy broadcasts the rest over the calls
            found = spec.statistics_of(peak, gap, e, plan, -1, XP)
            losses = spec.losses_of(found, plan, XP)
            gradients = spec.gradient_of(e, found, plan, -1, XP)
        return losses if self.reduction == "none" else losses.sum(-1), gradients

    def residual(self, observation):
        """The largest difference from fn's loss and gradient, each relative to the largest entry of fn's answer.

        Elements (N,) without sentences are one sentence for some losses, and N of them for others.
        """
        shapes = [observation.shape]
        if self.by_sentences and len(observation.shape) == 1:
            shapes.append((1, *observation.shape))
        return min(self._residual(observation, shape) for shape in shapes)

    def _residual(self, observation, shape):
        losses, gradients = self.losses_and_gradients(observation, shape)
        if losses.shape != observation.loss.shape:
            return np.inf
        difference = _relative_difference(losses, observation.loss, 1e-3)
        if observation.gradient is not None:
            of_gradients = _relative_difference(gradients, observation.gradient, 1e-300)
            difference = np.maximum(difference, of_gradients)  # Python's max would lose a NaN
        return float(np.nan_to_num(difference, nan=np.inf))

    def excess(self, observation):
        """How much larger this reading's summed loss is than fn's, on the observation's first logits."""
        losses, _ = self.losses_and_gradients(observation)
        return float(np.sum(losses[0]) - np.sum(observation.loss[0]))


def of_sentences(labels, reduction, normalizer, ignore_index):
    """{"normalizer": …, "sample_weight": …} of a loss that depends on the sentences; labels (B, …)."""
    counted = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    lengths = counted.sum(axis=tuple(range(1, labels.ndim)))
    if reduction != SENTENCE_MEANS:
        return {"normalizer": float(len(labels))}
    each = (1 / np.maximum(lengths, 1)).reshape(-1, *[1] * (labels.ndim - 1))
    number = {NOTHING: 1.0, COUNTING_SENTENCES: float((lengths > 0).sum())}.get(normalizer, float(len(labels)))
    return {"normalizer": max(number, 1.0), "sample_weight": np.broadcast_to(each, labels.shape)}


def _relative_difference(values, expected, smallest_scale):
    """The largest difference in a call, relative to the largest entry expected of that call; NaN if one is NaN."""
    calls = len(expected), -1
    differences = np.abs(values - expected).reshape(calls).max(1)
    return (differences / np.maximum(np.abs(expected).reshape(calls).max(1), smallest_scale)).max()


def without_equal_kinds(reading, has_ignored_label=True):
    """The convention with one kind of denominator for all kinds that are equal without class weights.

    They are "counted" elements; where no label is ignored, those are "all" elements.
    """
    convention = reading.convention
    if reading.weight is not None:
        return convention
    elements = "counted" if has_ignored_label else "all"
    equal = dict.fromkeys(("target_weight", "mixture_weight", "nonzero", "counted"), elements)
    names = ("denominator", "smooth_denominator", "z_loss_denominator")
    kinds = {name: getattr(convention, name) for name in names}
    return replace(convention, **{name: equal.get(kind, kind) for name, kind in kinds.items()})


# --- in words -------------------------------------------------------------------------------------------------------


def formula(reading):
    """The loss of one element, as text."""
    convention, eps = reading.convention, f"{reading.label_smoothing:.6g}"
    mass = f"{eps}/(1 + {eps})" if convention.smoothing_map == "classy" else eps
    where = "1/K" if reading.prior is None else "prior"
    if convention.exclude:
        where += f" (none on {', '.join(map(str, convention.exclude))})"
    mass += "·K/(K − 1)" if convention.spread == "others" else ""
    weighted = "" if reading.weight is None else {"per_term": " w"}.get(convention.class_weights, " (w)")
    entropy = f" + Σ{weighted} q log q" if convention.objective == "kl" else ""
    lse = f" + {reading.z_loss:.6g}·lse²" if reading.z_loss else ""
    scale = f"{convention.scale:.6g} × (" if convention.scale != 1 else ""
    return (
        f"{scale}−Σ{weighted} q log p{entropy}{lse}{')' if scale else ''},  "
        f"q = (1 − ε′)·onehot + ε′·{where},  ε′ = {mass}"
    )


def denominator_text(reading):
    """What the reduction divides by, as text."""
    convention = reading.convention
    if reading.reduction == SENTENCE_MEANS:
        if reading.normalizer == NOTHING:
            return "each sentence's counted elements: the sum of the sentences' means"
        by = "all sentences" if reading.normalizer is None else "the sentences that have an element"
        return f"each sentence's counted elements, then {by}: a mean of sentence means"
    if reading.reduction != "mean":
        return {"sum": "nothing: the sum", "none": "nothing: one loss per element"}[reading.reduction]
    text = DIVIDES_BY[convention.denominator]
    if reading.normalizer is not None:
        text = (
            "the sentences (the length of the first axis): the sum over tokens, the mean over sentences"
            if reading.normalizer == "sentences"
            else f"{reading.normalizer:.6g}"
        )
    if convention.smooth_denominator:
        text += f"; the smoothing term by {DIVIDES_BY[convention.smooth_denominator]}"
    if convention.z_loss_denominator:
        text += f"; lse² by {DIVIDES_BY[convention.z_loss_denominator]}"
    if convention.denominator_add:
        text += f"; plus {convention.denominator_add:.6g}"
    return text if convention.denominator_floor is None else f"{text}; at least {convention.denominator_floor:.6g}"


def ignored_text(reading):
    """Which label is ignored, as text."""
    if reading.ignore_index is None:
        return "no label"
    scope = " in the label's term only" if reading.convention.ignore_scope == "nll_only" else ""
    return f"{reading.ignore_index}{scope}"


def changed_fields(convention):
    """{field: value} of the fields in which a convention differs from `Convention()` and that change the loss."""
    defaults = {f.name: f.default for f in fields(Convention) if f.compare}
    return {name: getattr(convention, name) for name in defaults if getattr(convention, name) != defaults[name]}


def call_text(reading, form=None, name="", label_smoothing=None):
    """The call of this library that computes the same, to paste. A name in the registry comes with its own ε."""
    if name:
        reading = replace(reading, label_smoothing=label_smoothing)
    settings = {"convention": name} | {n: v for n, v in reading.settings().items() if n != "convention"}
    if reading.by_sentences:
        counts = "(labels == labels)" if reading.ignore_index is None else f"(labels != {reading.ignore_index})"
        numbers = {COUNTING_SENTENCES: f"{counts}.any(-1).sum()", NOTHING: "1"}
        settings |= {"reduction": "mean", "normalizer": Words(numbers.get(reading.normalizer, "len(labels)"))}
        if reading.reduction == SENTENCE_MEANS:
            settings["sample_weight"] = Words(f"1 / {counts}.sum(-1, keepdims=True).clip(1)")
    said = ", ".join(f"{name}={_short(value)}" for name, value in settings.items())
    if not name:
        own = ", ".join(f"{n}={_short(v)}" for n, v in changed_fields(reading.convention).items())
        said = said.replace("convention=''", f"convention=multismooth.Convention({own})", 1)
    axis = ", axis=1" if form is not None and form.layout in ("channels", "images") else ""
    return f"multismooth.loss(logits, {'rows' if form and form.targets == 'rows' else 'labels'}, {said}{axis})"


class Words(str):
    """A value as code."""

    __slots__ = ()

    def __repr__(self):
        return str(self)


def settings_text(reading):
    """The reading as keyword arguments, without the fields that `Convention()` has by default."""
    own = ", ".join(f"{name}={_short(value)}" for name, value in changed_fields(reading.convention).items())
    settings = reading.settings() | {"convention": f"Convention({own})"}
    return ", ".join(
        f"{name}={value if name == 'convention' else _short(value)}"
        for name, value in settings.items()
        if not (name == "ignore_index" and value is None)
    )


def _short(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    if getattr(value, "ndim", 0):
        shown = ", ".join(f"{x:.4g}" for x in value[:8])
        return f"[{shown}{', …' if len(value) > 8 else ''}]"
    return repr(value)
