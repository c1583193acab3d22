"""The named conventions: each does what was recorded of its library, and no other entry would do."""

import subprocess
import sys
from dataclasses import fields, replace

import coming_from
import numpy as np
import pytest
from adapters import NUMPY
from formulas import FORMULAS, Z_LOSSES, difference
from golden_cases import TIES, behind, cases

import multismooth
from multismooth import Convention, conventions, loss
from multismooth.convention import CHOICES
from multismooth.registry import aliases, resolve, unexpressed

# Recorded cases that stand behind no name: sigmoid losses, and what `unexpressed` or another name says already.
NAMELESS = {
    "classyvision-mean_ignore",
    "keras-jax-binary",
    "keras-tensorflow-binary",
    "mmpretrain-multi_label",
    "mxnet-multi_output_ignores_alpha",
    "nvidia-deeplearningexamples-effdet_focal_gamma0_alpha0.5",
    "optax-sigmoid",
    "paddlepaddle-unsmoothed_ignore_mean",
    "tensorflow-v1-losses-SUM_OVER_BATCH_SIZE",
    "tensorflow-v1-losses-sigmoid",
    "timm-BinaryCrossEntropy",
    "timm-BinaryCrossEntropy_sum_classes",
    "ultralytics-smooth_bce",
}

# --- names and records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIES)
def test_a_name_does_what_was_recorded_of_its_library(name):
    assert behind(name)
    for case in behind(name):
        assert case.reproduced(NUMPY, conventions[name]), (str(case), case.difference(NUMPY, conventions[name]))


def test_every_recorded_case_stands_behind_a_name():
    used = {str(case) for name in TIES for case in behind(name)}
    assert {str(case) for case in cases().values()} - used == NAMELESS


def test_every_name_has_a_record_or_a_formula():
    assert not set(TIES) & set(FORMULAS)
    assert set(TIES) | set(FORMULAS) == set(conventions)
    assert len(conventions) >= 45


def changes(convention):
    """Every (field, other value) of a convention that means something else."""
    for name, choices in CHOICES.items():
        yield from ((name, value) for value in choices if value != getattr(convention, name))
    for field in ("smooth_denominator", "z_loss_denominator"):
        same = (getattr(convention, field), convention.denominator)
        yield from ((field, value) for value in (None, *CHOICES["denominator"]) if value not in same)
    yield "exclude", () if convention.exclude else (1,)
    yield "denominator_add", convention.denominator_add + 1
    yield "denominator_floor", 100.0
    yield "scale", 2.0


def noticed(name, **change):
    """Whether a changed entry disagrees with a record of its library, or refuses to be called as it was."""
    changed = replace(conventions[name], **change)
    try:
        return not all(case.reproduced(NUMPY, changed) for case in behind(name))
    except ValueError as error:
        return str(error).startswith(("`normalizer`", "`prior`"))


@pytest.mark.parametrize("name", ["torch", "fastai"])
def test_records_with_everything_notice_every_change_of_every_field(name):
    tried = [change for change in changes(conventions[name]) if change[0] != "z_loss_denominator"]
    meaningful = {f.name for f in fields(Convention) if f.compare}
    assert {field for field, _ in tried} == meaningful - {"z_loss_denominator"}
    assert [(field, value) for field, value in tried if not noticed(name, **{field: value})] == []


def exercised(name):
    """The fields that the records of a library exercise: a wrong entry there must be noticed."""
    chosen = behind(name)
    yield from ("spread", "exclude", "smoothing_map", "scale")
    if any(case.loss is not None for case in chosen):  # the gradient of "kl" is that of the cross-entropy
        yield "objective"
    if any(case.params.get("class_weight") for case in chosen):
        yield "class_weights"
    if any(case.params.get("ignore", [""])[0] == "value" for case in chosen):
        yield "ignore_scope"


@pytest.mark.parametrize("name", TIES)
def test_a_wrong_entry_is_noticed(name):
    wanted = set(exercised(name))
    missed = [
        change for change in changes(conventions[name]) if change[0] in wanted and not noticed(name, **dict([change]))
    ]
    assert missed == []


def averaged(name):
    """Whether a record of the library is a mean by a denominator that the library itself counted."""
    chosen = [case for case in behind(name) if case.params.get("reduction", "mean") == "mean"]
    return any(isinstance(case.params.get("denominator", "valid"), str) for case in chosen)


@pytest.mark.parametrize("name", [name for name in TIES if averaged(name)])
def test_a_wrong_denominator_is_noticed(name):
    other = "all" if conventions[name].denominator == "classes" else "classes"
    assert noticed(name, denominator=other)
    if conventions[name].denominator != "caller":
        assert noticed(name, smooth_denominator=other)
        assert noticed(name, denominator_add=1.0)
        assert noticed(name, denominator_floor=100.0)


SQUARED = [name for name in TIES if any(case.params.get("z_loss") for case in behind(name))]


def test_a_wrong_denominator_of_the_z_loss_is_noticed():
    """Class weights tell all of them apart, but for what sample weights, which Liger has not, do."""
    assert SQUARED == ["liger", "flash-attn", "t5x"]
    others = [value for field, value in changes(conventions["liger"]) if field == "z_loss_denominator"]
    assert [value for value in others if not noticed("liger", z_loss_denominator=value)] == ["nonzero"]
    for value in ("all", "classes"):
        assert noticed("flash-attn", z_loss_denominator=value)


def test_records_with_a_z_loss_have_class_weights_and_ignored_labels():
    chosen = [case for case in behind("liger") if case.params.get("z_loss")]
    assert {case.params["reduction"] for case in chosen if case.params.get("class_weight")} == {"mean", "sum", "none"}
    assert all(case.params["target"] == "targets_ignored" for case in chosen)


# --- libraries without a record: their formulas ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_without_a_record_has_its_formula(name):
    assert difference(name) < 1e-14


@pytest.mark.parametrize("name", Z_LOSSES)
def test_the_z_loss_of_a_name_without_a_record_has_its_formula(name):
    assert difference(name, z_loss=0.1) < (1e-6 if conventions[name].denominator_add else 1e-14)
    assert difference(name, replace(conventions[name], z_loss_denominator="classes"), z_loss=0.1) > 1e-3


@pytest.mark.parametrize("name", FORMULAS)
def test_another_formula_would_be_noticed(name):
    own = conventions[name]
    assert difference(name, replace(own, spread={"all": "others", "others": "all"}[own.spread])) > 1e-3
    assert difference(name, replace(own, scale=1.001)) > 1e-4


# --- the mapping ----------------------------------------------------------------------------------------------------


def test_the_entries_are_named_sourced_and_read_only():
    for name, convention in conventions.items():
        assert convention.name == name
        assert name == "others" or convention.source.split()[1][0].isalnum(), name
        assert name == "others" or "." in convention.source.rpartition("/")[2], name
        assert not convention.notes or convention.notes.endswith("."), name
        assert "\n" not in convention.source + convention.notes, name
    with pytest.raises(TypeError):
        conventions["mine"] = conventions["torch"]


def test_the_versions_of_one_library_that_differ_are_told_apart():
    pairs = [
        ("fairseq", "fairseq-0.10"), ("fairseq", "fairseq-nat"), ("opennmt-py", "opennmt-py-2"),
        ("transformers", "transformers-flax"), ("speechbrain", "speechbrain-kldiv"), ("espnet", "espnet-chainer"),
        ("espnet", "espnet-rnn"), ("sockeye", "sockeye-fairseq"), ("nemo", "nemo-nll"), ("praxis", "praxis-gshard"),
        ("mmpretrain", "mmpretrain-classy"), ("keras", "keras-weighted"), ("tensorflow-v1", "keras"),
    ]  # fmt: skip
    assert [pair for pair in pairs if conventions[pair[0]] == conventions[pair[1]]] == []


def test_aliases_lead_to_names():
    assert {aliases["hf"], aliases["pytorch"], aliases["flax"]} == {"transformers", "torch", "flax-examples"}
    for alias, name in aliases.items():
        assert alias not in conventions
        assert resolve(alias) is conventions[name]
    z = np.array([[1.0, -2.0, 0.5]])
    assert loss(z, np.array([1]), convention="hf") == loss(z, np.array([1]), convention="transformers")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("fairsek", "fairseq"), ("Torch", "torch"), ("Huggingface", "huggingface"), ("mm-pretrain", "mmpretrain")],
)
def test_an_unknown_name_suggests_the_nearest(written, meant):
    with pytest.raises(ValueError, match=f"`convention`: .* got '{written}'. Did you mean '{meant}'"):
        resolve(written)


@pytest.mark.parametrize("thing", ["????", 3, None, [0.1]])
def test_what_is_near_to_nothing_gets_the_list(thing):
    with pytest.raises(ValueError, match=f"All {len(conventions)} names: list"):
        resolve(thing)


def test_what_cannot_be_expressed_says_why():
    assert not set(unexpressed) & (set(conventions) | set(aliases))
    for name, why in unexpressed.items():
        with pytest.raises(ValueError, match="`convention`") as caught:
            resolve(name)
        assert why in str(caught.value)
        assert len(why.split()) >= 6


def test_the_registry_needs_the_standard_library_only():
    code = "import sys, multismooth.registry; print(*{'numpy', 'torch', 'jax', 'array_api_compat'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.thorough
def test_the_page_of_equivalents_is_up_to_date():
    """`python tests/support/coming_from.py` writes it."""
    page = coming_from.page()
    assert coming_from.PAGE.read_text(encoding="utf-8") == page
    for name in conventions:
        assert f'convention="{name}"' in page, name
    callers = {name for name, convention in conventions.items() if convention.denominator == "caller"}
    assert set(coming_from.CALLER) <= callers


def test_private_conventions_are_registered_for_a_while():
    mine = multismooth.Convention(name="mine", denominator="all", spread="others")
    with multismooth.register(mine) as registered:
        assert registered is mine
        assert multismooth.conventions["mine"] is mine
        loss = multismooth.loss(np.zeros((2, 3)), np.array([0, 1]), convention="mine")
        assert abs(loss - np.log(3)) < 1e-12
        with multismooth.register(mine):
            pass
        assert "mine" in multismooth.conventions
    assert "mine" not in multismooth.conventions
    for wrong in (multismooth.Convention(), "mine", multismooth.Convention(name="torch", spread="others")):
        with pytest.raises(ValueError, match="`convention`"):
            multismooth.register(wrong)
