"""Conventions as values: equality by meaning, JSON, and the laws of target rows and of converting ε."""

import json
from dataclasses import asdict, fields, replace
from math import isclose

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multismooth import Convention, SmoothingError, conventions, loss, smooth_targets
from multismooth.convention import CHOICES, DIVIDES_BY

INFORMS = {"name": "x", "ignore_index": 7, "source": "x", "notes": "x"}
NAMES = sorted(conventions)

values = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from(choices) for name, choices in CHOICES.items()}
    | {
        "name": st.text(),
        "notes": st.text(),
        "exclude": st.lists(st.integers(0, 9), max_size=3).map(tuple),
        "smooth_denominator": st.none() | st.sampled_from(CHOICES["denominator"]),
        "z_loss_denominator": st.none() | st.sampled_from(CHOICES["denominator"]),
        "denominator_add": st.floats(0, 1),
        "denominator_floor": st.none() | st.floats(0, 10),
        "scale": st.floats(0.01, 100),
        "ignore_index": st.none() | st.integers(-100, 100),
    },
)
drawn = values.map(lambda chosen: Convention(**chosen))
named = st.sampled_from(NAMES).map(conventions.__getitem__)
smoothing = st.floats(0, 1)
classes = st.integers(4, 40000) | st.integers(4, 12)

# --- equality -------------------------------------------------------------------------------------------------------


def test_what_only_informs_takes_no_part_in_equality():
    assert {f.name for f in fields(Convention) if not f.compare} == set(INFORMS)
    for convention in conventions.values():
        twin = replace(convention, **INFORMS)
        assert twin == convention
        assert hash(twin) == hash(convention)


def test_every_other_field_makes_a_difference():
    torch = conventions["torch"]
    others = {name: choices[-1] for name, choices in CHOICES.items()} | {
        "exclude": (1,), "smooth_denominator": "all", "z_loss_denominator": "counted", "denominator_add": 1.0,
        "denominator_floor": 1.0, "scale": 2.0,
    }  # fmt: skip
    assert {f.name for f in fields(Convention) if f.compare} == set(others)
    for name, value in others.items():
        assert replace(torch, **{name: value}) != torch, name


def test_two_ways_to_say_the_same_are_equal():
    assert Convention(exclude=(3, 0, 3)) == Convention(exclude=[0, 3])
    for term in ("smooth_denominator", "z_loss_denominator"):
        assert Convention(**{term: "all"}, denominator="all") == Convention(denominator="all")
        assert Convention(**{term: "all"}, denominator="caller") == Convention(denominator="caller")
    assert Convention(scale=1) == Convention()
    assert len({Convention(exclude=(np.int64(2), 1)), Convention(exclude=(1, 2))}) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in CHOICES for value in ("torch", None, ["all"])]
    + [("smooth_denominator", "rows"), ("z_loss_denominator", "rows"), ("z_loss_denominator", 1), ("exclude", (-1,))]
    + [("exclude", "0"), ("exclude", (0.5,)), ("exclude", (True,))]
    + [("scale", float("nan")), ("scale", None), ("denominator_add", float("inf")), ("denominator_floor", "1")]
    + [("exclude", 3), ("ignore_index", "0"), ("ignore_index", 0.5), ("ignore_index", True), ("scale", True)],
)
def test_a_value_that_no_convention_has_is_refused(field, value):
    with pytest.raises(ValueError, match=f"`Convention.{field}`: expected .* got "):
        Convention(**{field: value})


# --- JSON -----------------------------------------------------------------------------------------------------------


@given(drawn | named)
def test_json_keeps_every_field(convention):
    back = Convention.from_json(convention.to_json())
    assert back == convention
    assert asdict(back) == asdict(convention)
    assert set(json.loads(convention.to_json())) == {f.name for f in fields(Convention)}


def test_json_of_numpy_numbers():
    convention = Convention(
        exclude=(np.int64(2),), scale=np.float32(0.5), denominator_floor=np.int32(1), ignore_index=np.int64(0)
    )
    assert Convention.from_json(convention.to_json()) == convention


def test_json_without_a_field_has_its_default():
    assert Convention.from_json('{"spread": "others"}') == conventions["others"]
    for convention in conventions.values():  # as it was written before the z-loss had a denominator of its own
        values = json.loads(convention.to_json())
        del values["z_loss_denominator"]
        assert Convention.from_json(json.dumps(values)) == replace(convention, z_loss_denominator=None)


def test_an_unknown_field_is_an_error_that_names_it():
    text = json.dumps(json.loads(conventions["torch"].to_json()) | {"temperature": 2, "flavour": "sour"})
    with pytest.raises(ValueError, match=r"`text`: expected the fields name, spread, .* got also 'temperature', 'flav"):
        Convention.from_json(text)


@pytest.mark.parametrize("text", ["", "torch", "[]", "3", '"torch"', "null", None, '{"spread": '])
def test_what_is_no_object_is_an_error(text):
    with pytest.raises(ValueError, match=r"`text`: expected a JSON object, as from Convention.to_json\(\)"):
        Convention.from_json(text)


def test_json_with_a_wrong_value_is_an_error():
    with pytest.raises(ValueError, match=r"`Convention.spread`: expected one of 'all', 'others'; got 'prior'"):
        Convention.from_json('{"spread": "prior"}')


# --- rows and conversions -------------------------------------------------------------------------------------------


@given(convention=drawn | named, eps=smoothing, k=classes, label=st.integers(0, 3))
def test_a_target_row_is_a_distribution(convention, eps, k, label):
    if convention.receivers(k) < 2:
        convention = replace(convention, exclude=())
    if convention.mass(eps, convention.receivers(k)) > 1:  # then the label owes mass: no distribution
        eps = 0.5
    row = convention.target_row(eps, k, label)
    assert len(row) == k
    assert isclose(sum(row), 1, abs_tol=1e-9)
    assert min(row) >= 0
    if label not in convention.exclude:
        assert all(row[j] == 0 for j in convention.exclude if j < k)
        assert len({q for j, q in enumerate(row) if j != label and j not in convention.exclude}) == 1


@given(convention=named, eps=st.floats(0, 0.5), k=st.integers(4, 9), label=st.integers(1, 3))
@example(Convention(spread="others", exclude=(2, 7)), 0.1, 5, 1)
def test_the_row_is_what_the_backends_compute(convention, eps, k, label):
    row = smooth_targets(np.array([label]), k, label_smoothing=eps, convention=convention)[0]
    np.testing.assert_allclose(row, convention.target_row(eps, k, label), atol=1e-15)


@given(here=named, there=named, eps=smoothing, k=classes)
@example(conventions["others"], conventions["torch"], 1.0, 5)
@example(conventions["torch"], conventions["mmpretrain-classy"], 0.5, 5)
@example(conventions["mmpretrain-classy"], conventions["others"], 1.0, 5)
def test_a_converted_epsilon_gives_equal_rows_and_comes_back(here, there, eps, k):
    if here.exclude != there.exclude:
        with pytest.raises(ValueError, match="other"):
            here.smoothing_for(there, eps, k)
        return
    try:
        converted = here.smoothing_for(there, eps, k)
    except SmoothingError:
        mass, most = (c.mass(e, c.receivers(k)) for c, e in ((here, eps), (there, 1.0)))
        assert mass > most * (1 - 1e-12)
        return
    assert 0 <= converted <= 1
    np.testing.assert_allclose(there.target_row(converted, k), here.target_row(eps, k), rtol=1e-12, atol=1e-14)
    assert isclose(there.smoothing_for(here, converted, k), eps, rel_tol=1e-12, abs_tol=1e-14)


@given(here=named, there=named, between=named, eps=st.floats(0, 0.3), k=classes)
def test_a_round_trip_through_a_third_convention_changes_nothing(here, there, between, eps, k):
    here, there, between = (replace(c, exclude=()) for c in (here, there, between))
    direct = here.smoothing_for(there, eps, k)
    assert isclose(
        between.smoothing_for(there, here.smoothing_for(between, eps, k), k), direct, rel_tol=1e-12, abs_tol=1e-14
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_same_targets_are_the_same_loss(name):
    """A port keeps its numbers when ε is converted and nothing else changes."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(8, 6)), rng.integers(1, 6, size=8)
    here = replace(conventions[name], exclude=(), denominator="all")
    for spread, smoothing_map in (("all", "identity"), ("others", "identity"), ("others", "classy")):
        there = replace(here, spread=spread, smoothing_map=smoothing_map)
        converted = here.smoothing_for(there, 0.1, 6)
        ours = loss(z, y, convention=there, label_smoothing=converted)
        assert ours == pytest.approx(loss(z, y, convention=here), rel=1e-13)


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_explain_says_what_a_convention_is(name):
    convention = conventions[name]
    text = convention.explain(0.1, 6)
    assert text.startswith(f"{name}: q = ")
    assert DIVIDES_BY[convention.denominator] in text
    assert ("Σ w q log q" in text) == (convention.objective == "kl")
    assert ("K/(K − 1)" in text) == (convention.spread == "others")
    assert ("ε/(1 + ε)" in text) == (convention.smoothing_map == "classy")
    assert convention.class_weights in text
    assert convention.notes in text
    rows = [float(line.split()[2]) for line in text.splitlines() if line.startswith("  class ")]
    np.testing.assert_allclose(sorted(rows), sorted(convention.target_row(0.1, 6, 1)), rtol=1e-3)
    meaning = ("smooth_denominator", "z_loss_denominator", "denominator_add", "denominator_floor", "scale")
    for field in ("ignore_scope", *meaning):
        differs = getattr(convention, field) != getattr(conventions["torch"], field)
        assert (f"{field} = {getattr(convention, field)}" in text) == differs


def test_explain_shortens_long_rows():
    lines = conventions["torch"].explain(0.1, 32000).splitlines()
    assert "  ... 31990 more" in lines
    assert len(lines) < 20


def test_explaining_without_a_class_for_the_mass_says_so():
    with pytest.raises(ValueError, match=r"`num_classes`: .* annotated-transformer gives nothing to class 0"):
        conventions["annotated-transformer"].explain(0.1, 1)
