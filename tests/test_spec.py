"""The statistics of classes are a semigroup, and what `spec` makes of them costs no digits. See `spec.Statistics`."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import floats
from requirements import need
from tolerance import assert_close

from multismooth import spec
from multismooth.namespace import XP

SHARES = st.one_of(st.just(0.0), st.floats(0.015625, 1.0))
LOGITS = st.one_of(st.floats(-700, 700), st.just(-np.inf), st.floats(-8, 8).map(lambda x: x + 1e6))


@st.composite
def classes(draw):
    """(z, u, v) of 1 to 8 classes of one element, with a class that is possible."""
    count = draw(st.integers(1, 8))
    z, u, v = (draw(st.lists(kind, min_size=count, max_size=count)) for kind in (LOGITS, SHARES, SHARES))
    z[draw(st.integers(0, count - 1))] = draw(st.floats(-30, 30))
    return tuple(np.array(values)[None] for values in (z, u, v))


def statistics(z, u, v):
    """Those of some classes; of none, the neutral element."""
    if z.shape[1] == 0:
        return spec.Statistics(np.full(1, -np.inf), *(np.zeros(1) for _ in range(5)))
    plan = spec.Plan(u=u, v=v, b=1.0, u_sum=u.sum(1), v_sum=v.sum(1))
    return spec.statistics(z, plan, 1, XP)


def bracketed(parts, draw):
    """The parts merged, two or more neighbours at a time, in any bracketing."""
    while len(parts) > 1:
        place = draw(st.integers(0, len(parts) - 2))
        size = draw(st.integers(2, len(parts) - place))
        parts[place : place + size] = [merged(parts[place : place + size])]
    return parts[0]


def merged(parts):
    return spec.merged(spec.Statistics(*map(np.stack, zip(*parts, strict=True))), XP)


@given(classes(), st.data())
def test_any_partition_in_any_bracketing_gives_the_whole(problem, data):
    z, u, v = problem
    order = data.draw(st.permutations(range(z.shape[1])))
    cuts = sorted(data.draw(st.lists(st.integers(0, z.shape[1]), max_size=4)))
    places = np.split(np.array(order, int), cuts)
    with np.errstate(all="ignore"):
        whole = spec.finished(statistics(z, u, v), XP)
        parts = [statistics(z[:, own], u[:, own], v[:, own]) for own in places]
        found = spec.finished(bracketed(parts, data.draw), XP)
    scale = 1 + np.abs(z[np.isfinite(z)]).max() * (1 + u.sum() + v.sum())
    for ours, expected in zip(found, whole, strict=True):
        assert_close(ours, expected, "float64", scale=scale)


def test_statistics_are_what_they_are_called():
    rng = np.random.default_rng(0)
    z, u, v = rng.normal(size=(3, 4, 7)), *rng.dirichlet(np.ones(7), size=(2, 4))
    z = z[0]
    parts = [statistics(z[:, k : k + 1], u[:, k : k + 1], v[:, k : k + 1]) for k in range(7)]
    lse, nll, smooth = spec.finished(merged(parts), XP)
    exact = [floats(oracle.evaluate(z, rows, label_smoothing=0.0, reduction="none").loss) for rows in (u, v)]
    assert_close(lse, np.log(np.exp(z).sum(1)), "float64")
    assert_close(nll, exact[0], "float64")
    assert_close(smooth, exact[1], "float64")


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8, -1e8])
def test_a_common_offset_costs_no_digits(offset):
    z = (np.array([[0.0, 0.0], [64.0, 0.0], [0.0, 8.0]]) + offset).astype(np.float32)
    answer = oracle.evaluate(z, np.array([0, 1, 1]), reduction="none")
    plan = spec.Plan(labels=np.array([0, 1, 1]), a=0.9, b=0.1)
    loss, gradient = spec.losses_and_gradient(z, plan, 1, XP)
    assert_close(loss, floats(answer.loss), "float32")
    assert_close(gradient, floats(answer.gradient), "float32")


def test_what_is_zero_has_a_derivative():
    """Of x·log y with respect to x, and of Σ row·gap to the row: only an infinite partner is dropped."""
    torch = need("torch")
    from multismooth.torch.namespace import XP as TORCH

    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    spec.xlogy(x, torch.tensor([0.25, 0.0], dtype=torch.float64), TORCH).sum().backward()
    assert_close(x.grad.numpy(), [np.log(0.25), 0.0], "float64")
    row = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    total = spec.weighted_gap(row, torch.tensor([[3.0, torch.inf]], dtype=torch.float64), 1, TORCH)
    assert total.item() == 0
    total.sum().backward()
    assert row.grad.tolist() == [[3.0, 0.0]]
