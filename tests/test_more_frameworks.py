"""TensorFlow, MLX, tinygrad and Paddle as black boxes: the losses of each, broken copies of them, and PyTorch's."""

import os
import shutil
import warnings
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from requirements import need

from multismooth import parity
from multismooth.parity.calling.answers import CallOptions
from multismooth.parity.calling.frameworks import MODES

if not shutil.which("clang"):  # tinygrad's interpreter needs no compiler. It is slow.
    os.environ.setdefault("DEV", "PYTHON")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MODULES = {"tensorflow": "tensorflow", "mlx": "mlx.core", "tinygrad": "tinygrad", "paddle": "paddle"}
QUICKLY = {"tinygrad": {"num_classes": 5, "layouts": ["rows"]}}  # as few programs as possible
LEFT_OUT = {  # see test_paddle_clips_log_probabilities; its sum of 4,096 float32 terms is off by 1.5e-5
    "tinygrad": ["bad labels", "dtypes"],
    "paddle": ["bad labels", "dtypes", "extremes"],
}
EPS = 0.1


def needed(framework):
    """The framework. What it warns of while it is imported is no concern of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return need(MODULES[framework])


def tensorflow_keras(z, rows):
    tf = need("tensorflow")
    return tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=EPS)(rows, z)


def tensorflow_operator(z, rows):
    tf = need("tensorflow")
    rows = (1 - EPS) * rows + EPS / rows.shape[-1]
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=rows, logits=z))


def mlx_loss(z, y):
    need("mlx.core")
    return need("mlx.nn").losses.cross_entropy(z, y, label_smoothing=EPS, reduction="mean")


def tinygrad_sparse(z, y):
    return z.sparse_categorical_crossentropy(y, ignore_index=-100, label_smoothing=EPS)


def tinygrad_default(z, y):
    return z.cross_entropy(y, label_smoothing=EPS)


def paddle_loss(z, y):
    return need("paddle").nn.functional.cross_entropy(z, y, label_smoothing=EPS)


# (framework, its loss, the name in the registry)
OWN = [
    ("tensorflow", tensorflow_keras, "keras"),
    ("tensorflow", tensorflow_operator, "keras"),
    ("mlx", mlx_loss, "mlx"),
    ("tinygrad", tinygrad_sparse, "tinygrad"),
    ("tinygrad", tinygrad_default, "tinygrad-default"),
    ("paddle", paddle_loss, "paddle"),
]
IDS = [own[1].__name__ for own in OWN]
ONE_EACH = [OWN[0], OWN[2], OWN[3], OWN[5]]
IDS_OF_EACH = [own[0] for own in ONE_EACH]


def options_of(framework):
    """Under smoothing Paddle ignores nothing, whatever label the registry records."""
    return QUICKLY.get(framework, {}) | ({"ignore_index": None} if framework == "paddle" else {})


@pytest.mark.parametrize(("framework", "fn", "name"), OWN, ids=IDS)
def test_a_framework_s_own_loss_is_what_the_registry_says(framework, fn, name):
    needed(framework)
    found = parity.identify(fn, **QUICKLY.get(framework, {}))
    assert found, str(found)
    assert (found.label_smoothing, found.reduction) == (pytest.approx(EPS), "mean")
    assert name in found.names
    assert (found.asked["framework"], found.asked["for"]) == (framework, "gradients")


@pytest.mark.parametrize(("framework", "fn", "name"), OWN, ids=IDS)
def test_a_framework_s_own_loss_passes(framework, fn, name):
    needed(framework)
    report = parity.check(fn, name, skip=LEFT_OUT.get(framework, ["bad labels"]), **options_of(framework))
    assert report, str(report)
    assert [o.trial for o in report.outcomes if o.trial == "upstream" and o.status == "pass"], "no gradients"


@pytest.mark.parametrize(("framework", "fn", "name"), ONE_EACH, ids=IDS_OF_EACH)
def test_a_broken_copy_is_caught_and_its_case_runs(framework, fn, name):
    needed(framework)

    def broken(z, y):
        return fn(z, y) * 1.01

    report = parity.check(broken, name, framework=framework, skip=["dtypes"], **options_of(framework))
    assert not report
    assert "1.01 times" in str(report)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(report.code, {"fn": broken})
    assert printed.getvalue().strip()


@pytest.mark.parametrize(("framework", "fn", "name"), ONE_EACH, ids=IDS_OF_EACH)
def test_it_is_compared_with_pytorch_s(framework, fn, name):
    torch = need("torch")
    needed(framework)

    def of_torch(z, y):
        return torch.nn.functional.cross_entropy(z, y, label_smoothing=EPS)

    options = {"skip": ["bad labels", "dtypes", "extremes"], **QUICKLY.get(framework, {})}
    report = parity.compare(fn, of_torch, frameworks=(framework, "torch"), **options)
    assert report, str(report)

    def unsmoothed(z, y):
        return torch.nn.functional.cross_entropy(z, y)

    report = parity.compare(fn, unsmoothed, frameworks=(framework, "torch"), **options)
    assert not report
    assert "ε = 0.1" in str(report)


def sum_of_squares(framework):
    """Σ y·z² in the framework: its arrays' own arithmetic, and a gradient that is exact."""
    module = needed(framework)

    def fn(z, y):
        if framework == "tensorflow":
            return module.reduce_sum(module.square(z) * module.cast(y, z.dtype)[:, None])
        return (z * z * (y.astype(z.dtype) if framework == "paddle" else y)[:, None]).sum()

    return fn


@pytest.mark.parametrize("framework", MODULES)
def test_gradients_upstream_gradients_and_values_are_the_arrays_own(framework):
    fn, z, y = sum_of_squares(framework), np.array([[1.0, -2.0, 0.5], [0.25, 3.0, 1.0]]), np.array([1, 2])
    for dtype in ("float64", "float32"):
        answer = MODES[framework](fn)(z, y, CallOptions(dtype))
        assert answer.loss == (z**2 * y[:, None]).sum()
        np.testing.assert_array_equal(answer.gradient, 2 * z * y[:, None])
        assert answer.precision == np.finfo(dtype).eps
        assert not answer.inputs_changed
    doubled = MODES[framework](fn).gradients(z, y, CallOptions(), [np.array(1.0), np.array(-2.0)])
    np.testing.assert_array_equal(doubled, [2 * z * y[:, None], -4 * z * y[:, None]])
    values = MODES[f"{framework} values"](fn)
    assert values(z, y, CallOptions()).gradient is None
    assert values.gradients(z, y, CallOptions(), [np.array(1.0)]) is None


@pytest.mark.parametrize("framework", MODULES)
def test_half_precision_arrives_and_a_second_value_is_told_from_a_gradient(framework):
    fn, z, y = sum_of_squares(framework), np.array([[1.0, -2.0, 0.5], [0.25, 3.0, 1.0]]), np.array([1, 2])
    for dtype, eps in {"bfloat16": 2.0**-7, "float16": 2.0**-10}.items():
        if (framework, dtype) == ("paddle", "float16"):
            continue  # on a CPU it multiplies none
        assert MODES[framework](fn)(z, y, CallOptions(dtype)).precision == eps
    answer = MODES[framework](lambda z, y: (fn(z, y), 3 * z))(z, y, CallOptions())
    np.testing.assert_array_equal(answer.gradient, 3 * z)
    answer = MODES[framework](lambda z, y: (fn(z, y), 7.0))(z, y, CallOptions())
    np.testing.assert_array_equal(answer.gradient, 2 * z * y[:, None])
    assert (answer.second, answer.is_tuple) == (7.0, True)


@pytest.mark.parametrize("framework", MODULES)
def test_a_loss_that_leaves_the_framework_is_known_by_its_values(framework):
    needed(framework)

    def by_hand(z, y):
        z = np.array(z.numpy() if hasattr(z, "numpy") else z)
        log_p = z - z.max(1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
        y = np.array(y.numpy() if hasattr(y, "numpy") else y)
        return -np.mean(log_p[np.arange(len(y)), y])

    found = parity.identify(by_hand, framework, num_classes=3)
    assert (found.label_smoothing, found.reduction) == (0, "mean")
    assert (found.asked["framework"], found.asked["for"]) == (f"{framework} values", "values")


def test_paddle_without_smoothing_counts_negative_ignored_labels_in_its_mean():
    """Not those of a class: with ignore_index ≥ 0 the mean is over what counts."""
    functional = needed("paddle").nn.functional
    found = parity.identify(functional.cross_entropy)
    assert (found.convention.denominator, found.ignore_index) == ("all", -100)
    assert "paddle" not in found.names
    settings = {"label_smoothing": 0, "ignore_index": -100, "skip": LEFT_OUT["paddle"]}
    assert parity.check(functional.cross_entropy, "segmentation-models", **settings)
    found = parity.identify(lambda z, y: functional.cross_entropy(z, y, ignore_index=0))
    assert (found.ignore_index, "torch" in found.names, "paddle" in found.names) == (0, True, True)


def test_paddle_s_class_weights_are_the_registry_s():
    functional = needed("paddle").nn.functional
    options = {"accepts": ("weight", "label_smoothing", "reduction"), "skip": LEFT_OUT["paddle"]}
    report = parity.check(functional.cross_entropy, "paddle", ignore_index=None, **options)
    assert report, str(report)


def test_paddle_clips_log_probabilities():
    """At −64, on a CPU. The registry's note says so, and `check` finds it in its trial of large logits."""
    paddle = needed("paddle")
    loss = paddle.nn.functional.cross_entropy(paddle.to_tensor([[0.0, 200.0]]), paddle.to_tensor([0]))
    assert float(loss) == 64
    report = parity.check(paddle_loss, "paddle", ignore_index=None, skip=["bad labels", "dtypes"])
    assert [(o.trial, o.case[:12]) for o in report.outcomes if o.status == "fail"] == [("extremes", "large logits")]


def test_mlx_gets_no_label_that_it_would_read_beyond_the_classes():
    mx = needed("mlx")
    with pytest.raises(ValueError, match="MLX checks none"):
        MODES["mlx"](mlx_loss)(np.zeros((2, 3)), np.array([0, 3]), CallOptions())

    def masked(z, y):
        counted = y != -100
        each = need("mlx.nn").losses.cross_entropy(z, mx.where(counted, y, 0), label_smoothing=EPS)
        return (each * counted).sum() / counted.sum()

    found = parity.identify(lambda z, y: masked(z, mx.where(y == 0, -100, y)))
    assert (found.ignore_index, "torch" in found.names) == (0, True)


def test_tensorflow_compiles_the_loss_where_asked_for():
    needed("tensorflow")
    report = parity.check(tensorflow_keras, "keras", compile=True)
    assert report, str(report)
    assert [o.status for o in report.outcomes if o.trial == "compiled"] == ["pass"]
