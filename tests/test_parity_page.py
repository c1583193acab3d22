"""docs/parity.md: its table is what `check` does, its commands print what it says, and its test is one that passes."""

import doctest
import re
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import programs
import pytest
from requirements import need

import multismooth
from multismooth import parity
from multismooth.parity.checking.cases import ARGUMENT_CASES
from multismooth.parity.checking.trials import TRIAL_NAMES

TEXT = (Path(__file__).parents[1] / "docs" / "parity.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| `([\w ]+)` \| [^|]+ \| ([^|]+) \|$", TEXT, re.MULTILINE))
MASK = np.array([True, True, False, True])
CALLS = cycle([-np.inf, np.inf])

# --- the table: one loss for every way in which a trial may end badly -------------------------------------------------


def wrong(when=lambda z, y: True, by=1.0):
    """A loss that is right, but for what it adds on some problems."""

    def fn(z, y, **settings):
        loss, gradient = multismooth.numpy.loss_and_grad(z, y, validate=False, **settings)
        return loss + (by if when(z, y) else 0), gradient

    return fn


def other_gradient(z, y):
    loss, gradient = multismooth.numpy.loss_and_grad(z, y)
    return loss, 1.01 * gradient


def one_upstream_for_all(z, y):
    torch = need("torch")
    values, slope = multismooth.numpy.loss_and_grad(z.detach().numpy(), y.numpy())

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return torch.tensor(values)

        @staticmethod
        def backward(ctx, upstream):
            return torch.tensor(slope)

    return Loss.apply(z)


def another_bit_every_other_time(z, y):
    loss, gradient = multismooth.numpy.loss_and_grad(z, y)
    return np.nextafter(loss, next(CALLS)), gradient


def in_place(z, y):
    answer = multismooth.numpy.loss_and_grad(z, y)
    z -= z.max()
    return answer


def no_half(z, y):
    if z.dtype == np.float16:
        raise TypeError("float16")
    return multismooth.numpy.loss_and_grad(z, y)


def no_infinity(z, y):
    return multismooth.numpy.loss_and_grad(np.where(np.isneginf(z), -99, z), y)


def counted_from_the_end(z, y):
    return multismooth.numpy.loss_and_grad(z, np.where(y == -100, y, y % z.shape[1]))


def all_negatives_ignored(z, y):
    return multismooth.numpy.loss_and_grad(z, np.where((y < 0) | (y >= z.shape[1]), -100, y))


def two_faced(z, y):
    jax = need("jax")
    return multismooth.jax.loss(z, y) * (1 if isinstance(y, jax.core.Tracer) else 2)


def on_shapes(factor):
    """A loss that is right for (N, K), and else factor(z, y) times the right one."""

    def fn(z, y):
        loss, gradient = multismooth.numpy.loss_and_grad(z, y, axis=-1)
        times = factor(z, y) if z.ndim > 2 else 1
        return times * loss, times * gradient

    return fn


def on_rows(read, factor=1.0):
    """A loss that is right for labels; of rows it takes factor times the loss of what it reads in them."""

    def fn(z, y):
        rows = y.ndim == z.ndim
        loss, gradient = multismooth.numpy.loss_and_grad(z, read(y) if rows else y)
        return (factor * loss, factor * gradient) if rows else (loss, gradient)

    return fn


def in_half_precision(z, y):
    return multismooth.numpy.loss_and_grad(z.astype(np.float16), y)


def of_a_float32_number(z, y):
    return multismooth.numpy.loss_and_grad(z, y, label_smoothing=float(np.float32(0.1)))


WRONG = [
    ("values", "fail", wrong(), {}),
    ("gradients", "fail", other_gradient, {}),
    ("layouts", "fail", on_shapes(lambda z, y: 1.5), {}),
    ("layouts", "remark", on_shapes(lambda z, y: y.shape[1] / z.shape[-1]), {}),
    ("targets", "fail", on_rows(lambda rows: rows.argmax(-1)), {}),
    ("targets", "remark", on_rows(lambda rows: rows, 0.5), {}),
    ("precision", "fail", in_half_precision, {}),
    ("precision", "remark", of_a_float32_number, {"skip": ["bad labels"]}),
    ("masked", "fail", partial(wrong(lambda z, y: not np.isfinite(z).all()), class_mask=MASK), {"class_mask": MASK}),
    ("upstream", "fail", one_upstream_for_all, {"framework": "torch"}),
    ("repeat", "fail", another_bit_every_other_time, {}),
    ("untouched", "fail", in_place, {}),
    ("strided", "fail", wrong(lambda z, y: not z.flags.c_contiguous), {}),
    ("dtypes", "fail", wrong(lambda z, y: z.dtype == np.float32 and z.shape[1] > 1000), {}),
    ("dtypes", "remark", no_half, {}),
    ("extremes", "fail", wrong(lambda z, y: np.abs(z).max() > 500), {}),
    ("extremes", "remark", no_infinity, {}),
    ("nothing counted", "fail", wrong(lambda z, y: (y == -100).all()), {}),
    ("nothing counted", "remark", wrong(lambda z, y: (y == -100).all(), by=np.nan), {}),
    ("ignored NaN", "remark", wrong(lambda z, y: np.isnan(z).any()), {}),
    ("bad labels", "fail", counted_from_the_end, {}),
    ("bad labels", "remark", all_negatives_ignored, {}),
    ("compiled", "fail", two_faced, {"framework": "jax", "compile": True}),
]


def test_the_table_has_a_row_for_every_trial_and_a_loss_here_for_every_word():
    assert tuple(TABLE) == TRIAL_NAMES
    said = {(trial, word) for trial, cell in TABLE.items() for word in re.findall("failure|remark", cell)}
    words = {"fail": "failure", "remark": "remark"}
    assert said == {(trial, words[status]) for trial, status, *_ in WRONG}


@pytest.mark.parametrize(("trial", "status", "fn", "settings"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG])
def test_what_goes_wrong_counts_as_the_table_says(trial, status, fn, settings):
    need(settings.get("framework", "numpy"))
    settings = {"framework": "numpy", "skip": [name for name in TRIAL_NAMES if name != trial], **settings}
    report = parity.check(fn, **settings)
    found = {outcome.status for outcome in report.outcomes if outcome.trial == trial}
    assert status in found, str(report)
    assert bool(report) == (status == "remark")


def test_whatever_may_be_varied_is_named():
    sentence = re.search(r"^`accepts` may name (.*?)\.$", TEXT, re.DOTALL | re.MULTILINE).group(1)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(ARGUMENT_CASES)


# --- the commands and the test ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Where losses.py has the functions of the page."""
    need("torch")
    code = "\n".join(re.findall(r"^```pycon\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
    sources = [example.source for example in doctest.DocTestParser().get_examples(code)]
    kept = [source for source in sources if source.startswith(("import torch", "def "))]
    (tmp_path / "losses.py").write_text("\n".join(kept), encoding="utf-8")
    return tmp_path


def ran(folder, *command):
    """What a module prints, run as a program in a folder."""
    return programs.run("-m", *command, imports=["torch", "numba", "typer", "rich.console"], cwd=folder)


@pytest.mark.thorough
def test_the_commands_print_what_the_page_says(folder):
    need("typer")
    blocks = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^\$ ([^\n]+)\n(.*?)(?=^\$ |\Z)", "\n".join(blocks), re.DOTALL | re.MULTILINE)
    assert len(commands) >= 4
    status = 0
    for command, said in commands:
        if command == "echo $?":
            assert said.strip() == str(status)
            continue
        ended = ran(folder, *command.split())
        status = ended.returncode
        assert ended.stdout.strip() == said.strip(), ended.stderr


@pytest.mark.thorough
def test_the_test_of_the_page_passes_and_fails_for_the_port(folder):
    code = re.search(r"^```python title=\"test_losses.py\"\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE).group(1)
    pytest_here = ("pytest", "-q", "-p", "no:cacheprovider", "test_losses.py")
    for name, status in (("criterion", 0), ("port", 1)):
        (folder / "test_losses.py").write_text(code.replace("import criterion", f"import {name} as criterion"))
        ended = ran(folder, *pytest_here)
        assert ended.returncode == status, ended.stdout
    assert "pass label_smoothing=0.125 to fn (K = 5)" in ended.stdout
