"""Calls like an earlier one: their numbers, errors and warnings are those of the first call of their kind."""

import pickle
import warnings

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
from multismooth.namespace import XP
from multismooth.problem import Problem
from multismooth.recording import Recording, ValueSeen, plan_program
from multismooth.reduction import reduced_plan

STRUCTURES = 60  # of random calls; each is called with several sets of numbers


def numpy_functions():
    return Functions(mn.NumpyBackend()), lambda x: x, lambda x: x


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


SHAPES = [((64, 100), 1), ((2, 4096), 1), ((300, 12), 1), ((4, 30, 5), 1), ((4, 5, 30), 2), ((100, 1000), 1)]


@pytest.mark.parametrize("name", ["whole", "chunked", "numba"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_later_call_has_the_bits_of_the_first(shape, axis, name):
    """Though a kernel for its kind alone may compute it, with a plan that was recorded."""
    torch = need("torch")
    if name == "numba":
        need("numba")
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
            with multismooth.implementation(name):
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

    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for _ in range(3):
        ms.loss(z, y)
    with pytest.raises(ValueError, match="to_dense"):
        ms.loss(z.to_sparse(), y)


def test_a_weight_that_wants_a_gradient_gets_it_after_one_that_does_not():
    torch = need("torch")
    import multismooth.torch as ms

    z, y, weight = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3]), torch.ones(5)
    for _ in range(3):
        ms.loss(z, y, weight=weight)
    learnt = weight.clone().requires_grad_()
    ms.loss(z, y, weight=learnt).backward()
    assert learnt.grad.abs().sum() > 0


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
