"""Shrinks a failing case: drops elements and classes and rounds logits while the same trial still fails."""

from dataclasses import replace
from itertools import combinations

import numpy as np

from multismooth.parity.checking.cases import PER_ELEMENT

FEW = 12  # of so many elements each is tried alone, and each with each other one


def shrink(fails, case, domain):
    """A smaller case for which fails(case) is true. Classes are dropped too, where the loss takes any K."""
    case = _with_fewer_elements(fails, case)
    if case.labels.ndim == 2:
        return _with_short_logits(fails, case)
    case = _with_plain_labels(fails, case, domain)
    if domain.any_num_classes:
        case = _with_fewer_classes(fails, case)
    return _with_short_logits(fails, case)


def _with_fewer_elements(fails, case):
    """One element that fails alone, or two that do; else the case without blocks that are not needed, halves first.

    One element is one shape, and compiled already; two are another one. Every number in between is compiled anew.
    """
    n = len(case.labels)
    constants = PER_ELEMENT & case.keywords.keys()  # of a program: each two would be compiled anew
    for size in range(1, 2 if constants else 3) if n <= FEW else ():
        parts = (case.rows(list(places)) for places in combinations(range(n), size))
        if n > size and (part := next(filter(fails, parts), None)):
            return part
    step = len(case.labels) // 2
    while step:
        for start in range(len(case.labels) - step, -1, -step):
            keep = np.ones(len(case.labels), bool)
            keep[start : start + step] = False
            if keep.any() and fails(fewer := case.rows(keep)):
                case = fewer
        step //= 2
    return case


def _with_plain_labels(fails, case, domain):
    """The case with the lowest class as every label, if it fails with them too and has no ignored label."""
    excluded = domain.forbidden_labels | {domain.ignore_index}
    lowest = next(k for k in range(domain.num_classes) if k not in excluded)
    relabelled = np.where(np.isin(case.labels, range(case.logits.shape[1])), lowest, case.labels)
    if not np.isin(domain.ignore_index, case.labels) and fails(plain := replace(case, labels=relabelled)):
        return plain
    return case


def _with_fewer_classes(fails, case):
    """The case with as few of its first classes as still fail."""
    highest = case.labels.max(initial=0)
    while (k := case.logits.shape[1]) > 2 and highest < k - 1:
        # Dropping classes one by one takes minutes, because every K is compiled anew
        sizes = dict.fromkeys((2, 3, k // 2, 3 * k // 4, k - 1 if k <= 12 else k))
        smaller = (case.classes(size) for size in sizes if highest < size < k)
        fewer = next((candidate for candidate in smaller if fails(candidate)), None)
        if fewer is None:
            return case
        case = fewer
    return case


def _with_short_logits(fails, case):
    """The case with zeros, a short pattern or whole numbers as its finite logits, the first of these that fails."""
    shape = case.logits.shape
    for rounded in (np.zeros(shape), repeated_integers(shape), np.round(case.logits)):
        plain = replace(case, logits=np.where(np.isfinite(case.logits), rounded, case.logits))
        if fails(plain):
            return plain
    return case


def repeated_integers(shape):
    """−3…3 repeated: logits that are short to write in code, however many there are."""
    return np.resize(np.arange(7.0) - 3, shape)
