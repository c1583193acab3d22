"""How exact a loss is: whether two calls agree, and the precision in which it computes, whatever dtype it returns.

A loss that casts its logits gives, bit for bit, the answer of the logits that were rounded before. One that rounds
inside moves in steps where a smooth function moves in a line.
"""

from typing import NamedTuple

import numpy as np

from multismooth.parity.calling.answers import EPS
from multismooth.parity.calling.black_box import no_warnings
from multismooth.parity.calling.forms import default_length

BITS = {"bfloat16": 8, "float16": 11, "float32": 24}


class Observed(NamedTuple):
    """What was seen. precision: machine epsilon. noise: how far answers are off, relative to the largest."""

    random: bool
    precision: float
    noise: float
    text: str

    @property
    def name(self):
        """The precision as text."""
        return name_of(self.precision)

    @property
    def coarse(self):
        return self.precision > EPS["float32"] * 1.01


def of(box) -> Observed:
    """What two calls, logits rounded in advance, and a line of logits show of a loss."""
    with no_warnings():
        return _of(box)


def _of(box):
    labels, z = problem(box)
    try:
        first, second = box(z, labels), box(z, labels)
    except Exception:  # it takes some labels only: what it computes is found out by other means
        return Observed(False, 0.0, 0.0, "")
    difference = apart(first, second)
    if difference > 1e-9:
        text = f"two calls with the same arguments differ by {difference:.0e} of the largest: there is noise in it"
        return Observed(True, first.precision, difference, text + " (dropout, jitter), or it keeps something")
    precision = max(first.precision, _precision_of_casts(box, z, labels, first))
    if precision < 1e-12:
        precision = max(precision, _precision_of_steps(box, z, labels, first))
    noise = precision / 2
    text = f"computed in about {name_of(precision)}: differences of {100 * noise:.1g} % are its rounding"
    return Observed(False, precision, noise, text)


def problem(box):
    """(labels, logits) with every label, of logits that no short format holds."""
    k = box.num_classes
    n = default_length(k)
    return np.arange(n) % min(k, n), 1.5 * np.random.default_rng((5, k)).normal(size=(n, k))


def apart(a, b):
    """The largest difference of two answers, relative to the larger of loss and gradient."""
    found = []
    for x, y in ((a.loss, b.loss), (a.gradient, b.gradient)):
        if x is not None and x.shape == y.shape and not np.array_equal(x, y, equal_nan=True):
            found.append(np.abs(x - y).max() / max(np.abs(x).max(), 1e-300))
    return float(np.nan_to_num(max(found, default=0.0), nan=np.inf))


def rounded(z, name):
    """z rounded to as many bits as a format has."""
    mantissa, exponent = np.frexp(z)
    return np.ldexp(np.round(np.ldexp(mantissa, BITS[name])), exponent - BITS[name])


def _precision_of_casts(box, z, labels, answer):
    """Machine epsilon of the format to which fn casts its logits; 0 where it keeps them."""
    for name in BITS:
        if apart(box(rounded(z, name), labels), answer) == 0:
            return EPS[name]
    return 0.0


def _precision_of_steps(box, z, labels, answer):
    """Machine epsilon of a format in which fn rounds inside, seen in how its loss moves; 0 for a smooth one."""
    if answer.gradient is None:
        return 0.0
    scale, steps, off = max(np.abs(answer.loss).max(), 1e-3), (1.0, 1.7, 2.9, 4.3), []
    for step in steps:
        change = step * 1e-3 * z
        ahead, back = box(z + change, labels), box(z - change, labels)
        expected = (ahead.gradient + back.gradient + 4 * answer.gradient) / 3 * change  # Simpson's rule
        slope = expected.sum(-1) if answer.loss.ndim else expected.sum()
        off.append(np.abs(ahead.loss - back.loss - slope).max() / scale)
    # The gradient may belong to another function than the value. Then the difference grows with the step.
    grows = np.ptp(np.array(off) / steps) < 0.2 * max(np.array(off) / steps)
    rounds = not grows and 8 * min(off) > max(off) / 8
    return next((EPS[name] for name in ("bfloat16", "float16") if rounds and max(off) > EPS[name] / 32), 0.0)


def name_of(precision):
    """The format of a machine epsilon."""
    return next((name for name, eps in EPS.items() if precision >= eps * 0.99), "float64")
