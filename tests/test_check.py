"""parity.check and parity.compare: what they tell apart, what they say, and what they never do."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from requirements import need

import multismooth
from multismooth import Convention, conventions, parity
from multismooth.convention import CHOICES
from multismooth.parity.checking.cases import ARGUMENT_CASES, Domain, separating_cases, standard_cases
from multismooth.parity.checking.subjects import Reference
from multismooth.parity.checking.trials import TRIAL_NAMES
from multismooth.testing import assert_matches_convention

pytestmark = pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def by_all_rows(z, y):
    """Label smoothing with padding −100, divided by all rows; (loss, gradient)."""
    n, k = z.shape
    counted = y != -100
    if ((y[counted] < 0) | (y[counted] >= k)).any():
        raise IndexError("no such class")
    q = (0.9 * np.eye(k)[np.where(counted, y, 0)] + 0.1 / k) * counted[:, None]
    log_p = log_softmax(z)
    return -(q * log_p).sum() / n, (np.exp(log_p) * counted[:, None] - q) / n


# --- the cases --------------------------------------------------------------------------------------------------------


def answers(convention, cases):
    """{case: loss and gradient} of a convention, as far as it takes them."""
    settings = {"convention": convention, "label_smoothing": 0.1, "reduction": "mean", "ignore_index": -100}
    settings |= {"normalizer": 3.0 if convention.denominator == "caller" else None, "z_loss": 0.0}
    found = {}
    for number, case in enumerate(cases):
        try:
            answer = Reference(settings, None).answer(case)
        except ValueError:  # spread "others" takes no prior
            continue
        found[number] = np.append(answer.gradient.ravel(), answer.loss)
    return found


def furthest(a, b):
    gaps = (np.abs(a[i] - b[i]).max() / np.abs(a[i]).max() for i in a.keys() & b.keys() if a[i].shape == b[i].shape)
    return max(gaps)


def test_the_cases_tell_every_pair_of_registry_conventions_apart(capsys):
    domain = Domain(5, forbidden_labels=frozenset({0}), ignore_index=-100)
    cases = list(separating_cases(domain))
    different = {convention: name for name, convention in conventions.items()}
    found = {name: answers(convention, cases) for convention, name in different.items()}
    gaps = {(a, b): furthest(found[a], found[b]) for a, b in combinations(found, 2)}
    nearest = min(gaps, key=gaps.get)
    assert len(gaps) >= 300
    assert gaps[nearest] > 1e-3, (nearest, gaps[nearest])
    with capsys.disabled():
        print(f"\n  {len(gaps)} pairs of conventions, the nearest differs by {gaps[nearest]:.2g}", end=" ")


def test_the_cases_tell_what_a_z_loss_divides_by():
    """Two conventions that differ in nothing else, of a loss that takes class weights, sample weights and a z_loss."""
    domain = Domain(5, ignore_index=-100, accepts=("weight", "sample_weight", "z_loss"))
    cases = list(standard_cases(domain))
    kinds = [kind for kind in CHOICES["denominator"] if kind != "caller"]
    found = {kind: answers(Convention(z_loss_denominator=kind), cases) for kind in kinds}
    for a, b in combinations(kinds, 2):
        assert furthest(found[a], found[b]) > 1e-3, (a, b)
    # without sample weights, which few losses take, class weights and ignored labels tell all but one pair
    cases = list(standard_cases(replace(domain, accepts=("weight", "z_loss"))))
    found = {kind: answers(Convention(z_loss_denominator=kind), cases) for kind in kinds}
    alike = [pair for pair in combinations(kinds, 2) if furthest(*(found[kind] for kind in pair)) < 1e-3]
    assert alike == [("counted", "nonzero")]


def test_the_standard_cases_tell_what_needs_no_weights_apart():
    cases = list(standard_cases(Domain(5, forbidden_labels=frozenset({0}), ignore_index=-100)))
    names = [
        "torch",
        "others",
        "keras",
        "optax-kl",
        "torch-kl-div-mean",
        "mmpretrain-classy",
        "optax-one-hot",
        "marian",
    ]
    found = {name: answers(conventions[name], cases) for name in names}
    for a, b in combinations(names, 2):
        assert furthest(found[a], found[b]) > 1e-3, (a, b)


def test_every_case_is_the_same_in_every_dtype():
    for case in separating_cases(Domain(5, ignore_index=-100)):
        z = case.logits[np.isfinite(case.logits)]
        np.testing.assert_array_equal(z, z.astype(np.float16))
        assert np.abs(z).max() * 16 < 2**8, "bfloat16 has 8 bits"


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_advice_names_the_denominators_with_their_numbers():
    report = parity.check(by_all_rows, "torch")
    assert not report
    assert report.first.trial == "values"
    assert "ignored labels" in report.first.case
    assert report.advice[0] == (
        "fn divides by all 12 elements, the 5 ignored ones included; the reference by the 7 counted elements: "
        "divide by (labels != -100).sum()"
    )
    assert "optax, keras" in report.advice[1]
    assert report.identified[0].convention.denominator == "all"
    assert parity.check(by_all_rows, "keras", ignore_index=-100)


@pytest.mark.thorough
def test_the_advice_says_what_the_z_losses_divide_by():
    weight = np.array([0.25, 4.0, 1.0, 0.5, 8.0])
    settings = {"weight": weight, "z_loss": 0.01, "framework": "numpy"}
    of_torch = partial(multismooth.numpy.loss_and_grad, weight=weight, z_loss=0.01)
    report = parity.check(of_torch, "liger", **settings)
    assert not report
    assert report.advice[0].endswith(
        "divides its lse² by the summed class weights of the counted labels (their number, without weights); "
        "the reference by the 7 counted elements: divide by (labels != -100).sum()"
    )
    of_liger = partial(of_torch, convention="liger")
    assert parity.check(of_liger, "liger", **settings)
    told = str(parity.check(of_liger, "torch", **settings))
    assert "divides its lse² by the 7 counted elements; the reference by the summed class weights" in told
    assert "divide by weight[labels].sum() over the counted elements" in told
    ported = parity.compare(of_torch, of_liger, ignore_index=-100, num_classes=5)
    assert any("divides its lse² by" in sentence for sentence in ported.advice)
    assert "z_loss_denominator" not in str(parity.check(of_torch, "keras", ignore_index=-100, **settings).advice)


def executed(report, **names):
    """What the pasted code prints."""
    output = io.StringIO()
    with redirect_stdout(output):
        exec(report.code, names)
    return output.getvalue()


@pytest.mark.thorough
@pytest.mark.parametrize("framework", ["torch", "jax", "numpy"])
def test_the_smallest_case_runs_and_shows_the_difference(framework):
    need(framework)
    backend = getattr(multismooth, framework)
    fn = partial(backend.loss if framework != "numpy" else backend.loss_and_grad, label_smoothing=0.2)
    report = parity.check(fn, "torch", framework=framework)
    first, second = (line for line in executed(report, fn=fn).split("\n") if "[[" in line)
    assert first != second
    assert "label_smoothing=0.1" in report.code
    assert "pass label_smoothing=0.1 to fn" in str(report)


def test_the_smallest_case_is_small_and_fails():
    def last_row_forgotten(z, y):
        n = len(y) - len(y) % 2
        loss, gradient = multismooth.numpy.loss_and_grad(z[:n], y[:n])
        return loss, np.concatenate([gradient, 0 * z[n:]])

    report = parity.check(last_row_forgotten, "torch")
    logits = {}
    exec("\n".join(line for line in report.code.split("\n") if line.startswith(("import numpy", "logits"))), logits)
    assert logits["logits"].shape == (1, 2)
    assert not logits["logits"].any()
    assert "on ordinary problems" in str(report) or report.advice


def test_a_report_reads_as_text_html_and_json():
    report = parity.check(by_all_rows, "torch")
    page, plain = report._repr_html_(), json.loads(report.to_json())
    assert str(report).startswith("by_all_rows does not agree with torch") or "by_all_rows does not agree" in str(
        report
    )
    assert "<details>" in page
    assert "&lt;" not in page.split("<pre>")[0]
    assert plain["passed"] is False
    assert plain["first"] == str(report.first)
    assert len(plain["outcomes"]) == len(report.outcomes)
    assert plain["identified"][0]["names"]
    with pytest.raises(AssertionError, match="divides by all 12 elements"):
        report.raise_if_failed()
    agreeing = parity.check(by_all_rows, "keras", ignore_index=-100)
    agreeing.raise_if_failed()
    assert agreeing.code == ""
    assert agreeing.first is None
    assert json.loads(agreeing.to_json())["passed"] is True


def test_reports_are_the_same_in_every_run():
    first, second = (parity.check(by_all_rows, "others") for _ in range(2))
    assert str(first) == str(second)
    assert first.to_json() == second.to_json()
    assert " at 0x" not in str(first)


def test_other_suites_assert_with_one_call():
    assert_matches_convention(by_all_rows, "keras", ignore_index=-100)
    with pytest.raises(AssertionError, match="The smallest failing case"):
        assert_matches_convention(by_all_rows, "torch")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_whatever_a_loss_accepts_is_varied(framework):
    need(framework)
    loss = getattr(multismooth, framework).loss
    report = parity.check(loss, accepts=ARGUMENT_CASES, framework=framework, strict=True)
    assert report, str(report)
    for argument in ARGUMENT_CASES:
        assert any(argument in outcome.case for outcome in report.outcomes), argument


def test_pytorchs_own_loss_passes_and_what_it_gets_wrong_is_remarked():
    functional = need("torch").nn.functional
    accepts = ("weight", "label_smoothing", "ignore_index", "reduction")
    report = parity.check(functional.cross_entropy, "torch", accepts=accepts)
    assert report, str(report)
    remarks = {outcome.trial for outcome in report.outcomes if outcome.status == "remark"}
    assert remarks == {"nothing counted", "ignored NaN"}
    assert not parity.check(functional.cross_entropy, "torch", accepts=accepts, strict=True)
    assert parity.check(
        functional.cross_entropy, "torch", accepts=accepts, strict=True, skip=["nothing counted", "ignored NaN"]
    )


@pytest.mark.thorough
def test_fixed_weights_masks_and_priors_fix_the_number_of_classes():
    weight, mask = np.array([0.5, 2.0, 1.0, 4.0]), np.array([True, True, False, True])
    prior = np.array([0.25, 0.5, 0.125, 0.125])
    for settings in (
        {"weight": weight},
        {"class_mask": mask},
        {"prior": prior},
        {"weight": weight, "class_mask": mask},
    ):
        fn = partial(multismooth.numpy.loss_and_grad, **settings)
        assert parity.check(fn, **settings), settings
        assert not parity.check(fn, num_classes=4), settings
    report = parity.check(partial(multismooth.numpy.loss_and_grad, class_mask=mask), class_mask=mask)
    assert sum(outcome.trial == "masked" for outcome in report.outcomes) == 2


@pytest.mark.thorough
def test_a_denominator_that_only_the_caller_knows_is_asked_for():
    fn = partial(multismooth.numpy.loss_and_grad, convention="marian", normalizer=3.0)
    with pytest.raises(ValueError, match=r"`normalizer`: .*sentences"):
        parity.check(fn, "marian")
    assert parity.check(fn, "marian", normalizer=3.0)

    def by_sentences(z, y):
        rows, _ = y.shape
        return multismooth.numpy.loss_and_grad(z, y, convention="marian", normalizer=float(rows), axis=-1)

    assert parity.check(by_sentences, "marian", normalizer="sentences")
    assert not parity.check(by_sentences, "marian", normalizer=3.0)


def test_one_number_of_classes_can_be_asked_for():
    def only(z, y):
        if z.shape[1] != 5:
            raise ValueError(f"{z.shape[1]} classes")
        return multismooth.numpy.loss_and_grad(z, y)

    report = parity.check(only, "torch")
    assert "pass num_classes=" in str(report)
    assert parity.check(only, "torch", num_classes=5)


def test_jax_losses_are_compiled_and_where_asked_also_run_eagerly():
    jax = need("jax")

    def two_faced(z, y):
        log_p = jax.nn.log_softmax(z)
        loss = -(0.9 * jax.numpy.take_along_axis(log_p, y[:, None], 1, mode="fill").mean() + 0.1 * log_p.mean())
        return loss if isinstance(y, jax.core.Tracer) else 2 * loss

    skip = ["nothing counted", "bad labels", "upstream"]  # "upstream" runs eagerly anyway
    assert parity.check(two_faced, framework="jax", ignore_index=None, skip=skip)
    report = parity.check(two_faced, framework="jax", ignore_index=None, skip=skip, compile=True)
    assert [o.trial for o in report.outcomes if o.status == "fail"] == ["compiled"]
    assert parity.check(multismooth.jax.loss, framework="jax", compile=True)


def test_torch_compile_is_tried_where_asked(monkeypatch):
    torch = need("torch")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # Inductor's C++ takes 10 s

    def two_faced(z, y):
        loss = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)
        return 2 * loss if torch.compiler.is_compiling() else loss

    assert parity.check(two_faced, "torch")
    report = parity.check(two_faced, "torch", compile=True)
    assert report.first.trial == "compiled"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"convention": "touch"}, "Did you mean 'torch'"),
        ({"accepts": ["wieght"]}, "`accepts`: expected names out of weight"),
        ({"skip": "valuse"}, "`skip`: expected names out of values"),
        ({"label_smoothing": 1.5}, "`label_smoothing`"),
        ({"reduction": "avg"}, "`reduction`"),
        ({"framework": "tf"}, "`framework`"),
        ({"weight": np.ones(4), "num_classes": 5}, "`weight`"),
        ({"prior": np.ones(5)}, "`prior`"),
    ],
)
def test_bad_settings_are_complained_of_by_name(arguments, text):
    with pytest.raises(ValueError, match=text):
        parity.check(by_all_rows, **arguments)


def test_what_cannot_be_called_says_what_was_tried():
    with pytest.raises(ValueError, match=r"`fn`: (?s:.)*K = 5: TypeError"):
        parity.check(lambda z: z, framework="numpy")


def test_values_and_gradients_come_from_one_call():
    def calls(*trials):
        made = []

        def counting(z, y):
            made.append(z.shape)
            return by_all_rows(z, y)

        parity.check(counting, "keras", ignore_index=-100, skip=[name for name in TRIAL_NAMES if name not in trials])
        return len(made)

    assert calls("values", "gradients") == calls("values") > calls()


def test_every_trial_can_be_skipped():
    report = parity.check(by_all_rows, "others", skip=TRIAL_NAMES)
    assert report
    assert {outcome.status for outcome in report.outcomes} == {"skip"}


# --- two ports --------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_ports_of_two_frameworks_agree_or_are_told_apart():
    torch, jax = need("torch"), need("jax")

    def original(z, y):
        return torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1, ignore_index=1)

    def port(z, y):
        q = jax.nn.one_hot(y, z.shape[-1]) * (0.9 - 0.1 / (z.shape[-1] - 1)) + 0.1 / (z.shape[-1] - 1)
        return (-(q * jax.nn.log_softmax(z)).sum(-1) * (y != 1)).mean()

    right = partial(multismooth.jax.loss, ignore_index=1)
    assert parity.compare(original, right, ignore_index=1, frameworks=("torch", "jax"))
    report = parity.compare(port, original, ignore_index=1, frameworks=("jax", "torch"))
    text = str(report)
    assert not report
    assert len(report.identified) == 2
    assert "over the K − 1 others" in text
    assert "pass label_smoothing=0.08 to port" in text
    assert "divides by all 12 elements" in text
    assert "fn_a(z, y)" in report.code
    assert "loss = fn_b(z" in report.code


@pytest.mark.thorough
def test_a_label_that_only_one_port_ignores_is_found_without_being_told():
    ignoring = partial(multismooth.numpy.loss_and_grad, validate=False)
    counting = partial(multismooth.numpy.loss_and_grad, ignore_index=None, validate=False)
    report = parity.compare(ignoring, counting)
    assert "-100" in str(report)
    assert any(outcome.trial == "bad labels" and outcome.status != "pass" for outcome in report.outcomes)


def test_a_stranger_is_called_one():
    def focal(z, y):
        log_p = log_softmax(z)[np.arange(len(y)), y]
        return -((1 - np.exp(log_p)) ** 2 * log_p).mean()

    report = parity.check(focal, "torch", ignore_index=None, skip=["bad labels"])
    assert "fn is of no convention: focal loss" in str(report)
    report = parity.compare(by_all_rows, focal)
    assert "focal is of no convention: focal loss" in str(report)
    assert "by_all_rows as it is" in str(report)


def test_a_convention_without_a_name_is_written_out():
    convention = Convention(denominator="all", class_weights="target")
    report = parity.check(by_all_rows, convention, label_smoothing=0.3, ignore_index=-100)
    assert "convention=Convention(class_weights='target', denominator='all')" in report.code
    assert executed(report, fn=by_all_rows)
