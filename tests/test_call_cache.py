"""Calls like an earlier one: their numbers, errors and warnings are those of the first call of their kind."""

import importlib.util
import pickle
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import problems
import pytest
from requirements import need
from tolerance import assert_close

import multismooth
import multismooth.numpy as mn
from multismooth import SmoothingError, SmoothingWarning, TargetError
from multismooth.api import call_cache
from multismooth.api.functions import Functions
from multismooth.cpu import choice
from multismooth.implementations import NAMES
from multismooth.namespace import XP
from multismooth.problem import Problem
from multismooth.recording import Recording, ValueSeen, plan_program
from multismooth.reduction import reduced_plan

STRUCTURES = 60  # of random calls; each is called with several sets of numbers


def numpy_functions():
    return Functions(mn.NumpyBackend()), lambda x: x, lambda x: x


def need_benchmark(name):
    """A module of `benchmarks/`."""
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_functions():
    torch = need("torch")
    from multismooth.torch.backend import TorchBackend

    def tensor(x):
        return torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x

    return Functions(TorchBackend()), tensor, lambda x: x.detach().numpy()


def jax_functions():
    need("jax")
    import jax.numpy as jnp

    from multismooth.jax.backend import JaxBackend

    return Functions(JaxBackend()), lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, np.asarray


BACKENDS = {"numpy": numpy_functions, "torch": torch_functions}


@pytest.fixture(params=[*BACKENDS])
def functions(request):
    return BACKENDS[request.param]


def made(functions, drawn, **changed):
    """(loss, gradient) of a random problem."""
    own, array, back = functions
    settings = {name: array(value) for name, value in (drawn.settings | changed).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmoothingWarning)
        return [back(x) for x in own.loss_and_grad(array(drawn.logits), array(drawn.targets), **settings)]


def test_random_calls_of_one_kind_are_what_each_is_alone(functions):
    remembered, hits = functions(), 0
    for structure in range(STRUCTURES):
        for seed in range(structure * problems.VARIATIONS, structure * problems.VARIATIONS + 4):
            drawn = problems.problem(seed)
            before = len(remembered[0]._call._kinds)
            found, alone = made(remembered, drawn), made(functions(), drawn)
            hits += len(remembered[0]._call._kinds) == before
            for mine, right in zip(found, alone, strict=True):
                assert_close(mine, right)
    assert hits > STRUCTURES  # most kinds are remembered, or this test says nothing


SQUARE = np.random.default_rng(3).normal(size=(5, 5))
ONE_THING = {  # what two calls differ in alone: (the first call's options, the second's)
    "the ignored label": ({"ignore_index": 1}, {"ignore_index": 2}),
    "no ignored label": ({"ignore_index": 0}, {"ignore_index": None}),
    "a number's type": ({"ignore_index": 1}, {"ignore_index": np.int64(2)}),
    "ε": ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    "ε, a whole number": ({"label_smoothing": 0}, {"label_smoothing": 0.5}),
    "the convention": ({"convention": "torch"}, {"convention": "others"}),
    "the reduction": ({"reduction": "mean"}, {"reduction": "sum"}),
    "the axis": ({"axis": 0}, {"axis": 1}),
    "the z-loss": ({"z_loss": 0.1}, {"z_loss": 0.2}),
    "the soft cap": ({"logit_softcap": 3.0}, {"logit_softcap": 5.0}),
    "whether there is a soft cap": ({"logit_softcap": 3.0}, {}),
    "the normalizer": ({"normalizer": 2.0}, {"normalizer": 3.0}),
    "whether values are checked": ({"validate": True}, {"validate": False}),
    "class weights": ({}, {"weight": np.linspace(0.5, 1.5, 5)}),
    "a prior": ({}, {"prior": np.linspace(0.1, 0.3, 5)}),
    "a prior for each class": (
        {"prior": np.linspace(0.1, 0.3, 5)},
        {"prior": np.random.default_rng(4).dirichlet(np.ones(5), 5)},
    ),
    "a mask": ({}, {"class_mask": np.array([True, True, True, True, False])}),
    "sample weights": ({}, {"sample_weight": np.linspace(0, 2, 5)}),
    "ε for each element": ({"label_smoothing": np.array(0.1)}, {"label_smoothing": np.linspace(0, 0.5, 5)}),
    "class weights of 0": (
        {"label_smoothing": 0.0, "z_loss": 0.1, "weight": np.linspace(0.5, 1.5, 5)},
        {"label_smoothing": 0.0, "z_loss": 0.1, "weight": np.array([0.0, 0.0, 0.0, 0.0, 1.0])},
    ),
    "how many class weights": ({"weight": np.linspace(0.5, 1.5, 5)}, {"weight": np.linspace(0.5, 1.5, 6)}),
    "the dtype of class weights": ({"weight": np.linspace(1, 3, 5)}, {"weight": np.arange(1, 6)}),
    "how many shares a prior has": ({"prior": np.full(5, 0.2)}, {"prior": np.full(4, 0.25)}),
    "the dtype of a mask": ({"class_mask": np.ones(5, bool)}, {"class_mask": np.ones(5)}),
    "how many classes a mask has": ({"class_mask": np.ones(5, bool)}, {"class_mask": np.ones(6, bool)}),
    "the shape of sample weights": ({"sample_weight": np.ones(5)}, {"sample_weight": np.ones((5, 1))}),
    "the dtype of sample weights": ({"sample_weight": np.linspace(1, 3, 5)}, {"sample_weight": np.arange(5) > 1}),
    "the shape of a z-loss": ({"z_loss": np.array(0.1)}, {"z_loss": np.array([0.1])}),
}


@pytest.mark.parametrize("which", ONE_THING)
def test_calls_that_differ_in_one_thing_are_two(functions, which):
    own, array, back = functions()
    labels = np.array([0, 1, 2, 3, 1])

    def call(own, options):
        options = {name: array(value) for name, value in options.items()}
        try:
            return [back(x) for x in own.loss_and_grad(array(SQUARE), array(labels), **options)]
        except (ValueError, TypeError) as error:
            return [type(error), str(error)]

    for options in (*ONE_THING[which], *reversed(ONE_THING[which])):
        for _ in range(2):
            for found, right in zip(call(own, options), call(functions()[0], options), strict=True):
                np.testing.assert_array_equal(found, right)


DROP_IN = {  # the same for the drop-in, which has a cache of its own
    "ignored label": ({"ignore_index": 1}, {"ignore_index": 2}),
    "ε": ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    "reduction": ({"reduction": "mean"}, {"reduction": "sum"}),
    "class weights": ({}, {"weight": np.linspace(0.5, 1.5, 5)}),
}


@pytest.mark.parametrize("which", DROP_IN)
def test_calls_of_the_drop_in_that_differ_in_one_thing_are_two(which):
    torch, ours = need("torch"), need("multismooth.torch")
    z, y = torch.from_numpy(SQUARE), torch.tensor([0, 1, 2, 3, 1])
    for options in (*DROP_IN[which], *reversed(DROP_IN[which])):
        options = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        for _ in range(2):
            found, right = ours.cross_entropy(z, y, **options), torch.nn.functional.cross_entropy(z, y, **options)
            assert_close(found.numpy(), right.numpy(), "float64")


@pytest.mark.parametrize("weight", [False, True])
def test_a_drop_in_s_mean_over_no_elements_is_nan_in_a_later_call_too(weight):
    torch, ours = need("torch"), need("multismooth.torch")
    z, y = torch.from_numpy(SQUARE[:3]).requires_grad_(), torch.tensor([0, 1, 2])
    options = {"weight": torch.linspace(0.5, 1.5, 5).double()} if weight else {}
    for targets in (y, y.where(y > 0, -100), torch.full_like(y, -100), y, torch.full_like(y, -100)):
        for _ in range(2):
            loss = ours.cross_entropy(z, targets, **options)
            (gradient,) = torch.autograd.grad(loss, z)
            nothing = bool((targets == -100).all())
            assert loss.isnan().item() == nothing
            assert gradient.any().item() != nothing


GOOD = {
    "label_smoothing": np.array([0.1, 0.2, 0.3, 0.0]),
    "weight": np.array([1.0, 0.5, 2.0, 1.0, 1.5]),
    "sample_weight": np.array([1.0, 0.0, 2.0, 1.0]),
    "class_mask": np.array([True, True, True, True, False]),
    "prior": np.array([0.1, 0.2, 0.3, 0.2, 0.2]),
    "normalizer": 3.0,
    "z_loss": np.array(0.1),
}
LABELS = np.array([0, 1, -100, 3])
SOFT = np.random.default_rng(5).dirichlet(np.ones(5), 4)
BAD = [  # (argument, a value of the same kind, the error, a part of its message)
    ("targets", np.array([0, 1, -100, 5]), TargetError, "targets"),
    ("targets", np.array([0, 1, -1, 3]), TargetError, "-1"),
    ("label_smoothing", np.array([0.1, 1.3, 0.2, 0.0]), SmoothingError, "1.3"),
    ("label_smoothing", np.array([0.1, 0.2, 0.3, np.nan]), SmoothingError, "label_smoothing"),
    ("weight", np.array([1.0, -0.5, 2.0, 1.0, 1.5]), ValueError, "weight"),
    ("weight", np.array([1.0, np.inf, 2.0, 1.0, 1.5]), ValueError, "weight"),
    ("sample_weight", np.array([1.0, 0.0, np.nan, -1.0]), ValueError, "sample_weight"),
    ("class_mask", np.array([False, True, True, True, False]), TargetError, "class_mask"),
    ("prior", np.array([0.1, 0.2, 0.3, 0.2, 0.4]), ValueError, "prior"),
    ("prior", np.array([0.1, 0.2, 0.3, 0.6, -0.2]), ValueError, "prior"),
    ("normalizer", 0.0, ValueError, "normalizer"),
    ("normalizer", -1.0, ValueError, "normalizer"),
    ("normalizer", np.inf, ValueError, "normalizer"),
    ("z_loss", np.array(-0.1), ValueError, "z_loss"),
    ("logits", np.full((4, 5), 0.2), ValueError, "probabilities"),
    ("logits", np.tile([0.05, 0.1, 0.05, 0.1, 0.7], (4, 1)), ValueError, "probabilities"),
    ("targets", 1.02 * SOFT, TargetError, "targets"),
    ("targets", SOFT * [[1], [1], [1], [0]], TargetError, "targets"),
    ("targets", SOFT + np.array([0.3, -0.3, 0, 0, 0]), TargetError, "targets"),
    ("targets", np.where(SOFT > 0.5, np.nan, SOFT), TargetError, "targets"),
]


@pytest.mark.parametrize(("argument", "bad", "error", "said"), BAD)
def test_a_bad_value_is_refused_in_the_first_call_and_in_every_later_one(functions, argument, bad, error, said):
    own, array, _ = functions()
    arrays = {"logits": np.random.default_rng(0).normal(size=(4, 5)), "targets": LABELS}
    options = {argument: GOOD[argument]} if argument in GOOD else {}
    if argument == "targets" and bad.ndim == 2:
        arrays["targets"] = SOFT

    def call(**changed):
        given = {name: array(value) for name, value in (arrays | options | changed).items()}
        return own.loss(given.pop("logits"), given.pop("targets"), **given)

    for _ in range(3):
        call()
        with pytest.raises(error, match=said):
            call(**{argument: bad})


@pytest.mark.parametrize("ignore_index", [None, 1, -100])
@pytest.mark.parametrize("bad", [5, -1, 2**40])
def test_a_label_that_names_no_class_is_refused_whichever_is_ignored(functions, ignore_index, bad):
    own, array, _ = functions()
    z, labels = array(np.random.default_rng(0).normal(size=(4, 5))), np.array([0, 1, 2, 3])
    for place in (None, 0, 3):
        for good in (labels, np.where(labels == 1, ignore_index, labels) if ignore_index else labels):
            wrong = good.copy()
            own.loss(z, array(good.astype(np.int64)), ignore_index=ignore_index)
            if place is not None:
                wrong[place] = bad
                with pytest.raises(TargetError, match=str(bad)):
                    own.loss(z, array(wrong.astype(np.int64)), ignore_index=ignore_index)


def test_what_warns_does_so_every_time(functions):
    own, array, _ = functions()
    z, y = array(np.random.default_rng(0).normal(size=(4, 5))), array(np.array([0, 1, 2, 3]))
    heavy = array(np.array([1.0, 1.0, 1.0, 1.0, 1e6]))
    for options in (
        {"label_smoothing": 0.7},
        {"weight": heavy},
        {"label_smoothing": array(np.array([0.1, 0.6, 0, 0]))},
    ):
        own.loss(z, y)
        for _ in range(3):
            with pytest.warns(SmoothingWarning):
                own.loss(z, y, **options)


def test_numbers_of_numpy_are_numbers_and_not_a_kind(functions):
    """ε = np.float64(0.1) and np.float64(0.2) are two calls, whatever they have in common."""
    own, array, back = functions()
    z, y = array(np.random.default_rng(0).normal(size=(4, 5))), array(np.array([0, 1, 2, 3]))
    for make in (np.float64, np.array, np.float32):
        for epsilon in (0.125, 0.25, 0.5):
            assert back(own.loss(z, y, label_smoothing=make(epsilon))) == back(own.loss(z, y, label_smoothing=epsilon))
    for make in (float, int, np.float64, np.array, np.int64):
        for normalizer in (2, 3, 4):
            total, mean = own.loss(z, y, reduction="sum"), own.loss(z, y, normalizer=make(normalizer))
            assert_close(back(mean), back(total) / normalizer)
    assert back(own.loss(z, y, label_smoothing=0)) == back(own.loss(z, y, label_smoothing=0.0))
    with pytest.raises(SmoothingError):
        own.loss(z, y, label_smoothing=True)  # which equals 1
    with pytest.raises(ValueError, match="axis"):
        own.loss(z, y, axis=True)


def test_ignored_labels_beside_a_mask_of_each_element(functions):
    """Whose class axis is not the first: the labels that count are no longer in the elements' shape."""
    z, labels = np.random.default_rng(0).normal(size=(2, 3, 4)), np.array([[0, -100, 1], [2, 3, -100]])
    own, array, back = functions()
    settings = {"class_mask": array(np.ones((2, 3, 4), bool)), "axis": 2}
    once, again = (back(own.loss(array(z), array(labels), **settings)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize(
    "settings", [{"ignore_index": -100}, {"ignore_index": 0, "convention": "opennmt-py-2"}], ids=str
)
def test_a_mask_without_classes_is_refused_where_all_labels_are_ignored(functions, shape, settings):
    own, array, back = functions()
    z, ignored = (
        array(np.random.default_rng(0).normal(size=(*shape, 2))),
        array(np.full(shape, settings["ignore_index"])),
    )
    every, none = array(np.ones(2, bool)), array(np.array([settings["ignore_index"] == 0, False]))
    for _ in range(3):
        own.loss(z, array(np.ones(shape, int)), class_mask=every, **settings)
        assert back(own.loss(z, ignored, class_mask=every, reduction="sum", **settings)) == 0
        for reduction in ("mean", "sum"):
            own.loss(z, array(np.ones(shape, int)), class_mask=every, reduction=reduction, **settings)
            with pytest.raises(ValueError, match="at least one class"):
                own.loss(z, ignored, class_mask=none, reduction=reduction, **settings)


SHAPES = [((64, 100), 1), ((2, 4096), 1), ((300, 12), 1), ((4, 30, 5), 1), ((4, 5, 30), 2), ((100, 1000), 1)]


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setattr(choice, "numba", lambda: None)


@pytest.mark.parametrize("name", ["whole", "chunked", "numba", "the fastest", "the fastest without Numba"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_later_call_has_the_bits_of_the_first(shape, axis, name, request):
    """Though a program for its kind alone may compute it, with checks, a plan and a kernel that were recorded."""
    torch = need("torch")
    if name == "numba":
        need("numba")
    if name == "the fastest without Numba":
        request.getfixturevalue("no_numba")
    asked = partial(multismooth.implementation, name) if name in NAMES else nullcontext
    generator, classes = np.random.default_rng(0), shape[axis]
    z = torch.from_numpy(generator.normal(size=shape).astype(np.float32)).requires_grad_()
    labels = torch.from_numpy(generator.integers(0, classes - 2, np.delete(shape, axis)))
    some = torch.from_numpy(generator.random(labels.shape).astype(np.float32))
    ignored, weight = labels.masked_fill(some < 0.2, -100), torch.linspace(0.5, 1.5, classes)
    own = torch_functions()[0]

    def bits(targets, options):
        loss = own.loss(z, targets, **options)
        (gradient,) = torch.autograd.grad(loss, z)
        with torch.no_grad():
            alone = own.loss(z, targets, **options)
        both = own.loss_and_grad(z, targets, out=torch.empty_like(z), **options)
        return loss.detach(), gradient, alone, *both

    for options in (
        {}, {"label_smoothing": 0.0}, {"label_smoothing": some / 4}, {"weight": weight}, {"sample_weight": some},
        {"class_mask": torch.arange(classes) < classes - 2}, {"prior": weight / weight.sum()}, {"reduction": "sum"},
        {"z_loss": 0.1}, {"logit_softcap": 3.0},
    ):  # fmt: skip
        for targets in (labels, ignored):
            with asked():
                first, *later = (bits(targets, {"axis": axis} | options) for _ in range(3))
            for again in later:
                assert all(map(torch.equal, first, again)), options


def test_infinite_logits_bring_no_warning_in_a_later_call_either():
    torch = need("torch")
    z, y = torch.randn(8, 40), torch.arange(8)
    z[:, 20:30], z[3, 5] = -torch.inf, torch.inf
    own, again = (torch_functions()[0] for _ in range(2))
    for targets in (y, y.masked_fill(y < 3, -100)):
        for call in (own.loss, lambda *given: again.loss_and_grad(*given)[0]):
            with warnings.catch_warnings(), multismooth.implementation("whole"):
                warnings.simplefilter("error")
                found = [
                    call(
                        z,
                        targets,
                    ).item()
                    for _ in range(3)
                ]
            assert found == pytest.approx([found[0]] * 3, nan_ok=True)


def test_kinds_are_bounded(functions, monkeypatch):
    monkeypatch.setattr(call_cache, "MAX_KINDS", 5)
    own, array, _ = functions()
    for rows in range(1, 20):
        own.loss(array(np.zeros((rows, 3)) - 1), array(np.zeros(rows, int)))
        assert 0 < len(own._call._kinds) <= 5


def test_public_functions_pickle_by_name():
    for function in (multismooth.loss, mn.loss, mn.linear_loss):
        assert pickle.loads(pickle.dumps(function)) is function
        assert len(pickle.dumps(function)) < 200


def test_a_sparse_tensor_is_refused_after_a_dense_one():
    torch = need("torch")
    import multismooth.torch as ms

    for device in ("cpu", "meta"):  # the values of the latter cannot be seen, as those on a GPU
        y = torch.tensor([0, 1, 2, 3, 4, 0], device=device)
        for calls in (1, 3):
            z = torch.zeros(3 + calls, 5, device=device)
            sparse = torch.zeros(3 + calls, 5, device=device, layout=torch.sparse_coo)
            for _ in range(calls):
                ms.loss(z, y[: 3 + calls])
            with pytest.raises(ValueError, match="to_dense"):
                ms.loss(sparse, y[: 3 + calls])


def test_a_weight_that_wants_a_gradient_gets_it_after_one_that_does_not():
    torch = need("torch")
    import multismooth.torch as ms

    z, y, weight = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3]), torch.ones(5)
    for _ in range(3):
        ms.loss(z, y, weight=weight)
    learnt = weight.clone().requires_grad_()
    ms.loss(z, y, weight=learnt).backward()
    assert learnt.grad.abs().sum() > 0


# --- programs of PyTorch's losses -------------------------------------------------------------------------------------

EVERYDAY = {  # the options of a call for so many elements and classes
    "plain": lambda n, k: {},
    "class weights": lambda n, k: {"weight": np.linspace(0.5, 1.5, k)},
    "sample weights": lambda n, k: {"sample_weight": np.linspace(0, 2, n)},
    "ε per element": lambda n, k: {"label_smoothing": np.linspace(0, 0.5, n)},
    "class mask": lambda n, k: {"class_mask": np.arange(k) < k - 2},
    "prior": lambda n, k: {"prior": np.linspace(1, 2, k) / np.linspace(1, 2, k).sum()},
    "a prior per class": lambda n, k: {"prior": np.random.default_rng(1).dirichlet(np.ones(k), k)},
    "z-loss": lambda n, k: {"z_loss": np.array(0.1)},
    "soft cap": lambda n, k: {"logit_softcap": 3.0},
    "kl": lambda n, k: {"convention": "flax-examples"},
    "normalizer": lambda n, k: {"normalizer": 3.0},
}


def everyday(name, n=6, k=20, dtype="float64"):
    """(logits, labels, labels of which some are ignored, options) of a call, in tensors."""
    torch, rng = need("torch"), np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(n, k)).astype(dtype)).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, k - 2, n))
    options = {
        key: torch.from_numpy(x.astype(dtype) if x.dtype.kind == "f" else x) if isinstance(x, np.ndarray) else x
        for key, x in EVERYDAY[name](n, k).items()
    }
    return z, labels, labels.masked_fill(torch.arange(n) % 3 == 1, -100), options


@pytest.mark.parametrize("name", EVERYDAY)
@pytest.mark.parametrize("numba", [True, False])
def test_derivatives_of_a_program_s_loss_are_those_of_the_first_call(name, numba, request):
    """The first derivative, that of a second backward, the second derivative, with ignored labels and without."""
    torch = need("torch")
    if not numba:
        request.getfixturevalue("no_numba")
    z, labels, ignored, options = everyday(name)
    own = torch_functions()[0]

    def derivatives(own, targets):
        loss = own.loss(z, targets, **options)
        first, again = (torch.autograd.grad(3 * loss, z, retain_graph=True)[0] for _ in range(2))
        (graph,) = torch.autograd.grad(loss, z, create_graph=True)
        (second,) = torch.autograd.grad((graph * z.detach().cos()).sum(), z)
        return loss.detach(), first, again, graph.detach(), second

    for targets in (labels, ignored, labels):
        alone = derivatives(torch_functions()[0], targets)
        for _ in range(3):
            for found, right in zip(derivatives(own, targets), alone, strict=True):
                assert_close(found.numpy(), right.numpy(), "float64")
    (kind,) = own._loss._kinds.values()
    assert kind.programs[True] is not None


def test_values_of_one_kind_are_no_constants_of_its_program():
    torch, own, others = need("torch"), torch_functions()[0], torch_functions
    z, labels, ignored, _ = everyday("plain")
    for name in ("z_loss", "normalizer", "label_smoothing", "logit_softcap"):
        for value in (0.1, 0.2, 0.3, 0.4):
            options = {name: torch.tensor(value).double()}
            for targets in (labels, ignored):
                found, right = own.loss(z, targets, **options), others()[0].loss(z, targets, **options)
                assert_close(found.detach().numpy(), right.detach().numpy(), "float64")


@pytest.mark.parametrize(("argument", "bad", "error", "said"), BAD)
def test_a_bad_value_is_refused_where_a_gradient_is_asked_for(argument, bad, error, said):
    """And the labels are refused in a call that ignores some, and in one that ignores none; all of it also at ε = 0."""
    torch, array = need("torch"), torch_functions()[1]
    z, bad = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), array(bad)
    bad = bad.requires_grad_() if argument == "logits" else bad
    options = {argument: array(GOOD[argument])} if argument in GOOD else {}
    soft = argument == "targets" and bad.ndim == 2
    for labels in [SOFT] if soft else [LABELS, np.maximum(LABELS, 0)]:
        for epsilon in (0.1, 0.0):
            own = torch_functions()[0]
            given = {"logits": z, "targets": torch.from_numpy(labels), "label_smoothing": epsilon} | options
            for _ in range(3):
                own.loss(**given)
            (kind,) = own._loss._kinds.values()
            assert kind.programs[True] is not None
            with pytest.raises(error, match=said):
                own.loss(**given | {argument: bad})


def test_infinite_logits_of_a_program_are_those_of_the_first_call(no_numba):
    torch, own = need("torch"), torch_functions()[0]
    for name in ("plain", "class weights", "class mask"):
        z, labels, ignored, options = everyday(name)
        for targets in (labels, ignored):
            expected = None
            for change in (lambda z: z, lambda z: z[:, 19].fill_(-torch.inf), lambda z: z[1].fill_(torch.nan)):
                change(z.detach())
                for epsilon in (0.1, 0.0):
                    found = []
                    for functions in (torch_functions()[0], own, own, own):
                        loss = functions.loss(z, targets, label_smoothing=epsilon, **options)
                        found.append((loss.detach(), torch.autograd.grad(loss, z)[0]))
                    expected, *later = found
                    for mine in later:
                        for x, right in zip(mine, expected, strict=True):
                            torch.testing.assert_close(x, right, equal_nan=True, rtol=1e-13, atol=1e-15)


def test_a_kernel_that_is_asked_for_computes_a_call_of_a_known_kind():
    z, labels, ignored, _ = everyday("plain")
    own = torch_functions()[0]
    for targets in (labels, ignored):
        for _ in range(3):
            own.loss(z, targets)
            for name in ("whole", "chunked"):
                with multismooth.implementation(name) as ran:
                    own.loss(z, targets)
                assert ran == [name]


def test_no_program_keeps_a_caller_s_array():
    import gc
    import weakref

    torch, own = need("torch"), torch_functions()[0]
    for name in EVERYDAY:
        z, labels, ignored, options = everyday(name)
        for targets in (labels, ignored):
            for _ in range(3):
                own.loss(z, targets, **options).backward()
        left = [weakref.ref(x) for x in (z, labels, ignored, *options.values()) if isinstance(x, torch.Tensor)]
        del z, labels, ignored, options, targets
        gc.collect()
        assert not [x() for x in left if x() is not None], name


def test_a_checkpoint_computes_a_call_again_that_was_the_first_of_its_kind():
    torch = need("torch")
    from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

    for name in EVERYDAY:
        z, labels, ignored, options = everyday(name)
        for targets in (labels, ignored):
            (expected,) = torch.autograd.grad(torch_functions()[0].loss(z.sin(), targets, **options), z)
            call = partial(torch_functions()[0].loss, targets=targets, **options)
            with set_checkpoint_early_stop(False):
                loss = checkpoint(lambda z, call=call: call(z.sin()), z, use_reentrant=False)  # sin keeps z
            (found,) = torch.autograd.grad(loss, z)
            torch.testing.assert_close(found, expected)


def test_a_repeated_call_enters_few_functions(no_numba):
    need("torch")
    entered = need_benchmark("entered").entered
    own = need("multismooth.torch")
    kinds = need("multismooth.torch.backend").functions._call._kinds, need("multismooth.torch.originals").KINDS
    for known in kinds:  # those of other tests may have Numba's kernels
        known.clear()
    for name in ("plain", "class weights", "sample weights", "class mask", "prior"):
        z, labels, ignored, options = everyday(name, 64, 100, "float32")
        for targets in (labels, ignored):
            for function in (own.loss, own.cross_entropy) if set(options) <= {"weight"} else (own.loss,):

                def step(function=function, z=z, targets=targets, options=options):
                    function(z, targets, label_smoothing=0.1, **options).backward()

                for _ in range(3):
                    step()
                functions, files = entered(step, str(Path(multismooth.__file__).parent))
                assert functions <= 14, name
                assert files <= 7, name
    for known in kinds:
        known.clear()


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_recorded_plan_is_the_plan_of_other_numbers(monkeypatch):
    """Recorded with one set of numbers, replayed with others."""
    functions, replayed = Functions(mn.NumpyBackend()), 0
    monkeypatch.setattr(functions._call, "_kinds", Never())

    def call(seed):
        drawn = problems.problem(seed, reckless=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmoothingWarning)
            return functions._call(drawn.logits, drawn.targets, **drawn.settings)[:2]

    for structure in range(100):
        seeds = range(structure * problems.VARIATIONS, structure * problems.VARIATIONS + 3)
        (first, settings), *others = map(call, seeds)
        settings = settings._replace(clean=False, valid=False)
        fixed = {"label_smoothing", "z_loss"}
        program = plan_program(first.logits.shape, True, first, settings)
        assert (program is None) == (first.logits.ndim == 1)
        if program is None:
            continue
        for problem, _ in others:
            problem = problem._replace(**{k: getattr(first, k) for k in fixed if isinstance(getattr(first, k), float)})
            if [np.shape(x) for x in problem] != [np.shape(x) for x in first]:
                continue
            found, right = program(*problem), reduced_plan(problem, settings, XP)
            for name in ("labels", "u", "v", "a", "b", "u_sum", "v_sum", "const", "z_loss", "active", "mask"):
                mine, theirs = getattr(found, name), getattr(right, name)
                assert (mine is None) == (theirs is None), name
                if mine is not None:
                    assert_close(np.broadcast_to(mine, np.shape(theirs)) * 1.0, np.asarray(theirs) * 1.0)
            replayed += 1
    assert replayed > 100


class Never(dict):
    """A cache that keeps nothing."""

    def __setitem__(self, key, value):
        pass


def test_a_value_cannot_be_asked_for_while_recording():
    recording = Recording()
    array = recording.argument("array", np.arange(3.0))
    with pytest.raises(ValueSeen):
        bool((array > 1).any() if hasattr(array, "any") else array > 1)


def test_only_what_is_needed_is_replayed():
    def function(recording, given):
        array = recording.argument(given.name, np.arange(3.0))
        kept, _unused = recording.where(array > 1, array, recording.zeros_like(array)), recording.sum(array * 7)
        again = recording.where(array > 1, array, recording.zeros_like(array))
        assert again is kept
        return Problem(None, kept, 0.5)

    program = Recording().program(function, ["targets"])
    assert program(np.array([3.0, 0.0, 2.0])).targets.tolist() == [3.0, 0.0, 2.0]
    constants = [program.__globals__.get(name) for name in program.__code__.co_names]
    assert any(x is np.where for x in constants)
    assert not any(x is np.add.reduce for x in constants)


def test_a_replay_may_stop_or_ask_once():
    def function(recording, given, other):
        x, y = (recording.argument(name.name, np.arange(3.0)) for name in (given, other))
        recording.stop_unless(recording.lowest(x) >= 0)
        if recording.ask(recording.largest(x) > 5):
            recording.stop_unless(recording.largest(y) > 0)
            return x + y, 1
        return x - y, 0

    program = Recording().program(function, ["x", "y"])
    small, large, ones = np.arange(3.0), np.arange(3.0) + 4, np.ones(3)
    assert program(-ones, ones) is None
    assert program(large, -ones) is None
    assert program(small, -ones)[0].tolist() == [1, 2, 3]
    assert program(small, -ones)[1] == 0
    assert program(large, ones)[0].tolist() == [5, 6, 7]
    with pytest.raises(ValueSeen):
        Recording().program(lambda r, x: r.ask(r.argument("x", 1.0) > 0) and r.ask(r.argument("x", 1.0) > 1), ["x"])


def test_a_replay_writes_to_arrays_of_its_own_and_in_order():
    def function(recording, given):
        x = recording.argument(given.name, np.arange(3.0))
        for make in (np.empty_like, np.zeros_like):
            own = recording.call(make, x, value=np.empty(3), always=False)
            own[...] = x * 2.0
            before = own[(2,)]
            own[(2,)] = before + 1.0 if make is np.empty_like else 7.0
            if make is np.empty_like:
                found = own, before, own[(2,)]  # read again, since it was written to
        return found

    program = Recording().program(function, ["x"])
    array, before, after = program(np.array([1.0, 2.0, 3.0]))
    assert array.tolist() == [2, 4, 7]
    assert (before, after) == (6, 7)
    assert 7.0 not in [program.__globals__.get(name) for name in program.__code__.co_names]


def test_booleans_times_numbers_are_rounded_as_arrays_are():
    def function(recording, given):
        x = recording.argument(given.name, np.ones(4, bool))
        found = recording.astype(x, np.float32) * 0.1 * (recording.count(x) * 0.7) * 0.3
        return found, found.entry[2]

    x = np.array([True, False, True, True])
    array, entry = Recording().program(function, ["x"])(x)
    expected = x.astype(np.float32) * 0.1 * 2.0999999999999996 * 0.3
    assert array.dtype == np.float32
    assert array.tolist() == expected.tolist()
    assert entry == expected[0]
