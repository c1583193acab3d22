"""Convention: everything in which two implementations of label smoothing can differ.

A convention is a value, not code. `plan.plan_of` turns it, with the targets, into coefficients that every backend
uses. Letters as in `spec`: K classes, t target row, r where the smoothed mass goes, ε = label_smoothing.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from numbers import Integral, Real
from typing import Literal, get_args

from multismooth.errors import SmoothingError, complain

Spread = Literal["all", "others"]
Objective = Literal["cross_entropy", "kl"]
ClassWeights = Literal["per_term", "target", "nll_only", "mixture"]
Denominator = Literal["target_weight", "mixture_weight", "counted", "nonzero", "all", "classes", "caller"]
SmoothingMap = Literal["identity", "classy"]
IgnoreScope = Literal["all", "nll_only"]
CHOICES = {
    "spread": get_args(Spread),
    "objective": get_args(Objective),
    "class_weights": get_args(ClassWeights),
    "denominator": get_args(Denominator),
    "smoothing_map": get_args(SmoothingMap),
    "ignore_scope": get_args(IgnoreScope),
}

EQUAL_WITHOUT_WEIGHTS = ("target_weight", "mixture_weight", "counted")  # kinds of denominator that are then the same

EXPLAINED_IF_SET = (
    "ignore_scope", "smooth_denominator", "z_loss_denominator", "denominator_add", "denominator_floor", "scale",
)  # fmt: skip

DIVIDES_BY = {
    "target_weight": "the summed class weights of the counted labels (their number, without weights)",
    "mixture_weight": "Σ q·w over the counted elements",
    "counted": "the counted elements (their summed sample weights)",
    "nonzero": "the number of counted elements, whatever their sample weights",
    "all": "all elements, the ignored ones included",
    "classes": "all elements times K",
    "caller": "a number that only the caller has (sentences, tokens): pass normalizer=",
}


@dataclass(frozen=True)
class Convention:
    """q = (1 − ε′)·t + ε′·r, and how the loss is weighted and what its mean divides by.

    Two conventions are equal when they compute the same. `name`, `ignore_index`, `source` and `notes` are information
    and do not count. Make variants with `dataclasses.replace`.

    Args:
        spread: "all": r is uniform over all K classes and ε′ = ε (Szegedy et al. 2016, PyTorch, Optax, Keras);
            "others": the K − 1 other classes share ε, the same as "all" with ε′ = ε·K/(K − 1) (tensor2tensor, fairseq).
        exclude: classes that never receive smoothed mass (a padding column). K in ε′ is the number of the others.
        objective: "cross_entropy" −Σ w q log p, or "kl", which adds Σ w q log q.
        class_weights: "per_term" Σ_k w_k q_k (−log p_k); "target" w_y times the whole element; "nll_only" w_y on the
            label's term and 1 on the smoothing term; "mixture" Σ_k q_k w_k times the whole element.
        denominator: what "mean" divides by, see `DIVIDES_BY`.
        smoothing_map: "identity", or "classy": ε ↦ ε/(1 + ε), a target (t + ε/K)/(1 + ε) (ClassyVision).
        ignore_scope: "all": an ignored element contributes nothing; "nll_only": its smoothing term still counts.
        smooth_denominator: a denominator of its own for the smoothing term, or None.
        z_loss_denominator: a denominator of its own for the z-loss, or None. No class weight multiplies a z-loss.
        denominator_add, denominator_floor: mean divides by max(denominator + add, floor).
        scale: a factor on the loss.
        ignore_index: the label that the original ignores by default. A call ignores its own `ignore_index` only.

    >>> from dataclasses import replace
    >>> import multismooth
    >>> replace(multismooth.conventions["torch"], spread="others") == multismooth.conventions["torch"]
    False
    >>> multismooth.conventions["others"].smoothing_for(multismooth.conventions["torch"], 0.1, 3)
    0.15
    """

    name: str = field(default="", compare=False)
    spread: Spread = "all"
    exclude: tuple[int, ...] = ()
    objective: Objective = "cross_entropy"
    class_weights: ClassWeights = "per_term"
    denominator: Denominator = "target_weight"
    smoothing_map: SmoothingMap = "identity"
    ignore_scope: IgnoreScope = "all"
    smooth_denominator: Denominator | None = None
    z_loss_denominator: Denominator | None = None
    denominator_add: float = 0.0
    denominator_floor: float | None = None
    scale: float = 1.0
    ignore_index: int | None = field(default=-100, compare=False)
    source: str = field(default="", compare=False)
    notes: str = field(default="", compare=False)

    def __post_init__(self):
        for argument, choices in CHOICES.items():
            _choose(f"Convention.{argument}", getattr(self, argument), choices)
        for argument in ("smooth_denominator", "z_loss_denominator"):
            own = getattr(self, argument)
            if own is not None:
                _choose(f"Convention.{argument}", own, CHOICES["denominator"])
            if self.denominator in (own, "caller"):  # a caller's normalizer divides all three terms
                object.__setattr__(self, argument, None)
        for argument in ("denominator_add", "denominator_floor", "scale"):
            object.__setattr__(self, argument, _number(argument, getattr(self, argument)))
        object.__setattr__(self, "exclude", _classes(self.exclude))
        if self.ignore_index is not None:
            object.__setattr__(self, "ignore_index", _whole("ignore_index", self.ignore_index))

    def to_json(self) -> str:
        """All fields as a JSON object, with which a training run can record what it used. `from_json` reads it.

        >>> import multismooth
        >>> torch = multismooth.conventions["torch"]
        >>> multismooth.Convention.from_json(torch.to_json()) == torch
        True
        """
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Convention":
        """The Convention that `to_json` wrote. Fields that the text lacks get their defaults.

        Raises ValueError for text that is no JSON object, for fields that this version does not know, and for
        values that no Convention has.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise complain(
                "text", "a JSON object, as from Convention.to_json()", f"{text!r:.60}", f"It cannot be read: {error}."
            ) from error
        if not isinstance(values, dict):
            remedy = "Pass what to_json wrote, not a part of it."
            raise complain("text", "a JSON object, as from Convention.to_json()", f"{text!r:.60}", remedy)
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise complain(
                "text",
                "the fields " + ", ".join(known),
                "also " + ", ".join(map(repr, unknown)),
                "A newer multismooth may have written it; this one cannot know what it means.",
            )
        return cls(**values)

    def divides_z_loss(self, weighted):
        """The kind of denominator of the z-loss, or None where the z-loss has the denominator of the loss.

        weighted: whether the call has class weights. Without them some kinds are equal.
        """
        equal = not weighted and {self.denominator, self.z_loss_denominator} <= {*EQUAL_WITHOUT_WEIGHTS}
        return None if equal else self.z_loss_denominator

    def mass(self, label_smoothing, num_classes):
        """ε′, the share of the target row that goes to r: ε, ε/(1 + ε) or these times K/(K − 1)."""
        if self.smoothing_map == "classy":
            label_smoothing = label_smoothing / (1 + label_smoothing)
        return label_smoothing * self.stretch(num_classes)

    def receivers(self, num_classes):
        """How many of the K classes take smoothed mass: those that are not excluded."""
        return num_classes - sum(k < num_classes for k in self.exclude)

    def first_label(self, num_classes):
        """The first class that takes smoothed mass. Raises ValueError when none does."""
        for k in range(num_classes):
            if k not in self.exclude:
                return k
        excluded = ", ".join(map(str, self.exclude))
        name = self.name or "this convention"
        raise complain(
            "num_classes",
            "a class that can receive something",
            f"{num_classes}",
            f"{name} gives nothing to class {excluded}.",
        )

    def stretch(self, num_classes):
        """ε′/ε of the spread: 1, or K/(K − 1). With one class there are no others, and it is 0."""
        if self.spread == "all":
            return 1.0
        return num_classes / (num_classes - 1) if num_classes > 1 else 0.0

    def smoothing_for(self, other: "Convention", label_smoothing: float, num_classes: int) -> float:
        """The ε with which `other` has the targets that this convention has at `label_smoothing`.

        Raises SmoothingError when there is none in [0, 1], ValueError when the two exclude different classes.
        """
        if self.exclude != other.exclude:
            raise complain(
                "other",
                f"a convention that excludes the classes {self.exclude}",
                f"one that excludes {other.exclude}",
                "No ε makes their targets equal; make a variant with dataclasses.replace(other, exclude=...).",
            )
        classes = self.receivers(num_classes)
        stretch = other.stretch(classes)
        mass = self.mass(_smoothing(label_smoothing), classes)
        result = mass / stretch if stretch else 0.0
        if other.smoothing_map == "classy":
            result = result / (1 - result) if result < 1 else float("inf")
        if not 0 <= result <= 1:
            raise complain(
                "label_smoothing",
                f"a value that {other.name or 'the other convention'} can express with an ε in [0, 1]",
                f"{label_smoothing}, for which it would need {result:g}",
                "Use a smaller ε.",
                SmoothingError,
            )
        return float(f"{result:.15g}")

    def target_row(self, label_smoothing: float, num_classes: int, label: int = 0) -> list[float]:
        """q for one label, as a list: `(1 − ε′)·[k = label] + ε′·r_k`."""
        allowed = self.receivers(num_classes)
        mass = self.mass(_smoothing(label_smoothing), allowed)
        row = [0.0 if k in self.exclude else mass / allowed for k in range(num_classes)]
        row[label] += 1 - mass
        return row

    def explain(self, label_smoothing: float = 0.1, num_classes: int = 5) -> str:
        """The formula, the target row and what "mean" divides by, as text.

        >>> import multismooth
        >>> print(multismooth.conventions["others"].explain(0.1, 3))
        others: q = (1 − ε′)·t + ε′/K,  ε′ = ε·K/(K − 1)
          ε = 0.1, K = 3: ε′ = 0.15
          class 0  0.9    ██████████████████
          class 1  0.05   █
          class 2  0.05   █
          loss = −Σ w q log p;  class weights: per_term
          mean divides by the summed class weights of the counted labels (their number, without weights)
        """
        allowed = self.receivers(num_classes)
        label = self.first_label(num_classes)
        spread = "ε′/K" if not self.exclude else "ε′/K on every class but " + ", ".join(map(str, self.exclude))
        ratio = {"identity": "ε", "classy": "ε/(1 + ε)"}[self.smoothing_map]
        mapping = ratio + ("·K/(K − 1)" if self.spread == "others" else "")
        rows = [
            f"  class {k}  {q:<6.4g} {'█' * round(20 * q)}"
            for k, q in enumerate(self.target_row(label_smoothing, num_classes, label)[:10])
        ]
        if num_classes > 10:
            rows.append(f"  ... {num_classes - 10} more")
        entropy = " + Σ w q log q" if self.objective == "kl" else ""
        loss = f"  loss = −Σ w q log p{entropy};  class weights: {self.class_weights}"
        defaults = {f.name: f.default for f in fields(self)}
        extras = [
            f"  {name} = {value}" + (f": {DIVIDES_BY[value]}" if name.endswith("_denominator") else "")
            for name, value in ((name, getattr(self, name)) for name in EXPLAINED_IF_SET)
            if value != defaults[name]
        ]
        return "\n".join(
            [
                f"{self.name or 'unnamed'}: q = (1 − ε′)·t + {spread},  ε′ = {mapping}",
                f"  ε = {label_smoothing:g}, K = {allowed}: ε′ = {self.mass(label_smoothing, allowed):.6g}",
                *rows,
                loss,
                f"  mean divides by {DIVIDES_BY[self.denominator]}",
                *extras,
                *([f"  {self.notes}"] if self.notes else []),
            ]
        )


def _choose(argument, value, choices):
    if not isinstance(value, str) or value not in choices:
        raise complain(argument, "one of " + ", ".join(map(repr, choices)), repr(value), "Names are case-sensitive.")


def _number(argument, value):
    if value is None and argument == "denominator_floor":
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        remedies = {"scale": "1 leaves the loss as it is.", "denominator_add": "0 adds nothing."}
        remedy = remedies.get(argument, "None is no floor.")
        raise complain(f"Convention.{argument}", "a finite number", repr(value), remedy)
    return float(value)


def _smoothing(value):
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise complain("label_smoothing", "a number in [0, 1]", repr(value), "0 means no smoothing.", SmoothingError)
    return value


def _whole(argument, value):
    if isinstance(value, bool) or not isinstance(value, Integral):
        remedy = "It is the number of a class or label."
        raise complain(f"Convention.{argument}", "an integer", repr(value), remedy)
    return int(value)


def _classes(exclude):
    """The excluded classes, each once and in order."""
    if isinstance(exclude, Integral | str) or any(_whole("exclude", k) < 0 for k in exclude):
        raise complain("Convention.exclude", "a tuple of class numbers ≥ 0", repr(exclude), "Count from 0.")
    return tuple(sorted({int(k) for k in exclude}))
