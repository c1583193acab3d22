"""Public functions are functions: known by name, and calls that they do not allow are refused with what was meant."""

import copy
import importlib
import inspect
import pickle

import numpy as np
import pytest
from requirements import need

import multismooth
from multismooth.api import options
from multismooth.api.functions import Functions
from multismooth.api.public import public

NAMES = (
    *("loss", "terms", "loss_and_grad", "smooth_targets"),
    *("linear_loss", "linear_loss_and_grad", "smoothing_correction", "binary_loss"),
    *("focal_loss", "confidence_penalty", "margin_smoothing", "distillation_loss", "normalizer"),
    "unigram_prior",
)
MODULES = ("multismooth", "multismooth.numpy", "multismooth.torch", "multismooth.jax")
LOGITS, LABELS = np.zeros((2, 3)), np.array([0, 2])


@pytest.fixture(params=MODULES)
def module(request):
    need(request.param.rpartition(".")[2] if "." in request.param else "numpy")
    return importlib.import_module(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_by_its_name(module, name):
    function = getattr(module, name)
    assert inspect.isfunction(function)
    assert (function.__module__, function.__qualname__) == (module.__name__, name)
    assert repr(function).startswith(f"<function {name} at ")
    assert copy.deepcopy(function) is function
    assert pickle.loads(pickle.dumps(function)) is function
    assert len(pickle.dumps(function)) < 200
    assert "self" not in inspect.signature(function).parameters


def test_each_has_code_of_its_own():
    """By which `torch.compile` counts how often it compiles."""
    modules = [importlib.import_module(name) for name in ("multismooth", "multismooth.numpy")]
    codes = [getattr(module, name).__code__ for module in modules for name in NAMES]
    assert len(set(map(id, codes))) == len(codes)
    assert [code.co_name for code in codes] == [*NAMES, *NAMES]


def test_pickles_do_not_grow_with_what_is_remembered():
    module = importlib.import_module("multismooth.numpy")
    for rows in range(1, 40):
        module.loss(np.zeros((rows, 3)), np.zeros(rows, int))
    assert len(pickle.dumps(module.loss)) < 200


WRONG = {
    "smoothing": "label_smoothing",
    "eps": "label_smoothing",
    "epsilon": "label_smoothing",
    "label_smoothing_factor": "label_smoothing",
    "labelsmoothing": "label_smoothing",
    "class_weight": "weight",
    "class_weights": "weight",
    "weights": "weight or sample_weight",
    "ignore_label": "ignore_index",
    "pad": "ignore_index",
    "mask": "sample_weight or class_mask",
    "dim": "axis",
    "size_average": "reduction",
    "reduce": "reduction",
    "num_items_in_batch": "normalizer",
    "lse_square_scale": "z_loss",
    "normaliser": "normalizer",
}


@pytest.mark.parametrize(("word", "meant"), WRONG.items())
def test_a_wrong_keyword_names_the_right_one(module, word, meant):
    with pytest.raises(TypeError) as caught:
        module.loss(own(module, LOGITS), own(module, LABELS), **{word: 0.1})
    assert str(caught.value) == f"loss() got an unexpected keyword argument {word!r}. Did you mean {meant}?"


def own(module, array):
    if module.__name__.endswith("torch"):
        return need("torch").from_numpy(array)
    return need("jax").numpy.asarray(array) if module.__name__.endswith("jax") else array


def test_a_keyword_like_no_other_is_told_what_there_is(module):
    with pytest.raises(TypeError, match=r"keyword argument 'frobnicate'. It takes logits, targets, label_smoothing, "):
        module.loss(own(module, LOGITS), own(module, LABELS), frobnicate=1)


def test_only_what_a_function_has_is_suggested(module):
    with pytest.raises(TypeError, match=r"'weight'. Did you mean sample_weight\?"):
        module.smoothing_correction(own(module, LOGITS), own(module, LOGITS), own(module, LABELS), weight=1)
    with pytest.raises(TypeError, match=r"^terms\(\) got an unexpected keyword argument 'reduction'. It takes logits"):
        module.terms(own(module, LOGITS), own(module, LABELS), reduction="sum")


def test_settings_are_keywords(module):
    with pytest.raises(TypeError) as caught:
        module.loss(own(module, LOGITS), own(module, LABELS), 0.2)
    assert str(caught.value) == (
        "loss() takes 2 positional arguments (logits, targets) but 3 were given. "
        "Settings are keywords: label_smoothing=0.2."
    )
    with pytest.raises(TypeError, match=r"takes 3 positional .*keywords: label_smoothing=0.1\.$"):
        module.linear_loss(*(own(module, x) for x in (LOGITS, LOGITS, LABELS, LABELS)))


def test_what_is_missing_or_given_twice_is_named(module):
    for call, lacks in (
        (lambda: module.loss(), "'logits' and 'targets'"),
        (lambda: module.loss(own(module, LOGITS)), "'targets'"),
        (lambda: module.loss(targets=own(module, LABELS)), "'logits'"),
        (lambda: module.linear_loss(hidden=own(module, LOGITS)), "'classifier' and 'targets'"),
    ):
        with pytest.raises(TypeError, match=rf"^\w+\(\) is missing {lacks}\. Its first arguments are "):
            call()
    with pytest.raises(TypeError, match="got 'logits' twice, by position and by name"):
        module.loss(own(module, LOGITS), own(module, LABELS), logits=own(module, LOGITS))


def test_by_name_works_too(module):
    assert float(module.loss(targets=own(module, LABELS), logits=own(module, LOGITS))) == pytest.approx(np.log(3))


def test_a_type_error_from_within_is_left_as_it_is():
    module = importlib.import_module("multismooth.numpy")
    with pytest.raises(TypeError) as caught:
        module.smooth_targets(LABELS, 3, dtype="no dtype")
    assert "smooth_targets()" not in str(caught.value)


def test_compilers_know_the_name():
    torch, jax = need("torch"), need("jax")
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    for function in (multismooth.torch.loss, multismooth.loss):
        assert float(torch.compile(function, backend="eager", fullgraph=True)(logits, labels)) == pytest.approx(
            np.log(3)
        )
    for function in (multismooth.jax.loss, multismooth.loss):
        assert float(jax.jit(function)(jax.numpy.zeros((2, 3)), LABELS)) == pytest.approx(np.log(3), rel=1e-6)
        with pytest.raises(TypeError, match="<function loss at"):
            jax.jit(function)(jax.numpy.zeros((2, 3)), LABELS, convention="torch")


@pytest.mark.parametrize("name", NAMES)
def test_each_keyword_that_a_function_does_not_have_is_refused(module, name):
    function = getattr(module, name)
    first = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for keyword in set(options.DEFAULTS) - set(inspect.signature(function).parameters):
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument '{keyword}'\."):
            function(*(own(module, LOGITS) for _ in first), **{keyword: options.DEFAULTS[keyword]})


class GroupedOptions(options.LossOptions, total=False):
    group: str


def test_a_backend_has_keywords_of_its_own():
    backend = importlib.import_module("multismooth.numpy").NumpyBackend()
    backend.options = {options.LossOptions: GroupedOptions}
    functions = Functions(backend)
    functions._arguments.checked = lambda *arguments, group: (group, None)
    loss, terms = public(functions.loss, "module"), public(functions.terms, "module")
    assert inspect.signature(loss).parameters["group"] == inspect.Parameter(
        "group", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=str
    )
    backend.loss = lambda call: call.problem
    assert loss(LOGITS, LABELS, group="ranks") == "ranks"
    with pytest.raises(TypeError, match="unexpected keyword argument 'group'"):
        terms(LOGITS, LABELS, group="ranks")
