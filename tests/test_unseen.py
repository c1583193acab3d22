"""Where values cannot be seen, a wrong one is NaN: never a number without a word. ε that is known is refused."""

import numpy as np
import pytest
from requirements import need

import multismooth

LOGITS, LABELS = np.linspace(-1, 1, 12).reshape(4, 3) ** 3, np.array([0, 1, 2, 0])
WRONG = (  # (argument, what it must not be, what it may be, whether it is one element's)
    ("label_smoothing", 1.5, 0.1, False),
    ("label_smoothing", -0.1, 0.1, False),
    ("label_smoothing", np.array([0.1, 1.5, 0.1, 0.1]), np.full(4, 0.1), True),
    ("label_smoothing", np.array([0.1, np.nan, 0.1, 0.1]), np.full(4, 0.1), True),
    ("sample_weight", np.array([1.0, -1.0, 1.0, 1.0]), np.ones(4), True),
    ("weight", np.array([1.0, -1.0, 1.0]), np.ones(3), False),
    ("weight", np.array([1.0, np.inf, 1.0]), np.ones(3), False),
    ("prior", np.array([0.5, 0.2, 0.2]), np.full(3, 1 / 3), False),
    ("prior", np.array([[0.5, 0.25, 0.25], [0.5, 0.2, 0.2], [0.5, 0.25, 0.25]]), np.full((3, 3), 1 / 3), True),
    ("z_loss", -1.0, 0.1, False),
    ("normalizer", -1.0, 2.0, False),
    ("normalizer", 0.0, 2.0, False),
    ("targets", np.array([0, 3, 2, 0]), LABELS, True),
    ("targets", np.array([0, -1, 2, 0]), LABELS, True),
    ("targets", LOGITS, np.eye(3)[LABELS], False),
    ("targets", np.array([[1.0, 0, 0], [0.5, 0.2, 0], [0, 0, 1], [1, 0, 0]]), np.eye(3)[LABELS], True),
    ("targets", np.array([[1.0, 0, 0], [1.5, -0.5, 0], [0, 0, 1], [1, 0, 0]]), np.eye(3)[LABELS], True),
)


def batched(framework, function, argument, values, **rest):
    """What function(logits or hidden, targets, …) returns for each value of an argument, as vmap sees them: as none."""
    call, head = getattr(getattr(multismooth, framework), function), "linear" in function or "correction" in function

    def run(value, targets, eye, logits):
        arrays = {"targets": targets} | {argument: value}
        targets = arrays.pop("targets")
        if function == "smooth_targets":
            return call(targets, 3, **arrays, **rest)
        found = call(logits, *([eye] if head else []), targets, **arrays, **rest)
        return found[0] if isinstance(found, tuple) else found

    arrays = np.stack([np.asarray(value) for value in values]), *(np.stack([x, x]) for x in (LABELS, np.eye(3), LOGITS))
    if framework == "jax":
        jax = need("jax")
        with jax.enable_x64(True):
            return np.asarray(jax.vmap(run)(*arrays))
    torch = need("torch")
    return torch.func.vmap(run)(*map(torch.from_numpy, arrays)).numpy()


FUNCTIONS = {
    "loss": ("mean", "none"),
    "terms": (None,),
    "linear_loss": ("mean", "none"),
    "smoothing_correction": ("mean", "none"),
    "smooth_targets": (None,),
}
LACKS = {
    "terms": ("normalizer",),
    "smoothing_correction": ("weight", "z_loss"),
    "smooth_targets": ("normalizer", "weight", "z_loss", "sample_weight"),
}


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_wrong_value_out_of_sight_is_nan(framework, function):
    need(framework)
    for reduction in FUNCTIONS[function]:
        for argument, wrong, right, single in WRONG:
            soft = argument == "targets" and wrong.ndim == 2
            rows = argument == "prior" and wrong.ndim == 2
            if argument in LACKS.get(function, ()) or (argument == "normalizer" and reduction != "mean"):
                continue
            if function == "smoothing_correction" and (soft or rows):
                continue
            given = {} if reduction is None else {"reduction": reduction}
            bad, good = batched(framework, function, argument, (wrong, right), **given)
            assert np.isfinite(good).all(), (argument, right)
            if bad.ndim == 0:
                assert np.isnan(bad), (argument, wrong)
                continue
            each = np.isnan(bad.reshape(bad.shape[0], -1)).any(1)
            expected = [False, True, False, False] if single else [True] * 4
            assert each.tolist() == expected, (argument, wrong)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_known_smoothing_outside_the_range_is_refused_while_a_compiler_reads(framework):
    module = getattr(multismooth, framework)
    if framework == "jax":
        jax = need("jax")
        compiled, error = jax.jit, multismooth.SmoothingError
    else:
        torch = need("torch")
        compiled, error = lambda f: torch.compile(f, backend="eager"), multismooth.SmoothingError
    arrays = (LOGITS.astype(np.float32), np.eye(3, dtype=np.float32), LABELS)
    logits, eye, labels = (module_array(framework, x) for x in arrays)
    for wrong in (1.5, -0.1, float("nan")):
        for call in (
            lambda z, wrong=wrong: module.loss(z, labels, label_smoothing=wrong),
            lambda z, wrong=wrong: module.terms(z, labels, label_smoothing=wrong).loss,
            lambda z, wrong=wrong: module.linear_loss(z, eye, labels, label_smoothing=wrong),
            lambda z, wrong=wrong: module.binary_loss(z, z * 0, label_smoothing=wrong),
        ):
            with pytest.raises(error, match="label_smoothing"):
                compiled(call)(logits)


@pytest.mark.parametrize("name", ["loss", "cross_entropy", "binary_loss"])
def test_smoothing_that_a_compiler_takes_for_a_symbol_is_refused(name):
    torch = need("torch")
    module = need("multismooth.torch")
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    targets = logits * 0 if name == "binary_loss" else labels
    torch._dynamo.reset()
    compiled = torch.compile(lambda ε: getattr(module, name)(logits, targets, label_smoothing=ε), backend="eager")
    for right in (0.1, 0.2, 0.3):
        assert torch.isfinite(compiled(right))
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(multismooth.SmoothingError, match="label_smoothing"):
            compiled(wrong)


def module_array(framework, value):
    return need("torch").from_numpy(value) if framework == "torch" else need("jax.numpy").asarray(value)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_binary_targets_out_of_sight(framework):
    call = getattr(multismooth, framework).binary_loss
    targets = np.array([[0.0, 1.0, 1.5, -0.5]])
    if framework == "jax":
        jax = need("jax")
        with jax.enable_x64(True):
            found = np.asarray(jax.jit(lambda z, t: call(z, t, reduction="none"))(np.zeros((1, 4)), targets))
    else:
        torch = need("torch")
        z, t = torch.zeros(1, 1, 4, dtype=torch.float64), torch.from_numpy(targets)[None]
        found = torch.func.vmap(lambda z, t: call(z, t, reduction="none"))(z, t)[0].numpy()
    assert np.isnan(found).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_rows_that_nobody_is_to_look_at_are_taken_as_they_are(framework):
    rows = np.array([[0.5, 0.2, 0.1], [2.0, 0.0, 0.0]])
    module, z = getattr(multismooth, framework), module_array(framework, np.zeros((2, 3), np.float32))
    each = module.loss(z, module_array(framework, rows), label_smoothing=0.0, reduction="none", validate=False)
    np.testing.assert_allclose(np.asarray(each), rows.sum(1) * np.log(3), rtol=1e-6)
