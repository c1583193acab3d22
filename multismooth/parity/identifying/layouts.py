"""Readings that explain a loss in every layout that it takes: what holds in (N, K) alone is no answer."""

from dataclasses import replace

import numpy as np

from multismooth.parity.calling.forms import LAYOUTS
from multismooth.parity.identification import Identification
from multismooth.parity.identifying import probes, target_mass
from multismooth.parity.identifying.search import Search
from multismooth.parity.identifying.target_mass import NoConvention
from multismooth.parity.reading import denominator_text, settings_text


def consistent(box, weight=None, precision=0.0) -> Identification:
    """The Identification that fits in all layouts of the box. Where none does, its text says what each layout has."""
    first = Search(box, weight, precision)
    found, others = first.run(), _other_boxes(box)
    if not others:
        return found
    if kept := _kept(found, first, others):
        return kept
    unlike = [other for other in others if found and not _kept(found, first, [other])]
    strange = [other for other in unlike if not written_for(box, other, precision)]
    if strange:
        others = [other for other in others if other not in strange]
        where = " and ".join(LAYOUTS[other.form.layout].of_logits for other in strange)
        note = f"in {where} it computes something else, of no known kind: it seems to be written for other shapes"
        found = replace(found, notes=(*found.notes, note))
        if kept := _kept(found, first, others):
            return kept
    searches = {other.form.layout: Search(other, weight, precision) for other in others}
    by_layout = {box.form.layout: found}
    for layout, search in searches.items():
        by_layout[layout] = search.run()
        rest = [each for each in (box, *others) if each is not search.box]
        if kept := _kept(by_layout[layout], search, rest):
            return kept
    return _disagreement(by_layout)


def written_for(box, other, precision=0.0):
    """Whether a loss means anything in another layout than that of the box, right or wrong.

    A loss whose axes are written for (N, K) often accepts (B, T, K). It then mixes elements, changes ε, or divides by
    B·K. A loss that is written for both has the same target rows in both. What it divides by may differ, and is then
    a mistake of the loss, or its purpose.
    """
    tolerance = max(1e-6, 8 * precision)
    try:
        masses, fits = zip(*(_mass(each) for each in (box, other)), strict=True)
    except (ValueError, NoConvention, np.linalg.LinAlgError):
        return False
    if fits[0] > tolerance:
        return True  # of no fixed target row in the box's own layout: nothing to hold the other one against
    if fits[1] > tolerance:
        return False
    sizes = [mass.sum(1) for mass in masses]
    counted = [np.abs(size) > 1e-9 * np.abs(size).max() for size in sizes]
    if not np.array_equal(*counted):
        return bool(Search(other, None, precision).run())
    rows = [mass[counted[0]] / size[counted[0], None] for mass, size in zip(masses, sizes, strict=True)]
    if np.abs(rows[0] - rows[1]).max() > 100 * tolerance:
        return bool(Search(other, None, precision).run())
    ratio = sizes[1][counted[0]] / sizes[0][counted[0]]
    shape, k = other.shape(*masses[0].shape), masses[0].shape[1]
    by_classes = len(masses[0]) / (shape[0] * k)
    return bool(np.ptp(ratio) > tolerance * ratio.max() or abs(ratio.mean() / by_classes - 1) > 100 * tolerance)


def _mass(box):
    """(A, its misfit) of a problem."""
    k = box.num_classes
    labels = probes.uneven_labels(probes.accepted_labels(box, k), k)
    observation = probes.observe(box, labels, k, times=probes.calls_needed(box, k, labels))
    fitted = target_mass.fit(observation)
    return fitted.mass, float(np.nan_to_num(fitted.misfit, nan=np.inf).max())


def _other_boxes(box):
    """The boxes of the other layouts, in the same form as this one."""
    own = box.form._asdict()
    return [box.with_form(**{**own, "layout": layout}) for layout in box.layouts if layout != box.form.layout]


def _kept(found, search, others):
    """The Identification with the readings that fit in the other layouts too; None where there is none."""
    if not found:
        return None
    readings = list(found.readings)
    for other in others:
        for observation in _observed(other, readings[0].ignore_index, search):
            readings = [reading for reading in readings if reading.residual(observation) <= search.rtol]
            if not readings:
                return None
    return found if len(readings) == len(found.readings) else replace(found, readings=tuple(readings))


def _observed(box, ignore_index, search):
    """Observations in a layout, without ignored labels, and with some if a label is ignored."""
    labels = probes.uneven_labels(search.labels[search.labels != ignore_index], box.num_classes)
    found = [_observe(box, labels, search)]
    if ignore_index is not None:
        ignoring = labels.copy()
        ignoring[: len(labels) // 3 + 1] = ignore_index  # one sentence, and a part of another one
        found.append(_observe(box, ignoring, search))
    return [observation for observation in found if observation is not None]


def _observe(box, labels, search):
    observation = probes.observe_or_none(box, labels, box.num_classes, like=search.first, least=2)
    return observation if observation is not None and observation.finite else None


def _disagreement(by_layout):
    """No reading: what each layout has, or the reason that all of them share."""
    first = next(iter(by_layout.values()))
    if not any(by_layout.values()):
        return first
    texts = []
    for layout, found in by_layout.items():
        said = found.why if not found else settings_text(found.readings[0])
        if found:
            said += f" (divides by {denominator_text(found.readings[0])})"
        texts.append(f"in {LAYOUTS[layout].of_logits} it is {said}")
    why = "; ".join(texts)
    return replace(first, readings=(), names=(), smoothing=None, residual=np.inf, why=why, by_layout=by_layout)
