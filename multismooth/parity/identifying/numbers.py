"""Which conventions give a loss that was logged, with its logits and labels: `identify_value`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.forms import log_softmax
from multismooth.parity.reading import COUNTING_SENTENCES, SENTENCE_MEANS, SENTENCES, Reading, settings_text
from multismooth.registry import conventions

SMOOTHINGS = (0.1, 0.0, 0.05, 0.2, 0.01, 0.15, 0.3, 0.02, 0.25, 0.001, 0.03, 0.08, 0.4, 0.5)  # the usual ones first
IGNORED = (-100, None, -1, 255, 0, 1)


@dataclass(frozen=True)
class Candidate:
    """A reading that gives the logged loss: `off` is by how much it misses it, relative to the loss."""

    reading: Reading
    names: tuple[str, ...]
    value: float
    off: float

    def __str__(self):
        names = ", ".join(self.names[:6]) + (f" and {len(self.names) - 6} more" if len(self.names) > 6 else "")
        return f"{self.value:.8g} (off by {self.off:.0e}): {names or 'no name'}: {settings_text(self.reading)}"


@dataclass(frozen=True)
class Candidates:
    """The candidates for a logged loss, the likeliest first; true if there is one.

    Attributes:
        loss: the number, and `tolerance`, how far a candidate may be from it, relative to it.
        rows: of how many first rows the loss should be logged too: it tells the candidates apart. 0 where there is one
            candidate; None where no part of these rows does.
    """

    candidates: tuple[Candidate, ...]
    loss: float
    tolerance: float
    rows: int | None

    def __bool__(self):
        return bool(self.candidates)

    def __str__(self):
        if not self.candidates:
            return f"no convention gives {self.loss:.10g} to {self.tolerance:.0e} with a usual ε"
        lines = [f"{number}. {candidate}" for number, candidate in enumerate(self.candidates[:10], 1)]
        if len(self.candidates) > 10:
            lines.append(f"and {len(self.candidates) - 10} more")
        told = {
            0: "one candidate is left: no more rows are needed",
            None: "no part of these rows tells them apart: log that of rows with ignored labels, or other shapes",
        }
        text = f"the loss of the first {self.rows} rows alone would tell the first candidate from the others"
        return "\n".join([*lines, told.get(self.rows, text)])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = [
            {"settings": settings_text(c.reading), "names": list(c.names), "value": c.value, "off": c.off}
            for c in self.candidates
        ]
        return {"loss": self.loss, "tolerance": self.tolerance, "rows": self.rows, "candidates": found}


def identify_value(logits, labels, loss, *, tolerance=None) -> Candidates:
    """Which conventions, ε and denominators give one logged loss.

    Args:
        logits: (N, K), or (B, T, K), as they were logged. labels: integers, (N,) or (B, T).
        loss: the number, as a float or as text, whose digits say how exact it is: "2.3145" is 2.3145 ± 0.00005.
        tolerance: relative; None takes the digits of a text, and 2e-6 for a float, which float32 allows.

    >>> import numpy as np
    >>> from multismooth import parity
    >>> import multismooth
    >>> z, y = np.random.default_rng(0).normal(size=(20, 7)), np.arange(20) % 7
    >>> y[:5] = -100
    >>> found = parity.identify_value(z, y, float(multismooth.loss(z, y, convention="keras", label_smoothing=0.05)))
    >>> found.candidates[0].reading.label_smoothing, "keras" in found.candidates[0].names
    (0.05, True)
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.shape[:-1] != labels.shape or labels.dtype.kind not in "iu" or not labels.size:
        expected, got = "logits (…, K) with integer labels (…)", f"{logits.shape} and {labels.dtype} {labels.shape}"
        raise complain("labels", expected, got, "Move the classes to the last axis, and cast the labels to integers.")
    value, tolerance = _value_and_tolerance(loss, tolerance)
    fitting = [c for c in _all(logits, labels, value) if c.off <= tolerance]
    fitting.sort(key=lambda c: (SMOOTHINGS.index(c.reading.label_smoothing), c.off > tolerance / 4, -len(c.names)))
    return Candidates(tuple(fitting), value, tolerance, _deciding_rows(fitting, logits, labels, tolerance))


def _value_and_tolerance(loss, tolerance):
    text = str(loss)
    try:
        value = float(text)
    except ValueError as error:
        raise complain("loss", "one number", repr(loss), "Pass one logged loss.") from error
    if tolerance is None:
        digits = text.partition("e")[0].partition(".")[2] if isinstance(loss, str) else ""
        tolerance = 0.6 * 10.0 ** -len(digits) / max(abs(value), 1e-12) if digits else 2e-6
    return value, max(tolerance, 2e-7)


def _all(logits, labels, value):
    """A Candidate for every way to smooth, ignore and divide, equal ones once, with what it misses the value by."""
    named = _names()
    seen = {}
    for ignored in IGNORED:
        if ignored is not None and not (labels == ignored).any():
            continue
        counted = labels != ignored if ignored is not None else np.ones(labels.shape, bool)
        k = logits.shape[-1]
        if ((labels[counted] < 0) | (labels[counted] >= k)).any():
            continue
        sums = _sums(logits, labels, counted)
        for convention in named:
            for eps in SMOOTHINGS:
                for reading in _readings(convention, eps, ignored, labels.ndim > 1):
                    found = _loss(reading, sums, labels.shape, counted, k)
                    key = (round(found, 9), eps, reading.reduction, ignored)
                    off = abs(found - value) / max(abs(value), 1e-12)
                    if np.isfinite(off) and key not in seen:
                        seen[key] = Candidate(reading, (), found, off)
                    if key in seen and convention.name not in seen[key].names and np.isfinite(off):
                        names = (*seen[key].names, *named[convention])
                        seen[key] = replace(seen[key], names=tuple(dict.fromkeys(names)))
    return seen.values()


def _names():
    """{Convention: its names}, the registry without the conventions that differ by class weights alone."""
    found: dict = {}
    for name, convention in conventions.items():
        found.setdefault(convention, []).append(name)
    return found


def _readings(convention, eps, ignored, has_sentences):
    """The ways in which a convention may reduce."""
    yield Reading(convention, eps, "sum", ignored)
    if convention.denominator == "caller":
        if has_sentences:
            yield Reading(convention, eps, "mean", ignored, normalizer=SENTENCES)
            yield Reading(convention, eps, SENTENCE_MEANS, ignored)
            yield Reading(convention, eps, SENTENCE_MEANS, ignored, normalizer=COUNTING_SENTENCES)
        return
    yield Reading(convention, eps, "mean", ignored)


def _sums(logits, labels, counted):
    """(nll, smoothing term Σ_k −log p_k, each 0 where not counted, and log p): the loss is linear in the first two."""
    log_p = log_softmax(logits)
    safe = np.where(counted, labels, 0)
    nll = -np.take_along_axis(log_p, safe[..., None], -1)[..., 0]
    return nll, -log_p, safe


def _loss(reading, sums, shape, counted, k):
    """The loss of a reading; NaN where the convention does not say it."""
    convention = reading.convention
    nll, every, safe = sums
    allowed = np.isin(np.arange(k), convention.exclude, invert=True)
    if not allowed.any():
        return np.nan
    mass = convention.mass(reading.label_smoothing, int(allowed.sum()))
    smooth = every[..., allowed].mean(-1)
    own, spread = (1 - mass) * nll, mass * smooth
    if convention.objective == "kl":
        off = mass / allowed.sum()
        on = 1 - mass + off * allowed[safe]
        rest = allowed.sum() - allowed[safe]
        with np.errstate(all="ignore"):
            own = own + np.nan_to_num(on * np.log(on)) + rest * np.nan_to_num(off * np.log(off) if off else 0.0)
    weights = counted * 1.0
    kept = counted if convention.ignore_scope == "all" else np.ones(shape)
    if reading.reduction == SENTENCE_MEANS:
        lengths = counted.reshape(shape[0], -1).sum(1)
        weights = weights / np.maximum(lengths, 1).reshape(-1, *[1] * (len(shape) - 1))
        number = (lengths > 0).sum() if reading.normalizer == COUNTING_SENTENCES else shape[0]
        return float(convention.scale * (weights * (own + spread)).sum() / number)
    divide = [1.0, 1.0]
    if reading.reduction == "mean":
        count, size = counted.sum(), counted.size
        by = {"all": size, "classes": size * k, "caller": shape[0]}
        kinds = convention.denominator, convention.smooth_denominator or convention.denominator
        divide = [by.get(kind, count) + convention.denominator_add for kind in kinds]
    return float(convention.scale * ((weights * own).sum() / divide[0] + (kept * spread).sum() / divide[1]))


def _deciding_rows(fitting, logits, labels, tolerance):
    """Of how many first rows the loss tells the first candidate from all others; 0 for one, None where none does."""
    if len(fitting) < 2:
        return 0
    n = len(logits)
    for rows in dict.fromkeys([1, 2, 3, 5, *range(8, n, max(n // 16, 1))]):
        if rows >= n:
            break
        values = [_of_part(candidate.reading, logits[:rows], labels[:rows]) for candidate in fitting]
        first = values[0]
        if np.isfinite(first) and all(abs(v - first) > 4 * tolerance * abs(first) for v in values[1:]):
            return rows
    return None


def _of_part(reading, logits, labels):
    ignored = reading.ignore_index
    counted = labels != ignored if ignored is not None else np.ones(labels.shape, bool)
    with np.errstate(all="ignore"):
        return _loss(reading, _sums(logits, labels, counted), labels.shape, counted, logits.shape[-1])
