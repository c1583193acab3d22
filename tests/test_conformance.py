"""Every backend against the oracle: values, gradients, dtypes. The settings are random, one per seed."""

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import oracle
import pytest
from adapters import Question, bfloat16, suites
from oracle import floats
from problems import VARIATIONS, problem, solved, solved_binary, solved_head, solved_target_gradient
from tolerance import assert_close, size_of

import multismooth

LARGE = 128_256
LARGEST_HEAD_LOGIT = np.full(1, 20.0)  # of the random heads
MOST_PARTS = 5  # tests that the random settings of one adapter are split into, so that several processes share them
Z_LOSS_SIZES = (7, 4), (7, 3), (4, 3)  # logits; a head's features and classifier
Z_LOSS_LABELS = np.array([0, 1, -100, 3, 0, 2, -100])
Z_LOSS = {
    "z_loss": 0.3,
    "weight": np.array([1.3, 0.75, 0.9, 1.1]),
    "sample_weight": np.array([1.0, 0.5, 1.0, 0.25, 0.0, 2.0, 1.0]),
}
Z_LOSS_DIVISORS = (
    {"z_loss_denominator": "counted"},  # Liger's
    {"z_loss_denominator": "target_weight", "denominator": "counted", "smooth_denominator": "all"},
    *({"z_loss_denominator": kind} for kind in ("nonzero", "all", "classes", "mixture_weight")),
    {"z_loss_denominator": "counted", "denominator_add": 0.5, "denominator_floor": 5.0, "scale": 0.7},
)


@contextmanager
def warnings_deserved(quiet):
    """Where nothing deserves a SmoothingWarning, one is an error."""
    with warnings.catch_warnings():
        if not quiet:
            warnings.simplefilter("ignore", multismooth.SmoothingWarning)
        yield


def each(seeds, check, describe=problem):
    """Runs check(seed) for all, and reports the first failure with its problem and the number of others."""
    failures = []
    for seed in seeds:
        try:
            check(seed)
        except Exception as error:
            failures.append((seed, error))
    if failures:
        seed, error = failures[0]
        error.add_note(
            f"{len(failures)} of {len(seeds)} settings fail: seeds {[s for s, _ in failures]}\n  {describe(seed)}"
        )
        raise error


def pytest_generate_tests(metafunc):
    """Parametrise `part`: (which, of how many), of an adapter's random settings."""
    if "part" in metafunc.fixturenames:
        adapter = metafunc.cls.adapter
        count = min(MOST_PARTS, adapter.heads if metafunc.function.__name__ == "test_linear" else adapter.settings)
        parts = [(number, count) for number in range(count)]
        metafunc.parametrize("part", parts, ids=[f"{number + 1} of {count}" for number in range(count)])


def one_part(seeds, part):
    """The seeds of one part. Problems of one structure stay together, because JAX compiles each structure once."""
    number, count = part
    return [seed for seed in seeds if seed // VARIATIONS % count == number]


def snapshot(*values):
    return [value.tobytes() for value in values if isinstance(value, np.ndarray)]


def along(axis, per_element, gradient):
    """Numbers per element, shaped to multiply a gradient whose class axis is `axis`."""
    return np.expand_dims(per_element, -1 if axis is None else axis) * gradient


class Conformance:
    """What holds for every implementation. A subclass names its `adapter`."""

    adapter = None

    @pytest.fixture(autouse=True)
    def installed(self):
        self.adapter.functions()

    def structures(self, count, start=0):
        """Seeds of `count` problems, each of another structure."""
        return range(start, start + VARIATIONS * count, VARIATIONS)

    def few(self, start):
        return self.structures(self.adapter.settings // 25, start)

    def test_values_and_gradients(self, part):
        count = self.adapter.settings
        each(one_part(self.structures(count) if self.adapter.slow else range(count), part), self.compare)

    def close(self, found, expected, size):
        """`found` is the expected value in the adapter's dtype. float32 rounds numbers of this size."""
        dtype = self.adapter.computes
        assert_close(found, expected, dtype, scale=1.0 if dtype == "float64" else size)

    def compare(self, seed):
        drawn, answer = solved(seed)
        before = snapshot(drawn.logits, drawn.targets, *drawn.settings.values())
        expected, gradient = floats(answer.loss), floats(answer.gradient)
        call, size = (drawn.logits, drawn.targets), size_of(drawn.logits, drawn.targets, drawn.settings)
        with warnings_deserved(drawn.quiet):
            cotangent, differentiated = None, self.differentiates(seed)
            if differentiated and expected.ndim:
                cotangent = np.random.default_rng(seed).normal(size=expected.shape)
            questions = Question("loss_and_grad"), Question("loss", (0,) if differentiated else None)
            (loss, computed), again = self.adapter.ask(questions, *call, cotangent=cotangent, **drawn.settings)
        self.close(loss, expected, size)
        self.close(computed, gradient, size)
        assert not np.any(computed[gradient == 0]), "an entry that counts for nothing has a gradient"
        value, *computed = (again[0], *again[1]) if differentiated else (again,)
        self.close(value, expected, size)
        for slope in computed:
            weighted = gradient if cotangent is None else along(drawn.settings.get("axis"), cotangent, gradient)
            self.close(slope, weighted, size)
        assert snapshot(drawn.logits, drawn.targets, *drawn.settings.values()) == before, "an input was written to"

    def differentiates(self, seed):
        every = self.adapter.autodiff_every
        return every and seed // VARIATIONS % every == 0

    def test_linear(self, part):
        seeds = one_part(self.structures(self.adapter.heads), part)
        each(seeds, self.compare_linear, lambda seed: solved_head(seed)[0])

    def compare_linear(self, seed):
        head, (answer, *gradients) = solved_head(seed)
        expected, gradients = floats(answer.loss), [None if g is None else floats(g) for g in gradients]
        settings = head.settings | ({} if head.bias is None else {"bias": head.bias})
        settings |= {} if seed // VARIATIONS % 3 else {"chunk_rows": 2}
        arrays = (head.hidden, head.classifier, head.targets)
        before, size = snapshot(*arrays, *settings.values()), size_of(LARGEST_HEAD_LOGIT, head.targets, settings)
        with warnings_deserved(head.quiet):
            differentiated = not expected.ndim and self.differentiates(seed)
            questions = Question("linear_loss_and_grad"), Question("linear_loss", (0, 1) if differentiated else None)
            (loss, computed), again = self.adapter.ask(questions, *arrays, **settings)
        self.close(loss, expected, size)
        assert len(computed) == 3
        for ours, theirs in zip(computed, gradients, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                self.close(ours, theirs, size)
        value, computed = again if differentiated else (again, ())
        self.close(value, expected, size)
        for ours, theirs in zip(computed, gradients, strict=False):
            self.close(ours, theirs, size)
        assert snapshot(*arrays, *settings.values()) == before, "an input was written to"

    def test_a_z_loss_has_its_own_denominator(self):
        """Class and sample weights and ignored labels, so that no two of the denominators are the same."""
        z, hidden, classifier = (np.random.default_rng(k).normal(size=size) for k, size in enumerate(Z_LOSS_SIZES))
        for number, changes in enumerate(Z_LOSS_DIVISORS[:1] if self.adapter.slow else Z_LOSS_DIVISORS):
            settings = Z_LOSS | {"convention": replace(multismooth.conventions["torch"], **changes)}
            answer = oracle.evaluate(z, Z_LOSS_LABELS, **settings)
            loss, gradient = self.adapter.call("loss_and_grad", z, Z_LOSS_LABELS, **settings)
            self.close(loss, floats(answer.loss), 3)
            self.close(gradient, floats(answer.gradient), 3)
            if self.adapter.slow or number > self.adapter.heads // 10 or "denominator_add" in changes:
                continue
            terms = self.adapter.call("terms", z, Z_LOSS_LABELS, **settings)
            self.close(terms[0].sum() / terms[2].sum(), floats(answer.loss), 3)
            answer, *gradients = oracle.evaluate_linear(hidden, classifier, Z_LOSS_LABELS, **settings)
            arrays = hidden, classifier, Z_LOSS_LABELS
            loss, computed = self.adapter.call("linear_loss_and_grad", *arrays, chunk_rows=2, **settings)
            self.close(loss, floats(answer.loss), 3)
            for ours, theirs in zip(computed[:2], gradients[:2], strict=True):
                self.close(ours, floats(theirs), 3)
            self.close(self.adapter.call("linear_loss", *arrays, **settings), floats(answer.loss), 3)


class Details(Conformance):
    """What is left to check where a call costs no compilation of seconds."""

    def test_binary(self):
        def check(seed):
            (logits, targets, settings), (loss, gradient, slope) = solved_binary(seed)
            assert_close(self.adapter.call("binary_loss", logits, targets, **settings), floats(loss), "float64")
            if not self.adapter.autodiff_every:
                return
            soft = targets.dtype.kind == "f"
            cotangent = np.ones(np.shape(loss)) if np.shape(loss) else None
            value, computed = self.adapter.value_and_grad(
                "binary_loss", logits, targets, wrt=(0, 1) if soft else (0,), cotangent=cotangent, **settings
            )
            assert_close(value, floats(loss), "float64")
            for ours, theirs in zip(computed, (gradient, slope), strict=False):
                assert_close(ours, floats(theirs), "float64")

        each(self.few(1000), check, lambda seed: solved_binary(seed)[0])

    def test_gradient_of_soft_targets(self):
        if not self.adapter.autodiff_every:
            pytest.skip("NumPy has no autodiff")

        def check(seed):
            drawn, exact = solved_target_gradient(seed)
            expected = floats(exact)
            with warnings_deserved(drawn.quiet):
                _, (computed,) = self.adapter.value_and_grad(
                    "loss", drawn.logits, drawn.targets, wrt=(1,), **drawn.settings
                )
            assert_close(computed, expected, "float64")

        each(self.structures(self.adapter.settings // 50, 2000), check)

    def test_terms(self):
        def check(seed):
            drawn = problem(seed)
            rules = drawn.settings.get("convention")
            settings = {k: v for k, v in drawn.settings.items() if k not in ("reduction", "normalizer")}
            answer = oracle.evaluate(drawn.logits, drawn.targets, **settings)
            with warnings_deserved(drawn.quiet):
                terms = self.adapter.call("terms", drawn.logits, drawn.targets, **settings)
            loss, nll, weight, lse, predicted = terms
            assert_close(lse, floats(answer.lse), "float64")
            assert np.array_equal(predicted, answer.predicted), (predicted, answer.predicted)
            assert predicted.dtype.kind == "i"
            if all(getattr(rules, f"{term}_denominator", None) is None for term in ("smooth", "z_loss")):
                assert_close(loss, floats(answer.element), "float64")
            if not (drawn.soft and getattr(rules, "objective", "") == "kl"):
                assert_close(nll, floats(answer.nll), "float64")
            whole = getattr(rules, "denominator_floor", None) is None and not getattr(rules, "denominator_add", 0)
            if whole and weight.sum():
                assert_close(loss.sum() / weight.sum(), floats(answer.loss), "float64")

        each(self.few(3000), check)

    def test_smooth_targets(self):
        names = ("label_smoothing", "convention", "prior", "class_mask", "ignore_index", "axis")

        def check(seed):
            drawn = problem(seed)
            if getattr(drawn.settings.get("convention"), "ignore_scope", "all") != "all":
                return
            settings = {k: v for k, v in drawn.settings.items() if k in names}
            answer = oracle.evaluate(np.zeros(drawn.logits.shape), drawn.targets, **settings)
            classes = drawn.logits.shape[settings.get("axis", -1)]
            with warnings_deserved(drawn.quiet):
                rows = self.adapter.call(
                    "smooth_targets", drawn.targets, classes, dtype=self.adapter.dtype("float64"), **settings
                )
            assert_close(rows, floats(answer.q), "float64")

        each(self.few(4000), check)

    def test_mean_over_nothing_is_zero(self):
        nan = np.full((2, 3), np.nan)
        for logits, targets, settings in (
            (np.empty((0, 3)), np.empty(0, np.int64), {}),
            (nan, np.array([-100, -100]), {}),
            (nan, np.array([0, 1]), {"sample_weight": np.zeros(2)}),
            (nan, np.array([255, 255]), {"ignore_index": 255, "weight": np.array([1.0, 2.0, 1.5])}),
            (nan, np.full((2, 3), 1 / 3), {"sample_weight": np.zeros(2, bool)}),
        ):
            loss, gradient = self.adapter.call("loss_and_grad", logits, targets, **settings)
            assert_close(loss, 0.0, "float64")
            assert gradient.shape == logits.shape
            assert not gradient.any()

    def test_ignored_rows_have_zero_bits(self):
        logits = np.array([[1.0, 2.0, 0.5], [np.nan, np.inf, -np.inf], [0.0, 0.1, 0.2]])
        for dtype in ("float64", "float32", *self.adapter.narrow):
            z = logits.astype(bfloat16() if dtype == "bfloat16" else dtype)
            for settings in ({}, {"reduction": "none"}, {"reduction": "sum", "z_loss": 0.1}):
                _, gradient = self.adapter.call("loss_and_grad", z, np.array([0, -100, 2]), **settings)
                assert not any(gradient[1].tobytes()), (dtype, settings)

    def test_infinite_logits(self):
        """Finite where no target mass lies on them, else an infinite loss with the definition's finite gradient."""
        logits = np.array([[1.0, -np.inf, 0.5], [0.5, -np.inf, 2.0]])
        labels, soft = np.array([0, 2]), np.array([[0.25, 0, 0.75], [0.5, 0, 0.5]])
        for targets, settings in (
            (labels, {"label_smoothing": 0.0}),
            (soft, {"label_smoothing": 0.0}),
            (labels, {"prior": np.array([0.5, 0.0, 0.5])}),
            (labels, {"convention": replace(multismooth.conventions["torch"], exclude=(1,))}),
            (labels, {"weight": np.array([1.0, 0.0, 1.5])}),
            (labels, {}),
            (soft, {"label_smoothing": np.array([0.1, 0.0]), "reduction": "none"}),
        ):
            answer = oracle.evaluate(logits, targets, **settings)
            with warnings_deserved("weight" not in settings):
                loss, gradient = self.adapter.call("loss_and_grad", logits, targets, **settings)
            assert_close(loss, floats(answer.loss), "float64")
            assert_close(gradient, floats(answer.gradient), "float64")

    def test_a_sample_weight_of_zero_is_exactly_nothing(self):
        logits, weight = np.array([[1.0, 2.0, 0.5], [0.0, 0.1, 0.2]]), np.array([1.0, 0.0])
        expected = oracle.evaluate(logits[:1], np.array([0]))
        for targets in (
            np.array([0, 7]),
            np.array([0, -1]),
            np.array([[1.0, 0, 0], [np.nan, 0, np.inf]]),
            np.array([[1.0, 0, 0], [0, 0, 0]]),
        ):
            for counts in (weight, weight > 0):
                loss, gradient = self.adapter.call("loss_and_grad", logits, targets, sample_weight=counts)
                assert_close(loss, floats(expected.loss), "float64")
                assert_close(gradient[0], floats(expected.gradient)[0], "float64")
                assert not any(gradient[1].tobytes())

    def test_target_mass_on_an_absent_class_is_refused(self):
        logits, mask = np.array([[1.0, 2.0, np.nan], [0.0, 0.1, np.nan]]), np.array([True, True, False])
        for targets in (
            np.array([0, 2]),
            np.array([[1.0, 0, 0], [0.5, 0, 0.5]]),
            np.eye(3, dtype=bool)[[0, 2]],
        ):
            with pytest.raises(multismooth.TargetError):
                self.adapter.call("loss", logits, targets, class_mask=mask)

    def test_a_label_that_names_no_class_is_nan_where_it_is_not_checked(self):
        logits, labels = np.array([[1.0, 2.0, 0.5], [0.0, 0.1, 0.2], [2.0, 0.0, 1.0]]), np.array([0, 3, -1])
        expected = oracle.evaluate(logits, np.array([0, -100, -100]), reduction="none")
        loss, gradient = self.adapter.call("loss_and_grad", logits, labels, reduction="none", validate=False)
        assert_close(loss, [floats(expected.loss)[0], np.nan, np.nan], "float64")
        assert_close(gradient[0], floats(expected.gradient)[0], "float64")
        assert np.isnan(gradient[1:]).all()

    def test_one_class(self):
        traced = nullcontext()  # where nothing can be said
        for settings in ({}, {"z_loss": 0.1}, {"class_mask": np.array([True])}):
            answer = oracle.evaluate(np.array([[2.0], [3.0]]), np.array([0, 0]), **settings)
            with traced if self.adapter.slow else pytest.warns(multismooth.SmoothingWarning, match="binary_loss"):
                call = np.array([[2.0], [3.0]]), np.array([0, 0])
                loss, gradient = self.adapter.call("loss_and_grad", *call, **settings)
            assert_close(loss, floats(answer.loss), "float64")
            assert_close(gradient, floats(answer.gradient), "float64")

    @pytest.mark.parametrize("spread", ["torch", "others"])
    def test_float32_at_large_k(self, spread):
        logits, labels = large("float32")
        exact, slope = oracle.exact_loss_large(logits, labels, spread="all" if spread == "torch" else spread)
        loss = self.adapter.call("loss", logits, labels, reduction="none", convention=spread)
        assert_close(loss, exact, "float32", LARGE)
        assert np.max(np.abs(loss / exact - 1)) < 2e-6
        loss, gradient = self.adapter.call("loss_and_grad", logits, labels, reduction="sum", convention=spread)
        assert_close(loss, exact.sum(), "float32", LARGE)
        assert_close(gradient, slope, "float32", LARGE, scale=entries(logits, slope))

    def test_narrow_dtypes_at_large_k(self):
        for dtype in self.adapter.narrow:
            logits, labels = large(dtype)
            exact, slope = oracle.exact_loss_large(logits, labels)
            loss = self.adapter.call("loss", logits, labels, reduction="none")
            assert str(loss.dtype) == "float32"
            assert np.max(np.abs(loss / exact - 1)) < 1e-5
            loss, gradient = self.adapter.call("loss_and_grad", logits, labels, reduction="sum")
            assert_close(loss, exact.sum(), "float32", LARGE)
            assert_close(gradient, slope, dtype, LARGE, scale=entries(logits, slope))

    def test_repeatable_bits(self):
        logits, labels = large("float32")
        rng = np.random.default_rng(1)
        hidden, classifier = (rng.normal(size=s).astype(np.float32) for s in ((64, 8), (50, 8)))
        for function, *arrays in (
            ("loss_and_grad", logits, labels),
            ("linear_loss_and_grad", hidden, classifier, rng.integers(0, 50, 64)),
        ):
            first, second = (bits(self.adapter.call(function, *arrays)) for _ in range(2))
            assert first == second, function

    def test_out(self):
        if not self.adapter.out:
            pytest.skip(f"{self.adapter.framework} arrays cannot be written to")
        drawn, answer = problem(7, shape=((4,), 7, -1), nonfinite=False, reduction="mean"), None
        answer = oracle.evaluate(drawn.logits, drawn.targets, **drawn.settings)
        with warnings_deserved(drawn.quiet):
            for out in (np.full(drawn.logits.shape, np.nan), drawn.logits.copy()):
                logits = out if np.isfinite(out).all() else drawn.logits
                loss, gradient = self.adapter.call("loss_and_grad", logits, drawn.targets, out=out, **drawn.settings)
                assert_close(loss, floats(answer.loss), "float64")
                assert_close(gradient, floats(answer.gradient), "float64")
                if self.adapter.device == "cpu":
                    assert_close(out, floats(answer.gradient), "float64")


def large(dtype):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(2, LARGE)) * 4).astype(bfloat16() if dtype == "bfloat16" else dtype)
    return logits, np.array([3, LARGE - 1])


def entries(logits, slope):
    """The size of what each gradient entry is the difference of: q, and p, which an error of the lse multiplies."""
    z = logits.astype(np.float64)
    lse = np.log(np.exp(z).sum(-1, keepdims=True))
    return np.exp(z - lse) * (2 + lse) + np.abs(slope)


def bits(result):
    return (
        [bits(part) for part in result]
        if isinstance(result, tuple)
        else None
        if result is None
        else np.asarray(result).tobytes()
    )


suites(globals(), lambda adapter: Conformance if adapter.slow or adapter.computes != "float64" else Details)
