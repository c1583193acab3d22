"""The problems on which two losses are compared: every pair of conventions of the registry differs on one of them.

Logits are multiples of 1/16 and weights powers of two, so that float64, float32, float16 and bfloat16 hold the same
problem, and what is printed of it is the problem itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from multismooth.parity.calling.frameworks import NOTHING

OTHER_CLASSES = (2, 3, 10, 1000)  # also asked for, where the loss takes any K
Z_LOSS = 0.0625
PER_CLASS, PER_ELEMENT = ("weight", "prior", "class_mask"), ("sample_weight",)


@dataclass(frozen=True, eq=False)
class Case:
    """One problem: logits (N, K), labels (N,), and what is given to both sides by keyword."""

    name: str
    logits: np.ndarray
    labels: np.ndarray
    given: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    strided: bool = False

    def __str__(self):
        n, k = self.logits.shape
        given = f", {', '.join(self.given)}" if self.given else ""
        dtype = "" if self.dtype == "float64" else f" {self.dtype}"
        return f"{self.name}{given}: {n} × {k}{dtype}"

    def rows(self, keep):
        """The case with some of its elements."""
        given = {name: v[keep] if name in PER_ELEMENT else v for name, v in self.given.items()}
        return replace(self, logits=self.logits[keep], labels=self.labels[keep], given=given)

    def classes(self, k):
        """The case with its first k classes."""
        given = {name: v[:k] if name in PER_CLASS else v for name, v in self.given.items()}
        if "prior" in given:
            given["prior"] = given["prior"] / given["prior"].sum()
        return replace(self, logits=self.logits[:, :k], given=given)


@dataclass(frozen=True, eq=False)
class Ground:
    """What a loss may be given: K, whether it takes others, which labels it must not see, the one that it ignores."""

    num_classes: int
    free: bool = True
    forbidden: frozenset[int] = frozenset()
    ignored: int | None = None
    accepts: tuple[str, ...] = ()
    uniform: bool = True  # the smoothed mass may go to a prior instead
    mask: Any = None  # (K,) the classes that exist

    def labels(self, n, k, ignored=None, ignore=True):
        """n labels, the first allowed class most often, some classes absent; every third one ignored if any is."""
        ignored = self.ignored if ignored is None else ignored
        allowed = [c for c in range(min(k, 40)) if c not in self.forbidden and c != ignored]
        chosen = np.random.default_rng((n, k)).choice(allowed[: max(2, len(allowed) - 1)], size=n)
        chosen[: (n + 1) // 3] = allowed[0]
        if ignore and ignored is not None and n > 1:
            chosen[1::3] = ignored
            chosen[n // 2 : n // 2 + 2] = ignored
        return chosen

    def case(self, name, n=12, k=None, *, ignore=True, given=NOTHING, **options):
        k = k or self.num_classes
        ignored = given.get("ignore_index")
        return Case(name, logits(n, k), self.labels(n, k, ignored, ignore), given, **options)


def logits(n, k):
    """(n, k) scores on a grid of 1/16, within ±6; each row has a level of its own, so that lse² shows."""
    random = np.random.default_rng((7, n, k))
    z = 1.5 * random.normal(size=(n, k)) + random.normal(size=(n, 1))
    return np.clip(np.round(16 * z) / 16, -6, 6)


def ordinary(ground):
    """Problems as every loss meets them."""
    yield ground.case("one element", 1)
    yield ground.case("a batch", ignore=False)
    if ground.ignored is not None:
        yield ground.case("ignored labels")
    yield ground.case("a long batch", 101)
    if ground.free:
        for k in OTHER_CLASSES:
            if k != ground.num_classes and len(set(range(k)) - ground.forbidden - {ground.ignored}) > 1:
                yield ground.case(f"{k} classes", k=k)
    for argument in ground.accepts:
        yield from VARIED[argument](ground)
    if {"weight", "sample_weight"} <= set(ground.accepts):
        given = {"weight": class_weights(ground.num_classes), "sample_weight": element_weights(12)}
        yield ground.case("both kinds of weights", given=given)
    if "z_loss" in ground.accepts:  # what divides it shows beside weights alone
        for name, own in (("weight", class_weights(ground.num_classes)), ("sample_weight", element_weights(12))):
            if name in ground.accepts:
                yield ground.case("z-loss and weights", given={"z_loss": Z_LOSS, name: own})


def separating(ground):
    """All problems with everything varied that can be: what tells the conventions apart."""
    yield from ordinary(replace(ground, accepts=tuple(VARIED)))


def class_weights(k):
    """Powers of two, far from 1 and from each other."""
    return np.resize([0.25, 4.0, 1.0, 0.5, 8.0, 2.0], k)


def element_weights(n):
    return np.resize([1.0, 0.5, 0.0, 2.0, 0.25], n)


def _weights(ground):
    given = {"weight": class_weights(ground.num_classes)}
    yield ground.case("class weights", ignore=False, given=given)
    yield ground.case("class weights, ignored labels", given=given)
    yield ground.case("one element", 1, given=given)


def _smoothings(ground):
    for eps in (0.0, 0.25):
        yield ground.case(f"ε = {eps:g}", given={"label_smoothing": eps})


def _reductions(ground):
    for reduction in ("sum", "none"):
        yield ground.case(f"reduction {reduction!r}", given={"reduction": reduction})


def _ignored(ground):
    legal = [k for k in range(ground.num_classes) if k not in ground.forbidden]
    for label in (-100, -1, legal[-1]):
        yield ground.case(f"label {label} ignored", given={"ignore_index": label})


def _elements(ground):
    yield ground.case("sample weights", given={"sample_weight": element_weights(12)})
    yield ground.case("half an element", 1, given={"sample_weight": np.array([0.5])})
    yield ground.case("hardly an element", 1, given={"sample_weight": np.array([2.0**-23])})


def _masks(ground):
    k = ground.num_classes
    gone = next((c for c in reversed(range(k)) if c not in ground.forbidden and c != ground.ignored), None)
    if k < 3 or gone is None:
        return
    mask = np.arange(k) != gone
    narrow = replace(ground, forbidden=ground.forbidden | {gone})
    for value, name in ((None, "a class masked"), (-np.inf, "−inf where masked"), (np.nan, "NaN where masked")):
        case = narrow.case(name, given={"class_mask": mask})
        if value is not None:
            case = replace(case, logits=np.where(mask, case.logits, value))
        yield case


def _priors(ground):
    if ground.uniform:
        prior = class_weights(ground.num_classes)
        yield ground.case("a prior", given={"prior": prior / prior.sum()})


def _squares(ground):
    yield ground.case("z-loss", given={"z_loss": Z_LOSS})


def _normalizers(ground):
    yield ground.case("normalizer", given={"normalizer": 16.0})


VARIED = {
    "weight": _weights,
    "label_smoothing": _smoothings,
    "reduction": _reductions,
    "ignore_index": _ignored,
    "sample_weight": _elements,
    "class_mask": _masks,
    "prior": _priors,
    "z_loss": _squares,
    "normalizer": _normalizers,
}
