"""The registry against the libraries themselves, where they are installed: values and gradients, by name.

PyTorch, Optax and Keras (on JAX) belong to the test environment. Those of `OPTIONAL` are run where they are found;
what they returned once is in tests/golden in any case.
"""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from requirements import missing, need

import multismooth.numpy as ms
from multismooth import conventions

ROWS, CLASSES = 7, 6
SEEDS = range(6)


def problem(seed):
    rng = np.random.default_rng(seed)
    return {
        "z": 2 * rng.normal(size=(ROWS, CLASSES)),
        "y": rng.integers(0, CLASSES, ROWS),
        "soft": rng.dirichlet(np.ones(CLASSES), ROWS),
        "w": rng.uniform(0.5, 2, CLASSES),
        "s": rng.uniform(0.5, 2, ROWS) * (rng.random(ROWS) < 0.8),
        "eps": rng.uniform(0.05, 0.4),
    }


def ignored(y):
    """The labels with two of them replaced by −100."""
    return np.where(np.arange(ROWS) % 4 == 1, -100, y)


# --- the libraries: each case is (value, gradient) of theirs, and the targets and arguments of ours -----------------


def of_torch(loss, z):
    torch = need("torch")
    logits = torch.tensor(z, requires_grad=True)
    value = loss(torch, logits)
    return value.item(), torch.autograd.grad(value, logits)[0].numpy()


def torch_cases(z, y, soft, w, s, eps):
    def cross_entropy(targets, weight=None):
        def loss(torch, logits):
            weights = None if weight is None else torch.tensor(weight)
            return torch.nn.functional.cross_entropy(logits, torch.tensor(targets), weight=weights, label_smoothing=eps)

        return of_torch(loss, z), targets, {"weight": weight}

    for targets in (y, ignored(y), soft):
        yield cross_entropy(targets)
        yield cross_entropy(targets, w)


def kl_div(reduction):
    def cases(z, y, soft, w, s, eps):
        for targets, rows in ((y, np.eye(CLASSES)[y]), (soft, soft)):

            def loss(torch, logits, rows=rows):
                q = torch.tensor(rows * (1 - eps) + eps / CLASSES)
                return torch.nn.functional.kl_div(logits.log_softmax(1), q, reduction=reduction)

            yield of_torch(loss, z), targets, {}

    return cases


def of_jax(loss, z):
    jax = need("jax")
    value, slope = jax.value_and_grad(loss)(jax.numpy.asarray(z))
    return float(value), np.asarray(slope)


def optax_cases(z, y, soft, w, s, eps):
    optax = need("optax")
    for targets, rows in ((y, np.eye(CLASSES)[y]), (soft, soft)):
        smooth = optax.smooth_labels(need("jax.numpy").asarray(rows), eps)
        yield of_jax(lambda logits, q=smooth: optax.softmax_cross_entropy(logits, q).mean(), z), targets, {}


def optax_kl_cases(z, y, soft, w, s, eps):
    jax, optax = need("jax"), need("optax")
    smooth = optax.smooth_labels(jax.numpy.asarray(np.eye(CLASSES)[y]), eps)
    yield of_jax(lambda logits: optax.kl_divergence(jax.nn.log_softmax(logits), smooth).mean(), z), y, {}


def one_hot_cases(z, y, soft, w, s, eps):
    jax, optax = need("jax"), need("optax")
    smooth = optax.smooth_labels(jax.nn.one_hot(ignored(y), CLASSES, dtype="float64"), eps)
    yield of_jax(lambda logits: optax.softmax_cross_entropy(logits, smooth).mean(), z), ignored(y), {}


def keras_cases(reduction):
    def cases(z, y, soft, w, s, eps):
        os.environ.setdefault("KERAS_BACKEND", "jax")
        keras = need("keras")
        if keras.backend.backend() != "jax":
            pytest.skip(f"Keras runs on {keras.backend.backend()} here, not on JAX")
        theirs = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=eps, reduction=reduction, dtype="float64"
        )
        for targets, rows in ((y, np.eye(CLASSES)[y]), (soft, soft)):
            for weights in (None, s):
                value = of_jax(lambda logits, q=rows, c=weights: theirs(q, logits, sample_weight=c), z)
                yield value, targets, {"sample_weight": weights}

    return cases


def part(library, place):
    """A library's subpackage by itself: `import timm`, say, wants a torchvision that fits PyTorch's CPU build."""
    found = importlib.util.find_spec(library)
    if found is None:
        missing(library, f"{library} is not installed")
    path = Path(found.origin).parent / place
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    name = f"{library}_alone"
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timm_cases(z, y, soft, w, s, eps):
    timm = part("timm", "loss/__init__.py")
    yield of_torch(lambda torch, logits: timm.LabelSmoothingCrossEntropy(eps)(logits, torch.tensor(y)), z), y, {}


def transformers_cases(z, y, soft, w, s, eps):
    smoother = need("transformers.trainer_pt_utils").LabelSmoother(eps)
    labels = ignored(y)

    def loss(torch, logits):
        return smoother({"logits": logits[None]}, torch.tensor(labels)[None])

    yield of_torch(loss, z), labels, {}


def monai_cases(z, y, soft, w, s, eps):
    losses = need("monai.losses")

    def loss(torch, logits):
        both = losses.DiceCELoss(
            softmax=True, lambda_dice=0.0, weight=torch.tensor(w), label_smoothing=eps, to_onehot_y=True
        )
        return both(logits.T[None, :, :, None], torch.tensor(y)[None, None, :, None])

    yield of_torch(loss, z), y, {"weight": w}


def pixels(loss):
    """For segmentation: rows as the pixels of one picture, classes on axis 1; two of them ignored."""

    def cases(z, y, soft, w, s, eps):
        labels = ignored(y)

        def picture(torch, logits):
            return loss(eps)(logits.T[None, :, :, None], torch.tensor(labels)[None, :, None])

        yield of_torch(picture, z), labels, {}

    return cases


def segmentation_models(eps):
    return part("segmentation_models_pytorch", "losses/__init__.py").SoftCrossEntropyLoss(smooth_factor=eps)


REQUIRED = {
    "torch": torch_cases,
    "torch-kl-div": kl_div("batchmean"),
    "torch-kl-div-mean": kl_div("mean"),
    "optax": optax_cases,
    "optax-kl": optax_kl_cases,
    "optax-one-hot": one_hot_cases,
    "keras": keras_cases("sum_over_batch_size"),
    "keras-weighted": keras_cases("mean_with_sample_weight"),
}
OPTIONAL = {
    "timm": timm_cases,
    "transformers": transformers_cases,
    "monai": monai_cases,
    "segmentation-models": pixels(segmentation_models),
}
LOOSE = {"transformers": 1e-6}  # it sums the smoothing term in float32
PEERS = REQUIRED | OPTIONAL


@pytest.fixture(scope="module", autouse=True)
def wide():
    """float64 throughout: JAX and Keras compute in float32 unless told otherwise."""
    try:
        import jax
    except ImportError:
        yield
        return
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def gap(name, convention, seeds=SEEDS):
    """The largest difference, loss or gradient, between a library and a convention."""
    largest = 0.0
    for given in map(problem, seeds):
        for (value, slope), targets, call in PEERS[name](**given):
            call = {key: argument for key, argument in call.items() if argument is not None}
            ours, gradient = ms.loss_and_grad(
                given["z"], targets, label_smoothing=given["eps"], convention=convention, **call
            )
            largest = max(largest, abs(float(ours) - value), np.abs(gradient - slope).max())
    return largest


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
def test_a_name_is_its_library(name):
    assert gap(name, conventions[name]) < LOOSE.get(name, 1e-12)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
def test_another_convention_is_not(name):
    own = conventions[name]
    others = {
        "spread": "others",
        "objective": {"kl": "cross_entropy", "cross_entropy": "kl"}[own.objective],
        "smoothing_map": "classy",
        "denominator": "all" if own.denominator == "classes" else "classes",
        "scale": 2.0,
    }
    for field, value in others.items():
        assert gap(name, replace(own, **{field: value}), seeds=[0]) > 1e-4, field
