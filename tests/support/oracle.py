"""What every function of the contract must return, from the definitions, in mpmath at 40 digits.

Nothing here shares a formula with the package: every probability, target row and weight is built one number at a time.
Letters: K classes, t the target row, r where the smoothed mass goes, q = (1 − ε′)·t + ε′·r, p = softmax of the logits.
Logits may be NumPy arrays of float64 (exact), or object arrays of mpf (a linear head's).
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from mpmath import mp, mpf, workdps

DIGITS = 40
TORCH = SimpleNamespace(
    spread="all",
    exclude=(),
    objective="cross_entropy",
    class_weights="per_term",
    denominator="target_weight",
    smoothing_map="identity",
    ignore_scope="all",
    smooth_denominator=None,
    z_loss_denominator=None,
    denominator_add=0.0,
    denominator_floor=None,
    scale=1.0,
)
NAMED = {"torch": TORCH, "others": SimpleNamespace(**{**vars(TORCH), "spread": "others"})}


@dataclass
class Answer:
    """Results as arrays of mpf; `floats` rounds one of them to float64.

    loss: a scalar, or one per element for reduction "none". gradient, target_gradient: of the loss (of its sum for
    "none"), laid out as the logits. q, p, weighted: target rows, probabilities, w∘q. element, nll, share, lse,
    predicted: per element, 0 (predicted: −1) where it counts for nothing.
    """

    loss: object
    gradient: np.ndarray
    q: np.ndarray
    p: np.ndarray
    weighted: np.ndarray
    element: np.ndarray
    nll: np.ndarray
    share: np.ndarray
    lse: np.ndarray
    predicted: np.ndarray


def floats(values):
    """float64 of an mpf or of an array of them."""
    return np.array([float(v) for v in np.ravel(values)], dtype=np.float64).reshape(np.shape(values))


def number(value):
    """A NumPy or Python number, or an mpf, as an exact mpf."""
    return value if isinstance(value, mpf) else mpf(float(value))


def evaluate(logits, targets, *, digits=DIGITS, **settings):
    """The Answer for a call `loss(logits, targets, **settings)`."""
    with workdps(digits):
        return _Problem(logits, targets, **settings).answer()


def total(logits, targets, *, digits=DIGITS, **settings):
    """The loss alone, summed over the elements for reduction "none"."""
    with workdps(digits):
        return _Problem(logits, targets, **settings).total()


def derivative(function, values, index, digits=60):
    """∂function/∂values[index] by a central difference; good to about 35 digits."""
    exact = np.array([number(v) for v in np.ravel(values)], dtype=object).reshape(np.shape(values))
    step = mpf(10) ** -18
    with workdps(digits):
        results = []
        for moved in (exact[index] + step, exact[index] - step):
            changed = exact.copy()
            changed[index] = moved
            results.append(function(changed))
        return (results[0] - results[1]) / (2 * step)


def target_gradient(logits, targets, **settings):
    """∂loss/∂targets of soft targets, by differences of the definition."""
    gradient = np.empty(np.shape(targets), dtype=object)
    for index in np.ndindex(gradient.shape):
        gradient[index] = derivative(lambda t: total(logits, t, digits=60, **settings), targets, index)
    return gradient


class _Problem:
    def __init__(
        self,
        logits,
        targets,
        *,
        label_smoothing=0.1,
        convention="torch",
        weight=None,
        prior=None,
        class_mask=None,
        sample_weight=None,
        ignore_index=-100,
        z_loss=0.0,
        logit_softcap=None,
        reduction="mean",
        normalizer=None,
        axis=None,
        validate=None,
    ):
        del validate
        self.rules = NAMED[convention] if isinstance(convention, str) else convention
        logits, targets = np.asarray(logits), np.asarray(targets)
        self.axis = -1 if axis is None else axis
        self.soft = targets.dtype.kind in "fbO"
        mask = np.ones(logits.shape, bool) if class_mask is None else np.asarray(class_mask)
        if mask.ndim == 1:
            mask = np.moveaxis(np.broadcast_to(mask, np.moveaxis(logits, self.axis, -1).shape), -1, self.axis)
        self.mask = np.moveaxis(np.broadcast_to(mask, logits.shape), self.axis, -1)
        self.logits = np.moveaxis(logits, self.axis, -1)
        self.targets = np.moveaxis(targets, self.axis, -1) if self.soft else targets
        self.shape, self.classes = self.logits.shape[:-1], self.logits.shape[-1]
        self.smoothing = np.broadcast_to(np.asarray(label_smoothing), self.shape)
        self.sample_weight = np.broadcast_to(np.asarray(1.0 if sample_weight is None else sample_weight), self.shape)
        self.class_weight = None if weight is None else [number(w) for w in np.asarray(weight)]
        self.prior = None if prior is None else np.asarray(prior)
        self.ignore_index, self.z_loss = ignore_index, number(z_loss)
        self.cap = None if logit_softcap is None else number(logit_softcap)
        self.reduction, self.normalizer = reduction, normalizer

    def logit(self, n, k):
        """z, capped."""
        z = number(self.logits[n][k])
        return z if self.cap is None else self.cap * mp.tanh(z / self.cap)

    def slope(self, n, k):
        """∂logit/∂(the given logit)."""
        if self.cap is None or not self.mask[n][k]:
            return mpf(1)
        return 1 / mp.cosh(number(self.logits[n][k]) / self.cap) ** 2

    def ignored(self, n):
        return not self.soft and self.ignore_index is not None and int(self.targets[n]) == self.ignore_index

    def target(self, n):
        """t: the one-hot row of the label, or the soft row; all zero for an ignored label."""
        if self.soft:
            return [number(t) for t in self.targets[n]]
        label = None if self.ignored(n) else int(self.targets[n])
        return [mpf(k == label) for k in range(self.classes)]

    def reference(self, n, t):
        """r: uniform, or the prior (of the true class), over the classes that exist and may receive mass."""
        allowed = [bool(self.mask[n][k]) and k not in self.rules.exclude for k in range(self.classes)]
        if self.prior is None:
            mass = [mpf(1)] * self.classes
        elif self.prior.ndim == 1:
            mass = [number(r) for r in self.prior]
        else:
            mass = [
                sum((t[j] * number(self.prior[j, k]) for j in range(self.classes)), mpf(0)) for k in range(self.classes)
            ]
        if not all(allowed):
            mass = [m if ok else mpf(0) for m, ok in zip(mass, allowed, strict=True)]
        if self.prior is None or not all(allowed):
            total = sum(mass, mpf(0))
            mass = [m / total if total else mpf(0) for m in mass]
        return mass, sum(allowed)

    def mass(self, n, allowed):
        """ε′."""
        smoothing = number(self.smoothing[n])
        if self.rules.smoothing_map == "classy":
            smoothing = smoothing / (1 + smoothing)
        if self.rules.spread == "others":
            smoothing = smoothing * allowed / (allowed - 1)
        return smoothing

    def row(self, n):
        """(target part, smoothing part) of q, each a list over the classes."""
        t = self.target(n)
        r, allowed = self.reference(n, t)
        mass = self.mass(n, allowed)
        return t, [(1 - mass) * x for x in t], [mass * x for x in r]

    def weigh(self, t, label_part, smooth_part):
        """The same two parts with the class weights on them: their sum is w∘q."""
        w = self.class_weight
        if w is None:
            return label_part, smooth_part
        mode = self.rules.class_weights
        if mode == "per_term":
            factors = w, w
        elif mode == "target":
            factors = [w[t.index(max(t))]] * self.classes, [w[t.index(max(t))]] * self.classes
        elif mode == "nll_only":
            factors = w, [mpf(1)] * self.classes
        else:
            mixture = sum(
                (q * x for q, x in zip(map(sum, zip(label_part, smooth_part, strict=True)), w, strict=True)),
                mpf(0),
            )
            factors = [mixture] * self.classes, [mixture] * self.classes
        return tuple(
            [x * f for x, f in zip(part, factor, strict=True)]
            for part, factor in zip((label_part, smooth_part), factors, strict=True)
        )

    def element(self, n):
        """Everything about one element; None where it counts for nothing."""
        s = number(self.sample_weight[n])
        ignored = self.ignored(n)
        if s == 0 or (ignored and self.rules.ignore_scope == "all"):
            return None
        t, label_part, smooth_part = self.row(n)
        q = [a + b for a, b in zip(label_part, smooth_part, strict=True)]
        a, b = self.weigh(t, label_part, smooth_part)
        there = [k for k in range(self.classes) if self.mask[n][k]]
        z = {k: self.logit(n, k) for k in there}
        powers = {k: mp.exp(z[k]) for k in there}
        total = sum(powers.values(), mpf(0))
        lse = mp.log(total)
        p = [powers[k] / total if k in z else mpf(0) for k in range(self.classes)]
        surprise = [lse - z[k] if k in z else mpf(0) for k in range(self.classes)]
        plain, _ = self.weigh(t, t, [mpf(0)] * self.classes)
        label_loss, smooth_loss, nll = (_dot(part, surprise) for part in (a, b, plain))
        if self.rules.objective == "kl":
            both = [x + y for x, y in zip(a, b, strict=True)]
            label_loss += _dot(both, [mp.log(x) if x else mpf(0) for x in q])
        z_loss = mpf(0) if ignored else self.z_loss
        scale = s * number(self.rules.scale)
        return SimpleNamespace(
            s=s, t=t, q=q, p=p, a=a, b=b, lse=lse, nll=scale * nll, scale=scale, z_loss=z_loss, ignored=ignored,
            label=scale * label_loss, smooth=scale * smooth_loss, square=scale * z_loss * lse**2,
        )  # fmt: skip

    def share(self, element, rule):
        """What one counted element adds to the denominator, for the rules that count elements."""
        if rule not in ("counted", "target_weight", "mixture_weight"):
            return mpf(1)
        if rule == "counted" or self.class_weight is None or (rule == "target_weight" and self.soft):
            return element.s
        if rule == "target_weight":
            return element.s * self.class_weight[element.t.index(max(element.t))]
        return element.s * _dot(element.q, self.class_weight)

    def denominator(self, elements, rule):
        """What "mean" divides by; None stands for no division (sum, none) and 0 for the mean over nothing."""
        if self.reduction != "mean":
            return mpf(1)
        if self.normalizer is not None:
            return number(self.normalizer)
        if rule == "all":
            total = mpf(len(elements))
        elif rule == "classes":
            total = mpf(len(elements) * self.classes)
        else:
            total = sum((self.share(e, rule) for e in elements.values() if e is not None and not e.ignored), mpf(0))
        total += number(self.rules.denominator_add)
        return total if self.rules.denominator_floor is None else max(total, number(self.rules.denominator_floor))

    def denominators(self, elements):
        """What the label's term, the smoothing term and the z-loss are divided by."""
        rules = self.rules
        each = rules.denominator, rules.smooth_denominator, rules.z_loss_denominator
        found = [self.denominator(elements, rules.denominator if own is None else own) for own in each]
        anything = any(e is not None and not e.ignored for e in elements.values())
        return found if anything else [total or mpf("inf") for total in found]  # the mean over nothing is 0

    def elements(self):
        return {n: self.element(n) for n in np.ndindex(self.shape)}

    def total(self, elements=None):
        """The loss, summed where the reduction is "none". `elements`: if they are known."""
        elements = self.elements() if elements is None else elements
        counted = [e for e in elements.values() if e is not None]
        sums = [sum((getattr(e, term) for e in counted), mpf(0)) for term in ("label", "smooth", "square")]
        return sum(map(_over, sums, self.denominators(elements)), mpf(0))

    def answer(self):
        elements = self.elements()
        label, smooth, square = self.denominators(elements)
        rows = {
            name: np.full((*self.shape, self.classes), mpf(0), dtype=object) for name in ("gradient", "q", "p", "c")
        }
        single = {name: np.full(self.shape, mpf(0), dtype=object) for name in ("element", "nll", "share", "lse")}
        predicted = np.full(self.shape, -1)
        for n, e in elements.items():
            if not self.ignored(n):
                _, label_part, smooth_part = self.row(n)
                rows["q"][n] = [a + b for a, b in zip(label_part, smooth_part, strict=True)]
            if e is None:
                continue
            c = [_over(x, label) + _over(y, smooth) for x, y in zip(e.a, e.b, strict=True)]
            slope = sum(c, mpf(0)) + _over(2 * e.z_loss * e.lse, square)
            by_capped = [e.scale * (slope * p - x) for p, x in zip(e.p, c, strict=True)]
            rows["gradient"][n] = [self.slope(n, k) * g for k, g in enumerate(by_capped)]
            rows["p"][n], rows["c"][n] = e.p, [x + y for x, y in zip(e.a, e.b, strict=True)]
            single["element"][n], single["nll"][n] = e.label + e.smooth + e.square, e.nll
            single["lse"][n], predicted[n] = e.lse, e.p.index(max(e.p))
            single["share"][n] = mpf(0) if e.ignored else self.share(e, self.rules.denominator)
        laid = {name: np.moveaxis(values, -1, self.axis) for name, values in rows.items()}
        loss = single["element"] if self.reduction == "none" else self.total(elements)
        return Answer(
            loss,
            laid["gradient"],
            laid["q"],
            laid["p"],
            laid["c"],
            single["element"],
            single["nll"],
            single["share"],
            single["lse"],
            predicted,
        )


def _dot(weights, values):
    """Σ weights·values, where a weight of 0 silences an infinite value."""
    return sum((w * v for w, v in zip(weights, values, strict=True) if w), mpf(0))


def _over(numerator, denominator):
    """The mean over nothing is 0; something divided by 0 is nothing that a loss may say."""
    return numerator / denominator if denominator else mpf(0) if numerator == 0 else mpf("nan")


def evaluate_linear(hidden, classifier, targets, *, bias=None, digits=DIGITS, **settings):
    """(Answer, d_hidden, d_classifier, d_bias) of the head logits = hidden·classifierᵀ + bias; features on `axis`."""
    axis = -1 if settings.get("axis") is None else settings["axis"]
    hidden, classifier = np.moveaxis(np.asarray(hidden), axis, -1), np.asarray(classifier)
    shape, (classes, width) = hidden.shape[:-1], classifier.shape
    offset = [mpf(0)] * classes if bias is None else [number(b) for b in bias]
    with workdps(digits):
        logits = np.empty((*shape, classes), dtype=object)
        for n in np.ndindex(shape):
            x = [number(v) for v in hidden[n]]
            for k in range(classes):
                logits[n][k] = offset[k] + sum((x[d] * number(classifier[k, d]) for d in range(width)), mpf(0))
        answer = _Problem(np.moveaxis(logits, -1, axis), targets, **settings).answer()
        gradient = np.moveaxis(answer.gradient, axis, -1)
        d_hidden = np.full((*shape, width), mpf(0), dtype=object)
        d_classifier = np.full((classes, width), mpf(0), dtype=object)
        d_bias = np.full((classes,), mpf(0), dtype=object)
        for n in np.ndindex(shape):
            for k in range(classes):
                g = gradient[n][k]
                if g == 0:
                    continue
                d_bias[k] += g
                for d in range(width):
                    d_hidden[n][d] += g * number(classifier[k, d])
                    d_classifier[k, d] += g * number(hidden[n][d])
    return answer, np.moveaxis(d_hidden, -1, axis), d_classifier, None if bias is None else d_bias


def evaluate_binary(
    logits,
    targets,
    *,
    label_smoothing=0.1,
    spread="half",
    weight=None,
    pos_weight=None,
    sample_weight=None,
    ignore_index=None,
    reduction="mean",
    label_mean=False,
    normalizer=None,
    axis=None,
    digits=DIGITS,
):
    """(loss, ∂loss/∂logits, ∂loss/∂targets) of −[w·t′·log σ(z) + (1 − t′)·log(1 − σ(z))] with t′ = t(1 − ε) + ε/2.

    `spread` "all": t′ = t(1 − ε) + ε/K. `label_mean`: the mean over the counted labels of an element is its loss.
    """
    logits = np.asarray(logits)
    axis = (-1 if axis is None else axis) % max(logits.ndim, 1)
    if ignore_index is not None:
        ignored = np.asarray(targets) == ignore_index
        sample_weight = np.where(ignored, 0.0, 1.0 if sample_weight is None else sample_weight)
    receivers = 2 if spread == "half" else logits.shape[axis]
    values = (
        np.asarray(targets),
        np.asarray(label_smoothing),
        np.asarray(1.0 if pos_weight is None else pos_weight),
        np.asarray(1.0 if sample_weight is None else sample_weight),
    )
    targets, smoothing, positive, samples = (np.broadcast_to(v, logits.shape) for v in values)
    loss, gradient, slope = (np.full(logits.shape, mpf(0), dtype=object) for _ in range(3))
    with workdps(digits):
        for n in np.ndindex(logits.shape):
            eps, w, s = number(smoothing[n]), number(positive[n]), number(samples[n])
            if s == 0:
                continue
            t = number(targets[n]) * (1 - eps) + eps / receivers
            z = number(logits[n])
            on, off = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
            loss[n] = -s * (w * t * mp.log(on) + (1 - t) * mp.log(off))
            gradient[n] = -s * (w * t * off - (1 - t) * on)
            slope[n] = -s * (1 - eps) * (w * mp.log(on) - mp.log(off))
            if weight is not None:
                by_class = number(weight[n[axis]])
                loss[n], gradient[n], slope[n] = loss[n] * by_class, gradient[n] * by_class, slope[n] * by_class
        shares = np.vectorize(number, otypes=[object])(samples) if samples.size else samples
        if label_mean:
            labels = np.broadcast_to((samples != 0).sum(axis, keepdims=True), logits.shape)
            loss, gradient, slope, shares = (
                np.array(
                    [_over(x, mpf(int(k))) for x, k in zip(a.ravel(), labels.ravel(), strict=True)], dtype=object
                ).reshape(logits.shape)
                for a in (loss, gradient, slope, shares)
            )
            loss = loss.sum(axis)
        denominator = mpf(1)
        if reduction == "mean":
            denominator = number(normalizer) if normalizer is not None else sum(np.ravel(shares).tolist(), mpf(0))
        gradient, slope = (
            np.array([_over(g, denominator) for g in a.ravel()], dtype=object).reshape(a.shape)
            for a in (gradient, slope)
        )
        if reduction != "none":
            loss = _over(sum(loss.ravel().tolist(), mpf(0)), denominator)
    return loss, gradient, slope


def exact_loss_large(logits, labels, label_smoothing=0.1, spread="all"):
    """(loss, gradient) of each row (N, K) for uniform smoothing and large K: extended precision, sums exactly rounded.

    The logits may be of any floating dtype; what counts is the numbers that they hold.
    """
    losses, gradients = [], []
    for z, label in zip(np.asarray(logits).astype(np.longdouble), labels, strict=True):
        classes = z.size
        mass = np.longdouble(label_smoothing) * (np.longdouble(classes) / (classes - 1) if spread == "others" else 1)
        shifted = z - z.max()
        powers = np.exp(shifted)
        total = np.longdouble(math.fsum(powers.astype(np.float64))) + np.longdouble(
            math.fsum((powers - powers.astype(np.float64)).astype(np.float64))
        )
        lse = np.log(total)
        mean = np.longdouble(math.fsum(shifted.astype(np.float64))) / classes
        losses.append(float((1 - mass) * (lse - shifted[label]) + mass * (lse - mean)))
        gradient = powers / total - mass / classes
        gradient[label] -= 1 - mass
        gradients.append(gradient.astype(np.float64))
    return np.array(losses), np.array(gradients)
