"""doctor: what it finds on a machine, and that it notices what is off."""

import json
from contextlib import nullcontext
from functools import partial

import pytest
from requirements import need

import multismooth
from multismooth.parity import doctor


def invoke(*arguments):
    need("typer")
    from typer.testing import CliRunner

    from multismooth.cli import app

    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, list(arguments))


@pytest.fixture
def quick(monkeypatch):
    """One convention, and NumPy alone."""
    monkeypatch.setattr(doctor, "CONVENTIONS", ("torch",))
    versions = {name: "not installed: " for name in doctor.INSTALL_WITH if name != "numpy"}
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: versions.get(package) or version(package))


def test_doctor_lists_and_checks(quick):
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for text in ("python", "torch", "not installed", "float64", "agrees"):
        assert text in result.output
    plain = json.loads(invoke("doctor", "--json").stdout)
    assert plain["agrees"] is True
    assert plain["versions"]["numpy"]
    assert {row["backend"] for row in plain["rows"]} == {"numpy"}


def test_doctor_notices_a_backend_that_is_off(quick, monkeypatch):
    right = multismooth.numpy.loss_and_grad
    monkeypatch.setattr(doctor, "_backends", lambda versions: [("numpy", "cpu", partial(wrong, right), nullcontext)])
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "differs" in result.output
    assert "numpy on cpu, torch: values" in result.output


def wrong(right, z, y, **settings):
    loss, gradient = right(z, y, **settings)
    return loss * (1 + 1e-9), gradient


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModuleNotFoundError("gone", name="torch"), 'not installed: pip install "multismooth[torch]"'),
        (ModuleNotFoundError("no libfoo", name="libfoo"), "broken: no libfoo"),
        (OSError("a library is missing"), "broken: OSError: a library is missing"),
        (None, "present, without a version"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_package(monkeypatch, error, text):
    def load(name):
        if error:
            raise error
        raise doctor.PackageNotFoundError

    monkeypatch.setattr(doctor, "import_module", load)
    assert doctor._version("torch") == text


def place(monkeypatch, *losses):
    monkeypatch.setattr(doctor, "_backends", lambda versions: [("numpy", "cpu", loss, nullcontext) for loss in losses])


def test_a_device_that_cannot_compute_does_not_hide_the_others(quick, monkeypatch):
    def broken(z, y, **settings):
        raise RuntimeError("no kernel for this device")

    place(monkeypatch, broken, multismooth.numpy.loss_and_grad)
    found = doctor.survey()
    assert not found
    assert len(found.failures) == 1
    assert "no kernel for this device" in found.failures[0]
    assert [row.dtype for row in found.rows if row.agrees][:1] == ["float64"]


def test_a_row_differs_where_a_failure_has_no_size(quick, monkeypatch):
    right, calls = multismooth.numpy.loss_and_grad, []

    def restless(z, y, **settings):
        calls.append(z)
        loss, gradient = right(z, y, **settings)
        return loss * (1 + len(calls) % 2 * 2**-52), gradient

    place(monkeypatch, restless)
    found = doctor.survey()
    assert "repeat" in found.failures[0]
    row = next(row for row in found.rows if row.dtype == "float64")
    assert row.error <= row.tolerance
    assert not row.agrees


def test_an_infinite_error_is_json(quick, monkeypatch):
    right = multismooth.numpy.loss_and_grad

    def undefined(z, y, **settings):
        loss, gradient = right(z, y, **settings)
        return loss * (float("nan") if settings.get("weight") is not None else 1), gradient

    place(monkeypatch, undefined)
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    plain = json.loads(result.stdout, parse_constant=pytest.fail)
    assert plain["rows"][0]["error"] == "inf"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("framework", "ways"),
    [
        ("torch", {"3 processes, classes", "3 processes, elements"}),
        ("jax", {"3 devices, shard_map", "3 devices, jit"}),
    ],
)
def test_a_world_splits_the_classes_over_devices_of_its_own(framework, ways, monkeypatch):
    need(framework)
    place(monkeypatch)  # nothing beside the world
    monkeypatch.setattr(doctor, "WORLDS", {framework: doctor.WORLDS[framework]})
    found = doctor.survey(quick=True, world=3)
    assert found, found.failures
    assert {row.device for row in found.rows} == ways
    assert sum(row.cases for row in found.rows if row.dtype == "float64") > 50


def test_a_world_that_cannot_start_is_a_failure(monkeypatch):
    need("jax")
    place(monkeypatch)
    monkeypatch.setattr(doctor, "WORLDS", {"jax": "multismooth.parity.absent"})
    found = doctor.survey(quick=True, world=2)
    assert "jax, split over 2: " in found.failures[0]
    assert "multismooth.parity.absent" in found.failures[0]


def test_jax_is_asked_for_its_devices(monkeypatch):
    class Jax:
        def devices(self):
            raise RuntimeError("unknown platform")

    monkeypatch.setattr(doctor, "import_module", lambda name: Jax())
    assert doctor._version("jax") == "broken: RuntimeError: unknown platform"


@pytest.mark.thorough
def test_quick_is_one_convention_and_ends_in_a_verdict(monkeypatch):
    steps = []
    found = doctor.survey(on_step=lambda text, done, total: steps.append((done, total)), quick=True)
    assert found, found.failures
    assert found.verdict.startswith("everything agrees: ")
    assert [done for done, _ in steps] == list(range(steps[0][1]))
    assert len({(row.backend, row.device) for row in found.rows}) == len(steps)
    failing = doctor.Survey({}, found.rows, ("one",))
    assert failing.verdict.startswith("1 of the checks on ")
