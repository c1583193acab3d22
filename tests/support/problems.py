"""Random calls of the loss that cover every argument of the contract, one per seed.

Which arguments a call has, their kinds and shapes, depends on seed // VARIATIONS: JAX compiles each of those anew. The
numbers in it depend on the seed.
"""

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import oracle
from hypothesis import strategies as st

from multismooth.registry import conventions

# (shape of the elements, K, axis). N = K and T = K are traps.
SHAPES = (
    ((), 5, None),
    ((5,), 4, None),
    ((4,), 4, -1),
    ((6,), 2, 0),
    ((4,), 7, -1),
    ((2, 3), 5, 2),
    ((2, 4), 4, 1),
    ((2, 3), 3, 0),
)
VARIATIONS = 10
EMPTY = ((0,), 3, None)
DENOMINATORS = ("target_weight", "counted", "nonzero", "all", "classes", "mixture_weight")


@dataclass(frozen=True, eq=False)
class Problem:
    """A call `loss(logits, targets, **settings)` in float64 and NumPy.

    quiet: nothing in it deserves a SmoothingWarning.
    """

    seed: int
    logits: np.ndarray
    targets: np.ndarray
    settings: dict = field(default_factory=dict)
    quiet: bool = True

    @property
    def soft(self):
        return self.targets.dtype.kind in "fb"

    def __repr__(self):
        lines = [f"problem({self.seed})", f"logits = {self.logits!r}", f"targets = {self.targets!r}"]
        return "\n  ".join(lines + [f"{name} = {value!r}" for name, value in self.settings.items()])


def problem(seed, **fixed):
    """The problem of this seed. `fixed` settles what would be drawn.

    shape, targets ("hard", "soft", "positive", "bool") and reduction take a value; weight, prior, class_mask, ignore,
    sample_weight, z_loss, logit_softcap, normalizer, convention, smoothing_array, reckless, nonfinite are left out by
    False.
    """
    return _Generator(seed, fixed).problem()


@cache
def solved(seed):
    """(problem, Answer), once for all the backends."""
    drawn = problem(seed)
    return drawn, oracle.evaluate(drawn.logits, drawn.targets, **drawn.settings)


@cache
def solved_target_gradient(seed):
    """(a problem with soft targets, the gradient with respect to them), once for all the backends."""
    drawn = problem(seed, targets="positive", class_mask=False, reckless=False)
    if drawn.settings.get("reduction") == "none":
        drawn.settings["reduction"] = "sum"
    return drawn, oracle.target_gradient(drawn.logits, drawn.targets, **drawn.settings)


@dataclass(frozen=True, eq=False)
class Head:
    """A call `linear_loss(hidden, classifier, targets, bias=bias, **settings)`; NaN in rows that count for nothing."""

    hidden: np.ndarray
    classifier: np.ndarray
    bias: np.ndarray | None
    targets: np.ndarray
    settings: dict
    quiet: bool


@cache
def solved_head(seed):
    """(Head, evaluate_linear's results), once for all the backends."""
    drawn, rng = problem(seed, nonfinite=False), np.random.default_rng(seed)
    axis, width = drawn.settings.get("axis", -1), 3
    shape, classes = np.moveaxis(drawn.logits, axis, -1).shape[:-1], drawn.logits.shape[axis]
    hidden = np.moveaxis(rng.normal(size=(*shape, width)), -1, axis)
    classifier, bias = (
        rng.normal(size=(classes, width)),
        rng.normal(size=classes) if rng.random() < 0.6 else None,
    )
    results = oracle.evaluate_linear(hidden, classifier, drawn.targets, bias=bias, **drawn.settings)
    silent = (results[0].p == 0).all(axis)
    if rng.random() < 0.5:
        hidden = np.where(np.expand_dims(silent, axis), np.nan, hidden)
    return Head(np.ascontiguousarray(hidden), classifier, bias, drawn.targets, drawn.settings, drawn.quiet), results


@cache
def solved_binary(seed):
    """(logits, targets, settings) of a call of binary_loss, and evaluate_binary's results."""
    rng = np.random.default_rng(seed)
    shape = [(5,), (3, 4), ()][rng.integers(3)]
    logits = rng.normal(size=shape) * rng.choice([1.0, 30.0])
    targets = [rng.random(shape), rng.integers(0, 2, shape), rng.random(shape) < 0.5][rng.integers(3)]
    settings = {"label_smoothing": float(rng.uniform(0, 0.5))}
    targets = np.asarray(targets)
    if rng.random() < 0.4:
        settings["pos_weight"] = rng.uniform(0.5, 4, shape[-1:])
    if rng.random() < 0.4:
        weight = rng.uniform(0.2, 3, shape) * (rng.random(shape) < 0.7)
        settings["sample_weight"] = np.asarray(weight if rng.random() < 0.6 else weight > 0)
        if rng.random() < 0.5:
            logits = np.where(weight == 0, np.nan, logits)
    settings["reduction"] = ("mean", "mean", "sum", "none")[rng.integers(4)]
    if settings["reduction"] == "mean" and rng.random() < 0.3:
        settings["normalizer"] = 7.5
    if len(shape) > 1 and rng.random() < 0.5:
        settings |= {"label_mean": rng.random() < 0.5, "axis": (None, -1, 0)[rng.integers(3)]}
        settings["spread"] = ("half", "all")[rng.integers(2)]
        if rng.random() < 0.6:
            settings["weight"] = rng.uniform(0.2, 3, shape[-1 if settings["axis"] is None else settings["axis"]])
    if targets.dtype.kind != "b" and rng.random() < 0.4:
        targets = np.where(rng.random(shape) < 0.3, -100, targets)
        settings["ignore_index"] = -100
    arrays = np.asarray(logits), np.asarray(targets)
    return (*arrays, settings), oracle.evaluate_binary(*arrays, **settings)


def problems(**fixed):
    """The same problems as a Hypothesis strategy."""
    return st.integers(0, 2**31 - 1).map(lambda seed: problem(seed, **fixed))


class _Generator:
    def __init__(self, seed, fixed):
        self.seed, self.fixed = seed, fixed
        self.plan, self.rng = np.random.default_rng(seed // VARIATIONS), np.random.default_rng(seed)

    def draw(self, name, probability):
        """Whether the problem has this feature."""
        drawn = self.plan.random() < probability
        return drawn and self.fixed.get(name, True) is not False

    def choose(self, name, choices):
        drawn = choices[self.plan.integers(len(choices))]
        return self.fixed.get(name, drawn)

    def problem(self):
        rng, plan = self.rng, self.plan
        shape = self.choose("shape", SHAPES if plan.random() < 0.93 else (EMPTY,))
        self.shape, self.classes, self.axis = shape
        self.kind = self.choose("targets", ("hard",) * 5 + ("soft", "soft", "positive", "bool"))
        self.hard = self.kind == "hard"
        self.reckless = self.draw("reckless", 0.06)
        prior, weighted, masked = (
            self.draw("prior", 0.25),
            self.draw("weight", 0.35),
            self.draw("class_mask", 0.25),
        )
        convention, excluded = self.convention(prior, weighted)
        self.mask, self.excluded = self.existing(masked, excluded), excluded
        settings = {"label_smoothing": self.smoothing(convention)}
        if convention is not None:
            settings["convention"] = convention
        if weighted:
            low, high = (0.0, 3.0) if self.reckless else (0.75, 1.3)
            settings["weight"] = rng.uniform(low, high, self.classes)
            if self.reckless:
                settings["weight"][rng.integers(self.classes)] = 0.0
        if prior:
            settings["prior"] = self.distribution(
                (self.classes,) if plan.random() < 0.5 else (self.classes, self.classes)
            )
        if masked:
            settings["class_mask"] = self.laid_out_mask()
        targets = self.targets()
        half_ignored = getattr(convention, "ignore_scope", "all") == "nll_only"
        ignored = self.ignore(targets, settings, 1.0 if half_ignored else 0.5) & (not half_ignored)
        dropped = self.sample_weight(settings)
        if weighted and self.hard:
            gone = (targets == settings.get("ignore_index", -100)) | dropped
            self.weigh_something(settings["weight"], targets[~gone])
        if self.draw("z_loss", 0.3):
            settings["z_loss"] = float(rng.choice([1e-4, 0.01, 0.5]))
        self.reduce(settings, convention)
        self.cap(settings)
        if self.axis is not None:
            settings["axis"] = self.axis
        validate = (None, True, False)[plan.integers(3)]
        if validate is not None:
            settings["validate"] = validate
        return Problem(
            seed=self.seed,
            logits=self.logits(ignored | dropped),
            targets=targets.astype(self.label_dtype(targets)) if self.hard else self.lay_out(targets),
            settings=settings,
            quiet=not (self.reckless or prior or excluded),
        )

    def cap(self, settings):
        """Adds a soft cap now and then, without changing what else is drawn."""
        plan = np.random.default_rng((self.seed // VARIATIONS, 1))
        if plan.random() < 0.2 and self.fixed.get("logit_softcap", True) is not False:
            settings["logit_softcap"] = 30.0 if plan.random() < 0.5 else np.array(2.5)

    def lay_out(self, rows):
        return np.ascontiguousarray(np.moveaxis(rows, -1, -1 if self.axis is None else self.axis))

    def distribution(self, shape, where=True):
        """Random rows that sum to 1, about as peaked as softmax outputs, 0 where `where` is False."""
        rows = np.exp(self.rng.normal(size=shape)) * where
        return rows / rows.sum(-1, keepdims=True)

    def convention(self, prior, weighted):
        """None for the default, a name, or a variant; and the classes that it excludes."""
        plan, torch = self.plan, conventions["torch"]
        choice = plan.random()
        if self.fixed.get("convention", True) is False or choice < 0.3:
            return None, ()
        if choice < 0.45:
            return ("torch" if prior else "others"), ()
        changes = {
            "spread": "all" if prior else str(plan.choice(["all", "others"])),
            "objective": str(plan.choice(["cross_entropy", "kl"])),
            "class_weights": str(plan.choice(["per_term", "target", "nll_only", "mixture"])),
            "denominator": str(plan.choice(DENOMINATORS)),
        }
        if plan.random() < 0.25 and self.classes > 3:
            changes["exclude"] = (0,) if plan.random() < 0.7 else (1, self.classes - 1)
        if plan.random() < 0.2:
            changes["smoothing_map"] = "classy"
        if plan.random() < 0.2:
            changes["scale"] = 0.7
        if plan.random() < 0.2:
            changes["denominator_add"] = 1e-3
        if plan.random() < 0.2:
            changes["denominator_floor"] = 2.5
        if plan.random() < 0.3 and changes["objective"] == "cross_entropy":
            changes["smooth_denominator"] = str(plan.choice(["all", "counted", "nonzero"]))
            if self.hard and not prior and (not weighted or changes["class_weights"] == "nll_only"):
                changes["ignore_scope"] = "nll_only"
        if plan.random() < 0.5:
            changes["z_loss_denominator"] = str(plan.choice(DENOMINATORS))
        return replace(torch, **changes), changes.get("exclude", ())

    def existing(self, masked, excluded):
        """Which classes exist, class axis last: at least two per element that are not excluded."""
        mask = np.ones((*self.shape, self.classes), bool)
        if not masked:
            return mask
        self.shared_mask = self.plan.random() < 0.5
        rows = 1 if self.shared_mask else int(np.prod(self.shape))
        mask = self.rng.random((rows, self.classes)) < 0.6
        free = [k for k in range(self.classes) if k not in excluded]
        for row in mask:
            row[self.rng.permutation(free)[:2]] = True
        return np.broadcast_to(mask, (int(np.prod(self.shape)), self.classes)).reshape(*self.shape, self.classes)

    def laid_out_mask(self):
        if not self.shared_mask:
            return self.lay_out(self.mask)
        return self.mask.reshape(-1, self.classes)[0].copy() if self.mask.size else np.ones(self.classes, bool)

    def smoothing(self, convention):
        rng = self.rng
        others = convention is not None and (convention == "others" or getattr(convention, "spread", "") == "others")
        highest = 0.95 if self.reckless and not others else 0.2 if others else 0.45
        if self.draw("smoothing_array", 0.2):
            shape = self.shape if self.plan.random() < 0.6 else self.shape[-1:]
            return np.asarray(rng.uniform(0, highest, shape))
        return float(rng.choice([0.0, 0.1, rng.uniform(0, highest)]))

    def targets(self):
        rng, rows = self.rng, self.mask.reshape(-1, self.classes)
        labels = np.array(
            [rng.choice([k for k in np.flatnonzero(row) if k not in self.excluded]) for row in rows],
            dtype=np.int64,
        ).reshape(self.shape)
        if self.hard:
            return labels
        if self.kind == "bool":
            return labels[..., None] == np.arange(self.classes)
        where = self.mask
        if self.kind == "soft":
            where = where & ((rng.random(where.shape) < 0.7) | (labels[..., None] == np.arange(self.classes)))
        return self.distribution((*self.shape, self.classes), where)

    def label_dtype(self, labels):
        dtypes = ("int64", "int64", "int32", "int16", "uint8")
        return dtypes[self.rng.integers(5 if (labels >= 0).all() else 4)]

    def ignore(self, targets, settings, probability):
        """Marks some labels as ignored; returns where."""
        rng = self.rng
        none = np.zeros(self.shape, bool)
        if not self.hard or not self.draw("ignore", probability):
            return none
        if self.plan.random() < 0.1:
            settings["ignore_index"] = None
            return none
        index = int(self.plan.choice([-100, -1, 255, 0]))
        if index != -100:
            settings["ignore_index"] = index
        targets[rng.random(self.shape) < (1.0 if rng.random() < 0.05 else 0.35)] = index
        return np.asarray(targets == index)

    def sample_weight(self, settings):
        """Adds sample weights; returns where they are 0."""
        rng = self.rng
        none = np.zeros(self.shape, bool)
        if not self.draw("sample_weight", 0.35):
            return none
        shape = self.shape if self.plan.random() < 0.7 else self.shape[-1:]
        weight = rng.uniform(0.2, 3.0, shape) * (rng.random(shape) < 0.75)
        settings["sample_weight"] = weight = np.asarray(weight if self.plan.random() < 0.6 else weight > 0)
        return np.broadcast_to(weight == 0, self.shape)

    def weigh_something(self, weight, counted):
        """A mean over counted labels that all weigh 0 divides by 0: an error, with tests of its own."""
        if not weight[counted].any():
            weight[counted] = 1.0

    def reduce(self, settings, convention):
        plan = self.plan
        reduction = self.choose("reduction", ("mean", "mean", "mean", "sum", "none"))
        if reduction != "mean" or plan.random() < 0.2:
            settings["reduction"] = reduction
        split = getattr(convention, "smooth_denominator", None) is not None
        if reduction == "mean" and not split and self.draw("normalizer", 0.2):
            settings["normalizer"] = 7.5 if plan.random() < 0.5 else np.array(12.25)

    def logits(self, silent):
        """Logits, with −inf and NaN where nothing may read them."""
        rng = self.rng
        logits = rng.normal(size=(*self.shape, self.classes)) * rng.choice([0.3, 3.0, 15.0]) + rng.choice(
            [0.0, 0.0, 40.0]
        )
        if self.draw("nonfinite", 0.6):
            absent = ~self.mask
            logits[absent] = rng.choice([-np.inf, np.nan, 1.0], size=int(absent.sum()))
            logits[silent] = rng.choice([-np.inf, np.nan, np.inf, 1.0], size=(int(np.sum(silent)), 1))
        return self.lay_out(logits)
