"""`identify`: what a loss computes, asked in every layout and form that it takes."""

from dataclasses import replace

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.connecting import connect, is_linear
from multismooth.parity.calling.forms import SCORES
from multismooth.parity.identification import Identification
from multismooth.parity.identifying import families, noise, second_value
from multismooth.parity.identifying.layouts import consistent


def identify(fn, framework=None, *, num_classes=None, weight=None, layouts=None) -> Identification:
    """What fn(logits, targets) computes: convention, ε, reduction, ignored label, and its names in the registry.

    Args:
        fn: takes floating logits and integer labels, or rows of probabilities, in any of the `layouts` and either
            order; returns a scalar or one loss per element, or (loss, gradient with respect to the logits).
        framework: "torch", "jax", "tensorflow", "mlx", "tinygrad", "paddle" or "numpy"; None takes the first that
            works. Each differentiates its own losses. Of NumPy functions, enough loss values are computed.
        num_classes: K, for a fn that takes one K only; None tries several, and separates what one K cannot.
        weight: (K,) class weights that fn closes over, if they are known. Unknown ones are found as far as they show:
            up to a factor under a mean that divides by them.
        layouts: names of the layouts to try: "rows" (N, K), "sentences" (B, T, K), "channels" (B, K, T), "images"
            (N, K, H, W). None tries them all, and the answer is one that holds in each that fn takes.

    Returns:
        Identification. Its `convention` is None, and its text says why, when fn is no softmax cross-entropy.

    Raises:
        ValueError: fn cannot be called, with all that was tried.

    Some things are the same on every problem and so cannot be told apart. smoothing_map "classy" is "identity" with
    another ε. At one K alone, spread "others" is "all" with another ε. A denominator shows only as far as ignored
    labels and weights change it. A floor larger than 30 elements looks like a sum. Batches without a counted element
    are not tried.

    >>> import numpy as np
    >>> from multismooth import parity
    >>> def criterion(z, y):
    ...     log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    ...     off = 0.1 / (z.shape[1] - 1)
    ...     return -((0.9 - off) * log_p[np.arange(len(y)), y] + off * log_p.sum(1)).sum()
    >>> found = parity.identify(criterion)
    >>> found.convention.spread, found.label_smoothing, found.reduction, "fairseq" in found.names
    ('others', 0.1, 'sum', True)
    """
    if weight is not None:
        weight = np.asarray(weight, dtype=np.float64)
        if weight.ndim != 1 or num_classes not in (None, len(weight)):
            raise complain("weight", "shape (K,), one entry per class", f"{weight.shape}", "num_classes= is K too.")
        num_classes = len(weight)
    return identify_box(connect(fn, framework, num_classes, layouts=layouts), weight)


def identify_box(box, weight=None) -> Identification:
    """What a connected BlackBox computes."""
    observed = noise.of(box)
    if observed.random:
        return _as_called(Identification(why=observed.text), box, observed)
    found = consistent(box, weight, observed.precision)
    if observed.precision < 1e-12 and (found.fixed_mass or _is_almost_plain(found)):
        single = consistent(box, weight, noise.EPS["float32"])
        if single.names:
            note = "it holds float32 numbers (a constant, or a cast): it agrees to 1e-7 and not further"
            found = replace(single, notes=(*single.notes, note))
    if not found and box.form.scores == "logits":
        found = _of_other_scores(box, weight, observed.precision) or found
    if not found:
        found = families.named(box, found, observed.precision)
    notes = (*found.notes, *second_value.notes(box, found.ignore_index))
    return _as_called(replace(found, notes=notes), box, observed)


def _is_almost_plain(found):
    """Whether the reading has a factor that is 1 but for float32's rounding."""
    return bool(found) and not found.names and 0 < abs(found.readings[0].convention.scale - 1) < 1e-5


def _of_other_scores(box, weight, precision):
    """The Identification of a loss that takes log-probabilities or probabilities; None where it takes neither."""
    for scores in SCORES[1:]:
        if scores == "log-probabilities" and not is_linear(box, box.num_classes):
            continue  # a softmax of log-probabilities is the same once more: that one fits says nothing
        other = box.with_form(scores=scores)
        other.layouts = box.layouts
        try:
            found = consistent(other, weight, precision)
        except ValueError:
            continue
        if found:
            return replace(found, form=other.form)
    return None


def _as_called(found, box, observed):
    """The Identification with how fn was called, and with what a caller must know."""
    form = found.form or box.form
    shapes = " and ".join(form._replace(layout=layout).shapes for layout in box.layouts)
    asked = {"framework": box.mode, **(found.asked or {"for": "answers"}), "shapes": shapes}
    asked |= {"in": observed.name, "calls": box.calls}
    notes = [form.difference] if form.difference else []
    if observed.coarse:
        notes.append(observed.text)
    return replace(found, notes=(*notes, *found.notes), asked=asked, form=form)
