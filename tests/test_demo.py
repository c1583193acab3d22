"""The main job: what it compares, that it can fail, what it writes, and the parts it is made of."""

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from requirements import need

torch, jax = need("torch"), need("jax")
for package in ("flax", "optax", "matplotlib", "scipy", "sklearn", "mlxtend"):
    need(package)

import multismooth.jax  # noqa: E402
import multismooth.torch  # noqa: E402
from multismooth import calibration, demo  # noqa: E402
from multismooth.demo import Case, Settings, data, metrics, model, page, training, with_flax, with_torch  # noqa: E402
from multismooth.pages.html import scientific  # noqa: E402

pytestmark = pytest.mark.thorough

TINY = Settings(smoothings=(0.0, 0.1), steps=5, float32_steps=3, batch_size=16)
SMOOTHED = Case("others", 0.1)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", seed=0)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The outcome of a tiny job and the directory that it wrote."""
    out = tmp_path_factory.mktemp("demo") / "not" / "there" / "yet"
    return demo.run(TINY, out), out


def train(digits, case=SMOOTHED, steps=3, torch_loss=None, jax_loss=None, **kwargs):
    losses = {
        "torch_loss": torch_loss or multismooth.torch.loss,
        "jax_loss": jax_loss or multismooth.jax.loss,
    }
    return training.train(case, digits, TINY, steps=steps, **losses, **kwargs)


class TestComparison:
    def test_every_float64_step_agrees(self, job):
        outcome, _ = job
        assert outcome.agreed
        assert [str(run.case) for run in outcome.runs] == ["ε = 0", "ε = 0.1 (all)", "ε = 0.1 (others)"]
        for run in outcome.runs:
            assert {len(values) for values in run.differences.values()} == {TINY.steps}
            assert run.largest < 1e-12
        assert outcome.verdict.startswith("PyTorch and Flax agreed at every one of 15 steps; largest difference ")

    def test_training_moves_the_parameters_and_lowers_the_loss(self, digits):
        run = train(digits, steps=20)
        assert np.mean(run.losses["torch"][-5:]) < 0.9 * run.losses["torch"][0]

    def test_the_float32_run_is_reported_and_never_counts_as_agreement(self, job):
        outcome, _ = job
        assert outcome.float32.dtype == "float32"
        assert 1e-9 < outcome.float32.largest < 0.1
        assert outcome.float32_verdict.startswith("In float32 the run with ε = 0.1 (all) differs by ")
        largest = scientific(outcome.float32.largest)
        assert outcome.float32_verdict.endswith(f", and by up to {largest} within 3 steps.")
        assert "agree" not in outcome.float32_verdict

    def test_a_slightly_different_loss_is_found(self, digits):
        run = train(digits, torch_loss=lambda *args, **kwargs: (1 + 1e-7) * multismooth.torch.loss(*args, **kwargs))
        assert run.first_disagreement(1e-9)[:2] == (0, "loss")

    def test_a_different_gradient_behind_an_equal_loss_is_found(self, digits):
        def tilted(logits, labels, **kwargs):
            return multismooth.torch.loss(logits, labels, **kwargs) + 1e-6 * (logits - logits.detach())[:, 0].mean()

        run = train(digits, torch_loss=tilted)
        assert run.first_disagreement(1e-9)[:2] == (0, "gradients")

    def test_a_different_update_behind_an_equal_gradient_is_found(self, digits, monkeypatch):
        import optax

        monkeypatch.setattr(with_flax, "update_rule", lambda rate, decay: optax.adamw(rate, weight_decay=0.1))
        run = train(digits)
        assert run.first_disagreement(1e-9)[:2] == (0, "parameters")

    def test_the_other_spread_is_found(self, digits):
        def confused(*args, convention, **kwargs):
            return multismooth.torch.loss(*args, convention="torch", **kwargs)

        assert train(digits, case=SMOOTHED, torch_loss=confused).first_disagreement(1e-9) is not None

    def test_nan_is_not_agreement(self, digits):
        run = train(digits, torch_loss=lambda *args, **kwargs: multismooth.torch.loss(*args, **kwargs) * np.nan)
        step, quantity, difference = run.first_disagreement(1e-9)
        assert (step, quantity) == (0, "loss")
        assert np.isnan(difference)
        assert np.isnan(run.largest)

    def test_a_new_smoothing_compiles_nothing(self, digits):
        traced = []

        def counted(*args, **kwargs):
            traced.append(kwargs["label_smoothing"])
            return multismooth.jax.loss(*args, **kwargs)

        train(digits, case=Case("all", 0.1), jax_loss=counted)
        first = len(traced)
        train(digits, case=Case("all", 0.3), jax_loss=counted)
        assert first > 0
        assert len(traced) == first

    def test_runs_repeat_exactly(self, digits):
        first, second = train(digits), train(digits)
        assert first.losses == second.losses
        assert first.differences == second.differences

    def test_jax_gets_its_precision_back(self, digits):
        def broken(*args, **kwargs):
            raise ZeroDivisionError

        before = jax.config.read("jax_enable_x64")
        with pytest.raises(ZeroDivisionError):
            train(digits, torch_loss=broken)
        assert jax.config.read("jax_enable_x64") == before

    def test_progress_is_told_after_every_step(self, digits):
        told = []
        train(digits, on_step=lambda *args: told.append(args))
        assert [(case, dtype) for case, dtype, _ in told] == [(SMOOTHED, "float64")] * 3
        assert all(0 <= a <= b < 1e-9 for (*_, a), (*_, b) in pairwise(told))


class Page(HTMLParser):
    """Everything on a page that a browser would fetch or look up, and what it defines."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.identifiers, self.references = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.identifiers += [attributes["id"]] if "id" in attributes else []
        for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
            self.references += [attributes[name]] if name in attributes else []
        for value in attributes.values():
            self.references += re.findall(r"url\(([^)]*)\)", value or "")


class TestReport:
    def test_files(self, job):
        _, out = job
        names = {path.name for path in out.iterdir()}
        assert {"report.html", "results.json", "loss.png", "difference.png", "logit-gradient.png"} <= names
        assert {"targets-all.png", "targets-others.png", "targets-excluded.png"} <= names
        assert {"metric-accuracy.png", "metric-nll.png", "metric-ece.png"} <= names
        assert {"reliability-0.png", "reliability-0.1.png"} <= names
        for path in out.glob("*.png"):
            assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), path

    def test_the_page_fetches_nothing(self, job):
        _, out = job
        text = (out / "report.html").read_text("utf-8")
        parsed = Page(text)
        assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "embed"}
        assert "@import" not in text
        assert parsed.references
        assert [reference for reference in parsed.references if not reference.startswith(("data:", "#"))] == []

    def test_its_identifiers_are_unique_and_resolve(self, job):
        _, out = job
        parsed = Page((out / "report.html").read_text("utf-8"))
        assert len(parsed.identifiers) == len(set(parsed.identifiers))
        local = {reference[1:] for reference in parsed.references if reference.startswith("#")}
        assert local
        assert local <= set(parsed.identifiers)

    def test_it_fits_a_phone_and_either_theme(self, job):
        _, out = job
        text = (out / "report.html").read_text("utf-8")
        assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in Page(text).tags
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"<svg[^>]* width=", text)
        used = set(re.findall(r"var\(--([\w-]+)\)", text))
        assert used <= set(re.findall(r"--([\w-]+):", text))

    def test_numbers(self, job):
        outcome, out = job

        def refuse(constant):
            raise ValueError(constant)

        results = json.loads((out / "results.json").read_text("utf-8"), parse_constant=refuse)
        assert results["agreed"] is True
        assert results["verdict"] == outcome.verdict
        assert results["settings"]["weight_decay"] == TINY.weight_decay > 0
        assert results["versions"]["torch"] == importlib.metadata.version("torch")
        assert len(results["runs"]) == 3
        for written, run in zip(results["runs"], outcome.runs, strict=True):
            assert written["losses"] == run.losses
            assert written["differences"] == run.differences
            assert written["test"]["torch"]["accuracy"] == run.evaluations["torch"].accuracy
            assert sum(written["test"]["flax"]["reliability"]["count"]) == results["data"]["test"] == 539

    def test_a_disagreement_heads_the_page(self, job, digits, tmp_path):
        def wrong(*args, **kwargs):
            return multismooth.torch.loss(*args, **kwargs) + 1e-6

        outcome = replace(job[0], runs=[*job[0].runs[:2], train(digits, steps=TINY.steps, torch_loss=wrong)])
        assert not outcome.agreed
        assert outcome.verdict == (
            "PyTorch and Flax disagreed, first at step 1 of the run with ε = 0.1 (others): "
            "the loss differs by 1e-6, more than the tolerance 1e-9."
        )
        page.write(outcome, tmp_path)
        text = (tmp_path / "report.html").read_text("utf-8")
        assert '<p class="verdict bad">PyTorch and Flax <b>disagreed</b>, first at step 1' in text
        assert json.loads((tmp_path / "results.json").read_text("utf-8"))["agreed"] is False


class TestModel:
    @pytest.mark.parametrize("side", [8, 28])
    def test_one_checkpoint_gives_both_networks_the_same_logits(self, side):
        weights = model.first_weights(side, seed=1)
        images = np.random.default_rng(2).normal(size=(3, side, side, 1))
        shared = (weights, side, "float64", SMOOTHED, TINY)
        with training.jax_precision("float64"):
            ours = with_torch.Trainer(*shared, multismooth.torch.loss).logits(images)
            theirs = with_flax.Trainer(*shared, multismooth.jax.loss).logits(images)
        assert ours.shape == (3, 10)
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)

    def test_the_conversion_has_an_inverse(self):
        weights = model.first_weights(8, seed=1)
        there_and_back = model.from_torch(model.to_torch(weights))
        assert model.largest_difference(weights, there_and_back) == 0

    def test_the_largest_difference_sees_every_entry(self):
        for layer, part in (("conv1", "kernel"), ("dense2", "bias")):
            a, b = model.first_weights(8, seed=1), model.first_weights(8, seed=1)
            b[layer][part].flat[-1] += 0.5
            assert model.largest_difference(a, b) == 0.5
            b[layer][part].flat[-1] = np.nan
            assert np.isnan(model.largest_difference(a, b))


class TestData:
    @pytest.mark.parametrize(("name", "side", "count"), [("digits", 8, 1797), ("mnist", 28, 5000)])
    def test_split(self, name, side, count):
        digits = data.load(name, seed=0)
        assert digits.side == side
        assert len(digits.train) + len(digits.test) == count
        assert len(digits.test) == round(0.3 * count)
        assert digits.train.images.shape == (len(digits.train), side, side, 1)
        assert abs(digits.train.images.mean()) < 1e-12
        assert abs(digits.train.images.std() - 1) < 1e-12
        assert set(digits.test.labels) == set(range(10))

    def test_no_held_out_image_is_trained_on(self, digits):
        both = np.concatenate([digits.train.images, digits.test.images]).reshape(1797, -1)
        pixels = data._read("digits")[0]
        assert len(np.unique(both, axis=0)) == len(np.unique(pixels, axis=0))

    def test_batches_cover_an_epoch_without_repeats_and_shuffle_the_next(self):
        order = data.batch_order(count=100, batch_size=30, steps=7, seed=3)
        assert [len(batch) for batch in order] == [30] * 7
        epoch = np.concatenate(order[:3])
        assert len(set(epoch)) == 90
        assert set(epoch) <= set(range(100))
        assert list(epoch) != list(np.concatenate(order[3:6]))
        again = data.batch_order(count=100, batch_size=30, steps=7, seed=3)
        assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))


class TestMetrics:
    def test_evaluation_by_hand(self):
        logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
        result = metrics.evaluate(logits, np.array([0, 2]))
        assert result.accuracy == 0.5
        np.testing.assert_allclose(result.nll, -(np.log(0.7) + np.log(0.3)) / 2)
        np.testing.assert_allclose(result.ece, 0.5 * 0.3 + 0.5 * 0.6)
        assert result.temperature.status == "converged"
        assert result.test.expected > 0

    def test_the_error_is_that_of_the_calibration_room(self):
        random = np.random.default_rng(0)
        logits, labels = random.normal(size=(200, 10)) * 3, random.integers(0, 10, 200)
        result = metrics.evaluate(logits, labels)
        assert result.ece == calibration.expected_calibration_error(logits, labels)
        np.testing.assert_allclose(result.reliability.error, result.ece)

    def test_huge_logits_do_not_overflow(self):
        result = metrics.evaluate(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
        assert result.nll == 5e3
        assert result.reliability.count[-1] == 2
        assert result.ece == 0.5


class TestSettings:
    def test_without_smoothing_there_is_one_spread(self):
        assert [str(case) for case in TINY.cases].count("ε = 0") == 1
        assert Settings().total_steps == 9 * 600 + 100

    @pytest.mark.parametrize("name", ["digits", "mnist"])
    def test_quick_is_less_of_the_same(self, name):
        whole, quick = Settings.of(name), Settings.of(name, quick=True)
        assert set(quick.smoothings) < set(whole.smoothings)
        assert quick.total_steps < whole.total_steps / 3
        assert (quick.tolerance, quick.learning_rate) == (whole.tolerance, whole.learning_rate) == (1e-9, 4e-3)

    def test_importing_the_room_imports_no_framework(self):
        code = (
            "import sys, multismooth.demo; print({'torch', 'jax', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

    def test_missing_packages_are_all_named_with_the_remedy(self, monkeypatch):
        monkeypatch.setattr(demo, "find_spec", lambda name: None if name in ("flax", "mlxtend") else object())
        expected = r'needs flax, mlxtend, not installed here: pip install "multismooth\[demo\]"'
        with pytest.raises(ModuleNotFoundError, match=expected):
            demo.run(Settings.of("mnist"), "nowhere")

    @pytest.mark.parametrize(
        ("value", "text"), [(1e-9, "1e-9"), (7.94e-14, "7.9e-14"), (0.0, "0"), (float("nan"), "nan"), (25.0, "2.5e1")]
    )
    def test_scientific(self, value, text):
        assert scientific(value) == text
