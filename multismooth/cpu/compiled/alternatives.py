"""The losses beside smoothing in one compiled pass: rows of labels, as `by_rows` computes the loss.

A row is read into e = exp(z − m) while it is in cache, and e becomes the gradient. `multismooth.alternatives` has the
formulas, and computes the rows that a NaN or an infinity makes inexact.
"""

import math

import numpy as np

from multismooth.alternatives import Divergence, Focal, LabelFocal, Margin, Penalty
from multismooth.alternatives.focal import only_label
from multismooth.cpu.compiled import class_arguments, coefficients, unmarked
from multismooth.cpu.compiled import supports as computes_loss
from multismooth.cpu.compiled.added_rows import cooled, divergence, divergence_alone, margin, penalty, powers
from multismooth.cpu.compiled.arithmetic import compiled, entry, rounded
from multismooth.cpu.compiled.by_rows import BLOCK, EVEN, exponentials, highest
from multismooth.cpu.compiled.focal_rows import by_class, by_label, unsmoothed

PART = 2**20  # logits that a thread takes at a time
FOCAL, SMOOTH_FOCAL, LABEL_FOCAL, PENALTY, MARGIN, DIVERGENCE = range(6)  # FOCAL: of the label alone
POWERS = 1.0, 2.0, 3.0, 4.0  # temperatures T at which exp z is a product of exp(z/T) with itself
KINDS = {Focal: SMOOTH_FOCAL, LabelFocal: LABEL_FOCAL, Penalty: PENALTY, Margin: MARGIN, Divergence: DIVERGENCE}


@compiled(set())
def row(what, z, t, e, soft, q, with_gradient, label, a, b, z_loss, strength, number, v, v_sum, kind, share, absent):
    """(loss of a row, whether it is exact); then e is its gradient. `number`: γ, the margin or the temperature."""
    m = highest(z, kind, absent, rounded(e, -np.inf))
    if what == DIVERGENCE and a == 0 and b == 0 and z_loss == 0:
        return divergence_alone(z, t, e, q, with_gradient, m, strength, number, absent)
    soft_total = rounded(e, 0.0)
    if what == DIVERGENCE and number in POWERS:
        soft_total, total, smooth_sum = powers(z, m, number, kind, v, soft, e)
    else:
        total, smooth_sum = exponentials(z, m, kind, v, absent, e)
        if what == DIVERGENCE:
            soft_total = cooled(z, soft, m, rounded(e, 1 / number))
    if not 0 < total < np.inf:
        return 0.0, False
    log_total = math.log(total)
    smooth = v_sum * log_total - (share * smooth_sum if kind == EVEN else smooth_sum)
    own = label, a, b, z_loss, v, v_sum, kind, share
    found = m, float(total), log_total, log_total + (float(m) - z[label]), smooth
    if what == FOCAL:
        return unsmoothed(z, e, with_gradient, number, own, found)
    if what == SMOOTH_FOCAL:
        return by_class(z, e, with_gradient, number, own, found)
    if what == LABEL_FOCAL:
        return by_label(z, e, with_gradient, number, own, found)
    if what == PENALTY:
        return penalty(z, e, with_gradient, strength, own, found)
    if what == MARGIN:
        return margin(z, e, with_gradient, strength, number, own, found)
    return divergence(z, t, e, soft, q, with_gradient, strength, number, absent, soft_total, own, found)


@compiled(set(), from_python=True)
def rows(
    what, z, teacher, labels, a, b, z_loss, active, strength, number, v, v_sum, kinds, even_shares, absent, out,
    with_gradient, scratch, losses,
):  # fmt: skip
    """The losses of (n, K) logits and, `with_gradient`, their gradient to out. Returns whether all rows are exact."""
    for i in range(z.shape[0]):
        g = out[i if with_gradient else 0]
        if not entry(active, i):
            losses[i] = 0
            if with_gradient:
                g[:] = 0
            continue
        own = labels[i], entry(a, i), entry(b, i), entry(z_loss, i), entry(strength, i), number
        losses[i], exact = row(
            what, z[i], teacher[i if what == DIVERGENCE else 0], g, scratch[0], scratch[1], with_gradient, *own,
            v, v_sum, kinds[0], even_shares[0], absent,
        )  # fmt: skip
        if not exact:
            return False
    return True


def supports(z, plan, alternative):
    """Whether `compute_part` computes laid out logits: rows of one block, labels, no mask, the same shares for all."""
    rows_fit = z.ndim == 2 and z.shape[1] <= BLOCK and z.dtype in (np.float32, np.float64)
    if not rows_fit or plan.mask is not None or not computes_loss(plan, z.shape[1]):
        return False
    if isinstance(alternative, Focal):
        return only_label(plan) or float(alternative.gamma) in (1.0, 2.0, 3.0)
    return not isinstance(alternative, LabelFocal) or plan.const is None


def common_arguments(z, plan):
    """The arguments that are the same for all elements, from v on."""
    return class_arguments(plan, z.shape[1], z.dtype, False)


def compute_part(z, plan, alternative, common, out, losses):
    """The losses, and the gradient to `out` if it is an array. Returns whether all are exact."""
    what, (strength, teacher) = KINDS[type(alternative)], alternative.arrays()
    what = FOCAL if what == SMOOTH_FOCAL and only_label(plan) else what
    scratch = np.empty((3 if out is None else 2, z.shape[1]), z.dtype)
    a, b, z_loss, active = coefficients(plan)
    strength = 0.0 if strength is None else float(strength) if np.ndim(strength) == 0 else strength
    if isinstance(a, np.ndarray):
        strength = unmarked(np.ascontiguousarray(np.broadcast_to(strength, a.shape), float))
    elif isinstance(strength, np.ndarray):
        a, b, z_loss = (np.full(strength.shape, x) for x in (a, b, z_loss))
        active = np.ones(strength.shape, bool)
    z, teacher = (np.ascontiguousarray(x, z.dtype) for x in (z, z if teacher is None else teacher))
    return rows(
        what, unmarked(z), unmarked(teacher), unmarked(np.ascontiguousarray(plan.labels, np.int64)),
        a, b, z_loss, active, strength, float(alternative.number), *common,
        scratch[2:] if out is None else out, out is not None, scratch, losses,
    )  # fmt: skip
