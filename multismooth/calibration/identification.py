"""Which calibration error is this? A metric function is called on small sets whose dialects give different numbers.

Probes: probabilities off every edge; two classes; p = 1; equal confidences; fewer rows than bins; p on the edges of the
number of bins that is left.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np

from multismooth.api import argument_checks
from multismooth.calibration import dialects
from multismooth.calibration.conventions import ErrorConvention, conventions
from multismooth.calibration.error import of_sample
from multismooth.calibration.sample import read
from multismooth.errors import complain

BINS = (15, 10, 20, 5, 8, 9, 12, 14, 16, 19, 25, 30, 32, 40, 49, 50, 64, 100)  # MAPIE counts edges, so 15 are 14
CLOSE = 2e-6  # functions compute in float32, too; on the probes two dialects differ by 1e-4 and more
FRAMEWORKS = ("numpy", "torch", "jax")


@dataclass(frozen=True)
class Dialect:
    """A convention, or one of `dialects.OTHERS` for what no convention says; times what the function multiplies by."""

    convention: ErrorConvention
    other: str = ""
    factor: str = ""  # "", "percent" or "summed over classes"

    def value(self, probs, labels) -> float:
        if self.other:
            error = dialects.OTHERS[self.other].error(probs, labels, self.convention.bins)
        else:
            error = of_sample(_sample(probs.tobytes(), labels.tobytes(), probs.shape), self.convention)
        return error * {"": 1, "percent": 100, "summed over classes": probs.shape[1]}[self.factor]

    def __str__(self) -> str:
        text = str(self.convention)
        if self.other:
            other = dialects.OTHERS[self.other]
            text = f"{self.convention.bins} bins: {other.text}" if other.binned else other.text
        return text + (f", {self.factor}" if self.factor else "")


@cache
def _sample(probs, labels, shape):
    return read(None, np.frombuffer(labels, np.int64), np.frombuffer(probs).reshape(shape), None, None)


@dataclass(frozen=True)
class MetricIdentification:
    """What a metric function computes.

    Args:
        found: the dialects that give all its numbers, the simplest first; empty if none does.
        names: names in `calibration.conventions` of the first, up to the number of bins.
        remarks: what a probe could not decide: the function raised, or rounds its edges in a way of its own.
        values: what it returned, by probe.

    It is true if something was found.
    """

    found: tuple[Dialect, ...]
    names: tuple[str, ...]
    remarks: dict[str, str]
    values: dict[str, float]

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def convention(self) -> ErrorConvention | None:
        """The convention of the first dialect found; None if no convention says what it is."""
        return self.found[0].convention if self.found and not self.found[0].other else None

    def __str__(self) -> str:
        if not self.found:
            lines = ["It is none of the known dialects.", *(f"  {name}: {x:.6g}" for name, x in self.values.items())]
        else:
            lines = [str(self.found[0])]
            lines += [f"  also called: {', '.join(self.names)}"] if self.names else []
            lines += [f"  not told apart from: {other}" for other in self.found[1:4]]
        return "\n".join(lines + [f"  {name}: {error}" for name, error in self.remarks.items()])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "found": [str(dialect) for dialect in self.found],
            "names": list(self.names),
            "remarks": self.remarks,
            "values": self.values,
        }


def identify(
    function: Callable, framework: str | None = None, *, bins: int | None = None, takes: str = "probs"
) -> MetricIdentification:
    """Which dialect of calibration error a metric function computes. It is called on a few small sets.

    Args:
        function: called as `function(probs, labels)`; returns a number.
        framework: "numpy", "torch" or "jax", whose arrays it takes; by default the first that works.
        bins: the number of bins, if it is known. Else usual ones from 5 to 100 are tried.
        takes: "probs" (N, K) and labels; "logits" (N, K) and labels; "rows": confidences (N,) and hits (N,).

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> def ece(probs, labels):
    ...     confidence, right = probs.max(1), probs.argmax(1) == labels
    ...     bin = np.minimum((confidence * 10).astype(int), 9)
    ...     gaps = [abs(right[bin == b].sum() - confidence[bin == b].sum()) for b in range(10)]
    ...     return sum(gaps) / len(labels)
    >>> print(calibration.identify(ece))
    top_label, 10 bins of equal width [lo, hi), l1, weighted by count
      also called: left_closed
    """
    if takes not in ("probs", "logits", "rows"):
        raise complain("takes", '"probs", "logits" or "rows"', repr(takes), "It is what the function is called with.")
    numbers = BINS if bins is None else (argument_checks.positive("bins", bins, "15 are usual."),)
    call = _caller(function, framework, takes)
    values, remarks = {}, {}
    survivors = list(_candidates(numbers))
    for name, probs, labels in probes():
        outcome = _outcome(call, probs, labels)
        if isinstance(outcome, str):
            remarks[name] = outcome
            continue
        values[name] = outcome
        survivors = [dialect for dialect in survivors if _agrees(dialect, name, probs, labels, outcome)]
    if len(values) < 2:
        raise complain(
            "function",
            f"a metric that can be called as function({takes if takes != 'rows' else 'confidence, right'}, …)",
            next(iter(remarks.values()), "nothing"),
            'framework= says whose arrays it takes, takes= what: "probs", "logits" or "rows".',
        )
    survivors = _on_edges(call, survivors, values, remarks)
    survivors.sort(key=lambda dialect: (bool(dialect.other), len(dialect.convention.settings), bool(dialect.factor)))
    return MetricIdentification(tuple(survivors), _names(survivors), remarks, values)


def _names(survivors):
    if not survivors or survivors[0].other:
        return ()
    own = replace(survivors[0].convention, bins=15)
    return tuple(n for n, entry in conventions.items() if replace(entry, bins=15, name="", source="") == own)


def _on_edges(call, survivors, values, remarks):
    """Those that agree where p is on an edge; all of them, if the function rounds edges in a way of its own."""
    for number in dict.fromkeys(dialect.convention.bins for dialect in survivors):
        name = f"p on the edges of {number} bins"
        probs, labels = edge_probe(number)
        outcome = _outcome(call, probs, labels)
        if isinstance(outcome, str):
            remarks[name] = outcome
            continue
        values[name] = outcome
        same = [d for d in survivors if d.convention.bins != number or _agrees(d, name, probs, labels, outcome)]
        if any(d.convention.bins == number for d in same) or len({d.convention.bins for d in survivors}) > 1:
            survivors = same or survivors
        else:
            remarks[name] = "its edges are not i/B in float64"
    return survivors


def _candidates(numbers) -> Iterator[Dialect]:
    """All conventions that differ on some probe, for each number of bins."""
    places: list[dict[str, Any]] = [{}, {"closed": "left"}, {"closed": "left", "one": "own"}, {"binning": "mass"}]
    norms: list[dict[str, Any]] = [
        {"norm": norm, "bin_weight": weight} for norm in ("l1", "l2") for weight in ("count", "equal")
    ]
    norms += [{"norm": "max"}, {"norm": "l2", "debias": True}]
    events: tuple[str | int, ...] = ("top_label", "class_wise", "pooled", "predicted_class", 1, "class_1_or_top_label")
    for bins, place, norm, event in product(numbers, places, norms, events):
        convention = ErrorConvention(bins=bins, event=event, **place, **norm)
        yield from (Dialect(convention, factor=factor) for factor in ("", "percent"))
        if event in ("class_wise", "pooled"):
            yield Dialect(convention, factor="summed over classes")
    for name, other in dialects.OTHERS.items():
        for bins, factor in product(numbers if other.binned else numbers[:1], ("", "percent")):
            yield Dialect(ErrorConvention(bins=bins), name, factor)


def _agrees(dialect, name, probs, labels, outcome) -> bool:
    other = dialects.OTHERS.get(dialect.other)
    if other and other.undecided == name:
        return True
    expected = dialect.value(probs, labels)
    return abs(expected - outcome) <= max(CLOSE, other.close if other else 0) * max(1.0, abs(expected))


def probes() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, probabilities, labels) of every probe but that on edges."""
    random = np.random.default_rng(7)
    for name, rows, classes in (("no edges", 61, 4), ("two classes", 47, 2), ("fewer rows than bins", 4, 3)):
        probs = random.dirichlet(np.full(classes, 0.7), rows)
        yield name, probs, _labels(random, probs)
    probs = random.dirichlet(np.full(3, 0.7), 400)
    yield "many rows", probs, _labels(random, probs)
    probs = random.dirichlet(np.full(3, 0.7), 37)
    probs, labels = _with(random, probs, np.array([1.0, 1.0, 1.0, 1.0, 0.995, 0.992]))
    labels[:4] = 2  # wrong where p = 1, right beside it: gaps of two signs, which one bin would join
    labels[4:6] = [0, 1]
    yield "p = 1", probs, labels
    yield "equal confidences", *_with(random, probs, np.repeat([0.53, 0.71, 0.93], [13, 8, 11]))


def edge_probe(bins) -> tuple[np.ndarray, np.ndarray]:
    """Confidences i/B above 1/2 and some beside them."""
    random = np.random.default_rng(bins)
    on = np.arange(bins // 2 + 1, bins) / bins
    confidence = np.concatenate([on, (on + (1 / bins) * 0.37)[:-1], [0.999]])
    return _with(random, random.dirichlet(np.full(3, 0.7), len(confidence) + 3), confidence)


def _with(random, probs, confidence):
    """The probabilities with the first rows' largest ones as given, in class 0 and class 1 by turns."""
    probs = probs.copy()
    rest = (1 - confidence) * random.uniform(0.55, 0.95, len(confidence))
    probs[: len(confidence)] = np.stack([confidence, rest, 1 - confidence - rest], axis=1)
    probs[1 : len(confidence) : 2] = np.roll(probs[1 : len(confidence) : 2], 1, axis=1)
    return probs, _labels(random, probs)


def _labels(random, probs):
    """Right in about 60 of 100, so that the gaps are large."""
    right = random.random(len(probs)) < 0.6
    return np.where(right, probs.argmax(1), random.integers(0, probs.shape[1], len(probs)))


def _outcome(call, probs, labels):
    """What the function returns, or the text of what it raises."""
    try:
        return call(probs, labels)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"


def _caller(function, framework, takes):
    """The function, as one of NumPy arrays that returns a float, in the first framework that it takes."""
    if framework is not None and framework not in FRAMEWORKS:
        raise complain("framework", ", ".join(map(repr, FRAMEWORKS)), repr(framework), "None tries all of them.")
    _, probs, labels = next(probes())
    tried = [name for name in FRAMEWORKS if framework in (None, name) and find_spec(name)]
    calls = [lambda probs, labels, name=name: _called(function, name, takes, probs, labels) for name in tried]
    return next((call for call in calls if not isinstance(_outcome(call, probs, labels), str)), calls[0])


def _called(function, framework, takes, probs, labels):
    if takes == "rows":
        arguments = probs.max(1), probs.argmax(1) == labels
    else:
        with np.errstate(divide="ignore"):
            arguments = np.log(probs) if takes == "logits" else probs.copy(), labels.copy()
    if framework == "torch":
        arguments = map(import_module("torch").from_numpy, arguments)
    elif framework == "jax":
        arguments = map(import_module("jax.numpy").asarray, arguments)
    return float(function(*arguments))
