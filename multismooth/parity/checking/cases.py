"""The problems on which two losses are compared: every two conventions of the registry differ on one of them.

Logits are multiples of 1/16 and weights are powers of two. So float64, float32, float16 and bfloat16 hold the same
problem, and the printed case is exactly the problem that failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from multismooth.parity.calling.answers import NO_KEYWORDS
from multismooth.parity.calling.forms import LAYOUTS

OTHER_CLASSES = (2, 3, 10, 1000)  # tried too, where the loss takes any K
Z_LOSS = 0.0625
PER_CLASS, PER_ELEMENT = {"weight", "prior", "class_mask"}, {"sample_weight"}


@dataclass(frozen=True, eq=False)
class Case:
    """One problem: logits (N, K), labels (N,), and the keyword arguments of both losses."""

    name: str
    logits: np.ndarray
    labels: np.ndarray
    keywords: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    strided: bool = False
    layout: str = ""  # "": the first that the loss takes

    def __str__(self):
        n, k = self.logits.shape
        keywords = f", {', '.join(self.keywords)}" if self.keywords else ""
        dtype = "" if self.dtype == "float64" else f" {self.dtype}"
        layout = f" as {LAYOUTS[self.layout].of_logits}" if self.layout else ""
        return f"{self.name}{keywords}: {n} × {k}{dtype}{layout}"

    def rows(self, keep):
        """The case with some of its elements."""
        keywords = {name: v[keep] if name in PER_ELEMENT else v for name, v in self.keywords.items()}
        return replace(self, logits=self.logits[keep], labels=self.labels[keep], keywords=keywords)

    def classes(self, k):
        """The case with its first k classes."""
        keywords = {name: v[:k] if name in PER_CLASS else v for name, v in self.keywords.items()}
        if "prior" in keywords:
            keywords["prior"] = keywords["prior"] / keywords["prior"].sum()
        return replace(self, logits=self.logits[:, :k], keywords=keywords)


@dataclass(frozen=True, eq=False)
class Domain:
    """The problems that a loss takes."""

    num_classes: int
    any_num_classes: bool = True  # it takes other K, too
    forbidden_labels: frozenset[int] = frozenset()
    ignore_index: int | None = None
    accepts: tuple[str, ...] = ()  # the arguments that it takes by keyword
    takes_prior: bool = True  # the smoothed mass may go to a prior
    class_mask: Any = None  # (K,) the classes that exist
    layouts: tuple[str, ...] = ()  # the other layouts that it takes
    has_sentences: bool = False  # the first layout has more axes than (N, K)
    takes_rows: bool = False  # the targets may be rows of probabilities

    def labels(self, n, k, ignore_index=None, ignore=True):
        """n labels: the first allowed class most often, some classes absent, every third one ignored if a label is."""
        ignore_index = self.ignore_index if ignore_index is None else ignore_index
        allowed = [c for c in range(min(k, 40)) if c not in self.forbidden_labels and c != ignore_index]
        chosen = np.random.default_rng((n, k)).choice(allowed[: max(2, len(allowed) - 1)], size=n)
        chosen[: (n + 1) // 3] = allowed[0]
        if ignore and ignore_index is not None and n > 1:
            chosen[1::3] = ignore_index
            chosen[n // 2 : n // 2 + 2] = ignore_index
        return chosen

    def case(self, name, n=12, k=None, *, ignore=True, keywords=NO_KEYWORDS, **options):
        """A Case of n elements and k classes; ignore=False: with no ignored label."""
        k = k or self.num_classes
        labels = self.labels(n, k, keywords.get("ignore_index"), ignore)
        return Case(name, random_logits(n, k), labels, keywords, **options)


def random_logits(n, k):
    """(n, k) multiples of 1/16 within ±6; each row has an offset of its own, without which lse² would not show."""
    random = np.random.default_rng((7, n, k))
    z = 1.5 * random.normal(size=(n, k)) + random.normal(size=(n, 1))
    return np.clip(np.round(16 * z) / 16, -6, 6)


def class_weights(k):
    """Powers of two, far from 1 and from each other."""
    return np.resize([0.25, 4.0, 1.0, 0.5, 8.0, 2.0], k)


def sample_weights(n):
    return np.resize([1.0, 0.5, 0.0, 2.0, 0.25], n)


def standard_cases(domain):
    """The problems that every loss is tried on, and those that vary the arguments it accepts."""
    yield domain.case("one element", 1)
    yield domain.case("a batch", ignore=False)
    if domain.ignore_index is not None:
        yield domain.case("ignored labels")
    yield domain.case("a long batch", 101)
    if domain.any_num_classes:
        for k in OTHER_CLASSES:
            labels = set(range(k)) - domain.forbidden_labels - {domain.ignore_index}
            if k != domain.num_classes and len(labels) > 1:
                yield domain.case(f"{k} classes", k=k)
    for argument in domain.accepts:
        yield from ARGUMENT_CASES[argument](domain)
    weights = {"weight": class_weights(domain.num_classes), "sample_weight": sample_weights(12)}
    if weights.keys() <= set(domain.accepts):
        yield domain.case("both kinds of weights", keywords=weights)
    if "z_loss" in domain.accepts:  # only weights show what the z-loss is divided by
        for name, value in weights.items():
            if name in domain.accepts:
                yield domain.case("z-loss and weights", keywords={"z_loss": Z_LOSS, name: value})


def separating_cases(domain):
    """The standard cases with every argument varied. They tell all conventions apart."""
    yield from standard_cases(replace(domain, accepts=tuple(ARGUMENT_CASES)))


def _weight(domain):
    keywords = {"weight": class_weights(domain.num_classes)}
    yield domain.case("class weights", ignore=False, keywords=keywords)
    yield domain.case("class weights, ignored labels", keywords=keywords)
    yield domain.case("one element", 1, keywords=keywords)


def _label_smoothing(domain):
    for eps in (0.0, 0.25):
        yield domain.case(f"ε = {eps:g}", keywords={"label_smoothing": eps})


def _reduction(domain):
    for reduction in ("sum", "none"):
        yield domain.case(f"reduction {reduction!r}", keywords={"reduction": reduction})


def _ignore_index(domain):
    classes = [k for k in range(domain.num_classes) if k not in domain.forbidden_labels]
    for label in (-100, -1, classes[-1]):
        yield domain.case(f"label {label} ignored", keywords={"ignore_index": label})


def _sample_weight(domain):
    yield domain.case("sample weights", keywords={"sample_weight": sample_weights(12)})
    yield domain.case("half an element", 1, keywords={"sample_weight": np.array([0.5])})
    yield domain.case("hardly an element", 1, keywords={"sample_weight": np.array([2.0**-23])})


def _class_mask(domain):
    k, labels = domain.num_classes, domain.forbidden_labels | {domain.ignore_index}
    absent = next((c for c in reversed(range(k)) if c not in labels), None)
    if k < 3 or absent is None:
        return
    mask = np.arange(k) != absent
    narrow = replace(domain, forbidden_labels=domain.forbidden_labels | {absent})
    for value, name in ((None, "a class masked"), (-np.inf, "−inf where masked"), (np.nan, "NaN where masked")):
        case = narrow.case(name, keywords={"class_mask": mask})
        if value is not None:
            case = replace(case, logits=np.where(mask, case.logits, value))
        yield case


def _prior(domain):
    if domain.takes_prior:
        prior = class_weights(domain.num_classes)
        yield domain.case("a prior", keywords={"prior": prior / prior.sum()})


def _z_loss(domain):
    yield domain.case("z-loss", keywords={"z_loss": Z_LOSS})


def _normalizer(domain):
    yield domain.case("normalizer", keywords={"normalizer": 16.0})


# argument of `multismooth.loss`: the cases that vary it
ARGUMENT_CASES = {
    "weight": _weight,
    "label_smoothing": _label_smoothing,
    "reduction": _reduction,
    "ignore_index": _ignore_index,
    "sample_weight": _sample_weight,
    "class_mask": _class_mask,
    "prior": _prior,
    "z_loss": _z_loss,
    "normalizer": _normalizer,
}
