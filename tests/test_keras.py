"""multismooth.keras.Loss trains like Keras' own losses: targets, weights, masks, half precision, saved models, errors.

Keras has one backend in a process. The last test runs this file again with Keras on PyTorch.
"""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import programs
import pytest
from requirements import need

BACKEND = os.environ["KERAS_BACKEND"]
if BACKEND not in ("jax", "torch"):
    pytest.skip("KERAS_BACKEND is neither jax nor torch", allow_module_level=True)
keras = need("keras")
need(BACKEND)

# Keras' own conversions of tensors to arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

import multismooth  # noqa: E402
import multismooth.numpy as ms  # noqa: E402
from multismooth.keras import Loss  # noqa: E402

K, N = 5, 32
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, 6)).astype(np.float32)
LOGITS = RNG.normal(size=(N, K)).astype(np.float32)
LABELS = RNG.integers(0, K, N)
ROWS = np.eye(K, dtype=np.float32)[LABELS]
SOFT = RNG.dirichlet(np.ones(K), N).astype(np.float32)
WEIGHTS = RNG.uniform(0, 2, N).astype(np.float32)
IGNORED = np.where(np.arange(N) % 3 == 0, -1, LABELS)


def categorical(**settings):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, **settings)


def sparse(**settings):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **settings)


def dense(activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(K, activation=activation)])


def fitted(loss, y, model=dense, x=FEATURES, **settings):
    """(the loss of each epoch, the weights) after six steps."""
    model = model()
    model.compile(keras.optimizers.SGD(0.1), loss=loss)
    history = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0, **settings).history
    return [np.array(history["loss"]), *model.get_weights()]


def assert_same(found, expected, tolerance=1e-6):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@functools.cache
def trained_by_keras():
    return fitted(categorical(), ROWS)


TARGETS = {
    "labels": LABELS,
    "a column of labels": LABELS[:, None].astype(np.int32),
    "float labels": LABELS.astype(np.float32),
    "a column of float labels": LABELS[:, None].astype(np.float32),
    "one-hot rows": ROWS,
    "integer one-hot rows": ROWS.astype(np.int64),
    "boolean one-hot rows": ROWS.astype(bool),
}


@pytest.mark.parametrize("form", TARGETS)
def test_it_trains_like_categorical_crossentropy_on_every_form_of_targets(form):
    assert_same(fitted(Loss(0.1), TARGETS[form]), trained_by_keras())


def test_another_convention_trains_otherwise():
    loss, *_ = fitted(Loss(0.1, convention="others"), LABELS)
    assert np.abs(loss - trained_by_keras()[0]).min() > 1e-3


def test_soft_rows_are_smoothed_as_keras_smooths_them():
    assert_same(fitted(Loss(0.1), SOFT), fitted(categorical(), SOFT))


def test_without_smoothing_it_trains_like_sparse_categorical_crossentropy_with_class_weights():
    classes = {k: 0.5 + k for k in range(K)}
    assert_same(fitted(Loss(0.0), LABELS, class_weight=classes), fitted(sparse(), LABELS, class_weight=classes))


REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS[:, None]], ids=["unweighted", "N", "N1"])
def test_reductions_and_sample_weights_mean_what_they_mean_in_keras(reduction, weights):
    pairs = [
        (Loss(0.1, reduction=reduction), categorical(reduction=reduction), LABELS, ROWS),
        (Loss(0.1, reduction=reduction), categorical(reduction=reduction), SOFT, SOFT),
        (
            Loss(0.0, reduction=reduction, ignore_index=-1),
            sparse(reduction=reduction, ignore_class=-1),
            IGNORED,
            IGNORED,
        ),
    ]
    for own, theirs, mine, keras_targets in pairs:
        found, expected = (numpy(loss(y, LOGITS, weights)) for loss, y in ((own, mine), (theirs, keras_targets)))
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=2e-6, atol=2e-6)


def numpy(array):
    return keras.ops.convert_to_numpy(array)


def tokens():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((5,)), keras.layers.Embedding(7, 4, mask_zero=True), keras.layers.Dense(K)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
def test_masks_mean_what_they_mean_in_keras(reduction, weighted):
    x = RNG.integers(1, 7, (N, 5)) * (np.arange(5) < RNG.integers(1, 6, (N, 1)))
    y, weights = x * 7 % K, RNG.uniform(0, 2, x.shape) if weighted else None
    losses = Loss(0.0, reduction=reduction), sparse(reduction=reduction)
    found, expected = (fitted(loss, y, tokens, x, sample_weight=weights) for loss in losses)
    assert_same(found, expected)
    unmasked = fitted(losses[1], y, lambda: masked(False), x, sample_weight=weights)
    assert np.abs(found[0] - unmasked[0]).max() > 1e-3


def masked(on):
    model = tokens()
    model.layers[0].mask_zero = model.layers[0].supports_masking = on
    return model


def test_what_is_switched_off_may_hold_nan():
    logits = LOGITS.copy()
    logits[::2] = np.nan
    weights = (np.arange(N) % 2).astype(np.float32)
    expected = Loss(0.1)(LABELS, LOGITS, weights)
    labels = np.where(weights == 0, np.nan, LABELS).astype(np.float32)
    np.testing.assert_array_equal(numpy(Loss(0.1)(labels, logits, weights)), numpy(expected))
    assert numpy(Loss(0.1, ignore_index=-1)(np.full(N, -1), logits)) == 0


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 1e-2)])
def test_mixed_precision_differs_from_keras_by_rounding_alone(policy, tolerance):
    before = keras.mixed_precision.global_policy() if hasattr(keras.mixed_precision, "global_policy") else "float32"
    keras.mixed_precision.set_global_policy(policy)
    try:
        found, expected = (fitted(loss, ROWS) for loss in (Loss(0.1), categorical()))
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert_same(found, expected, tolerance)


def test_labels_are_not_rounded_to_the_dtype_of_the_loss():
    logits = np.zeros((1, 300), np.float32)
    logits[0, 257] = 50
    assert float(Loss(0.0, dtype="bfloat16")([257], logits)) == 0


def test_other_conventions_and_class_weights_are_those_of_the_functions():
    options = {"label_smoothing": 0.2, "convention": "torch", "weight": np.linspace(0.5, 2, K), "z_loss": 1e-3}
    options["logit_softcap"] = 3.0
    own = Loss(**options, reduction="convention")(LABELS, LOGITS, WEIGHTS)
    assert float(own) == pytest.approx(float(ms.loss(LOGITS, LABELS, sample_weight=WEIGHTS, **options)), rel=1e-6)
    images = np.moveaxis(LOGITS.reshape(2, 4, 4, K), -1, 1)
    own = Loss(0.1, axis=1)(LABELS.reshape(2, 1, 4, 4).astype(np.float32), images)
    assert float(own) == pytest.approx(float(Loss(0.1)(LABELS, LOGITS)), rel=1e-6)


@pytest.mark.parametrize(
    "convention", ["fairseq", multismooth.Convention(spread="others", scale=2.0)], ids=["name", "own"]
)
def test_a_compiled_model_is_saved_with_its_loss(convention, tmp_path):
    weight = [1.0, 2.0, 0.5, 1.0, 3.0]
    loss = Loss(0.2, convention, weight=weight, ignore_index=-1, reduction="sum", name="smoothed")
    model = dense()
    model.compile("sgd", loss=loss)
    model.fit(FEATURES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config() == json.loads(json.dumps(loss.get_config()))
    assert loaded.loss.options["convention"] == convention
    assert loaded.loss.name == "smoothed"
    assert pickle.loads(pickle.dumps(copy.deepcopy(loss))).get_config() == loss.get_config()
    assert loaded.evaluate(FEATURES, LABELS, verbose=0) == model.evaluate(FEATURES, LABELS, verbose=0)


# --- what is refused ------------------------------------------------------------------------------------------------


def softmax():
    return dense("softmax")


def test_a_model_that_ends_in_a_softmax_is_refused():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    with pytest.raises(ValueError, match="probabilities"):
        Loss()(LABELS, probabilities)
    if BACKEND == "torch":
        with pytest.raises(ValueError, match='Leave activation="softmax" out'):
            fitted(Loss(), LABELS, softmax)
    else:
        assert np.isnan(fitted(Loss(), LABELS, softmax)[0]).all()
        assert np.isfinite(fitted(Loss(validate=False), LABELS, softmax)[0]).all()


def test_labels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`y_true`: expected labels that are whole numbers.* got 1.5 at \(0,\)"):
        Loss()(np.full(N, 1.5), LOGITS)
    if BACKEND == "jax":
        assert np.isnan(fitted(Loss(), LABELS + 0.5)[0]).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Loss(smoothing=0.1), "unexpected keyword argument 'smoothing'. Did you mean label_smoothing"),
        (lambda: Loss(sample_weight=WEIGHTS), "unexpected keyword argument 'sample_weight'"),
        (lambda: Loss(reduction="avg"), "`reduction`: expected 'sum_over_batch_size' or"),
        (lambda: Loss(convention="kears"), "`convention`"),
        (lambda: Loss(1.5)(LABELS, LOGITS), "`label_smoothing`"),
        (lambda: Loss()(LABELS + K, LOGITS), r"labels in \[0, 5\)"),
        (lambda: Loss()(np.zeros((4, 1)), np.zeros((4, 1))), "BinaryCrossentropy"),
        (lambda: Loss()(np.zeros((4, 4)), np.zeros((4, 4, K)), np.ones(4)), r"Pass sample_weight\[:, None\]"),
    ],
)
def test_wrong_arguments_are_errors(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()


@pytest.mark.parametrize("y", [ROWS, LABELS], ids=["rows", "labels"])
@pytest.mark.parametrize(
    "function", [multismooth.loss, multismooth.focal_loss, multismooth.binary_loss], ids=lambda f: f.__name__
)
def test_a_function_given_to_compile_is_refused_because_keras_swaps_its_arguments(function, y):
    """With a softmax these would train without a word: the rows as logits, the probabilities as soft targets."""
    for loss in (function, functools.partial(function, label_smoothing=0.1)):
        with pytest.raises(TypeError, match=r"Keras, which passes \(y_true, y_pred\).*multismooth\.keras\.Loss"):
            fitted(loss, y, softmax)


def test_a_function_of_the_user_may_swap_them_back():
    assert_same(fitted(lambda y, z: multismooth.loss(z, y, label_smoothing=0.1), ROWS), trained_by_keras())


def imported(backend):
    code = "import multismooth.keras; multismooth.keras.Loss()"
    environment = os.environ | {"KERAS_BACKEND": backend}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


on_jax_alone = pytest.mark.skipif(BACKEND == "torch", reason="the same on the torch backend")


@on_jax_alone
@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
def test_other_backends_of_keras_are_refused_in_words(backend):
    said = imported(backend).stderr.strip().splitlines()[-1]
    assert "KERAS_BACKEND" in said, said
    assert "jax or torch" in said, said
    assert backend in said, said


@on_jax_alone
def test_all_of_it_holds_on_the_torch_backend():
    need("torch")
    options = "-q", "-p", "no:cacheprovider", "--assert=plain", __file__  # what is imported cannot be rewritten
    ended = programs.run("-m", "pytest", *options, imports=("torch._dynamo", "numba", "pytest"), KERAS_BACKEND="torch")
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
