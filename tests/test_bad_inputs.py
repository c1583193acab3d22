"""Bad input is a clear error that names argument, expected, got and remedy; never a silently wrong number."""

import importlib
import inspect
import re
import warnings

import bad_calls
import numpy as np
import pytest
from bad_calls import LABELS, LOGITS, ROWS
from requirements import need

import multismooth
from multismooth import LabelError, SmoothingError, SmoothingWarning, TargetError


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array):
    """The array in the backend's own type (lists and numbers stay)."""
    if type(array) is not np.ndarray or array.dtype.kind not in "biuf":
        return array
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(array.copy())
    return need("jax").numpy.asarray(array) if ms.__name__.endswith("jax") else array


def call(ms, logits=LOGITS, targets=LABELS, function="loss", **options):
    arguments = {"logits": logits, "targets": targets} | options
    return getattr(ms, function)(**{name: own(ms, value) for name, value in arguments.items()})


def refused(ms, bad):
    """The error of a call of the table, which has to be of its kind and say what it must."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmoothingWarning)
        with pytest.raises(bad.error, match=f"(?s){bad.match}") as caught:
            getattr(ms, bad.function)(**{name: own(ms, value) for name, value in bad.arguments.items()})
    return caught.value


@pytest.mark.parametrize("bad", bad_calls.ALL, ids=str)
def test_it_is_refused_with_the_remedy(ms, bad):
    """Every text has the four parts: the argument, which the function has, what was expected, what came, the remedy."""
    text = str(refused(ms, bad))
    parts = re.fullmatch(r"`(\w+)`: expected (.+); got (.+?)\. (\S.+[.?])", text, re.DOTALL)
    assert parts, text
    assert parts[1] in inspect.signature(getattr(ms, bad.function)).parameters


def test_the_axis_may_be_said_where_the_shapes_leave_it_open(ms):
    logits, labels = np.random.default_rng(0).normal(size=(2, 4, 4)), np.arange(8).reshape(2, 4) % 4
    first, last = (float(call(ms, logits, labels, axis=axis)) for axis in (1, -1))
    assert first != last
    assert float(call(ms, logits.swapaxes(1, 2), labels, axis=1)) == pytest.approx(last, rel=1e-6)


def warning(name, match, **arguments):
    return pytest.param(arguments, match, id=name)


WARNINGS = [
    warning("ε too high", r"label_smoothing=0.9 shares out more than it leaves", label_smoothing=0.9),
    warning("others beyond (K−1)/K", "larger at another class", label_smoothing=0.7, convention="others"),
    warning("a prior that wins", "larger at another class", label_smoothing=0.6, prior=np.array([0.0, 0, 1])),
    warning("weights", r"30 times the smallest, more than 28 ", weight=np.array([1.0, 30, 1])),
    warning("weights under others", r"20 times .* more than 18 ", weight=np.array([1.0, 20, 1]), convention="others"),
    warning("one class", "one class on axis 1.*binary_loss", logits=LOGITS[:, :1], targets=LABELS * 0),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "match"), WARNINGS)
def test_what_is_probably_not_meant_warns_where_it_was_written(ms, arguments, match):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(ms, **arguments)
    assert any(re.search(match, str(warning.message)) for warning in caught), caught
    assert {warning.category for warning in caught} == {SmoothingWarning}
    assert {warning.filename for warning in caught} == {__file__}


def test_what_is_meant_does_not_warn(ms):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(ms, label_smoothing=0.5)
        call(ms, weight=np.array([1.0, 27, 1]))
        call(ms, weight=np.array([1.0, 1, 100]), class_mask=np.array([True, True, False]), targets=LABELS * 0)
        call(ms, label_smoothing=0.3, prior=np.array([0.2, 0.2, 0.6]))
        padded = {"convention": multismooth.Convention(exclude=(0,)), "targets": LABELS * 0 + 1}
        call(ms, weight=np.array([100.0, 1, 1]), **padded)
        call(ms, weight=np.array([100.0, 1, 100]), class_mask=np.array([True, True, False]), **padded)


@pytest.mark.parametrize("label", [-1, 3, 200])
def test_without_validation_a_bad_label_is_nan_for_its_element_alone(ms, label):
    labels = np.array([0, label, 1, 0])
    found = np.asarray(call(ms, targets=labels, reduction="none", validate=False))
    assert np.isnan(found[1])
    np.testing.assert_allclose(
        found[[0, 2, 3]], np.asarray(call(ms, reduction="none"))[[0, 2, 3]] * [1, 0, 1] + [0, found[2], 0], rtol=1e-6
    )
    _, gradient = ms.loss_and_grad(own(ms, LOGITS), own(ms, labels), validate=False)
    assert np.isnan(np.asarray(gradient)[1]).all()
    assert np.isfinite(np.asarray(gradient)[[0, 2, 3]]).all()


def test_without_validation_values_pass(ms):
    assert np.isfinite(float(call(ms, targets=2 * ROWS, validate=False)))
    assert np.isfinite(float(call(ms, logits=np.full((4, 3), [0.2, 0.3, 0.5]), validate=False)))


def test_validate_true_checks_too(ms):
    with pytest.raises(LabelError):
        call(ms, targets=np.array([0, 5, 1, 0]), validate=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_integer_dtype_of_labels(ms, dtype):
    if ms.__name__.endswith("torch") and dtype in (np.uint16, np.uint32, np.uint64):
        labels = need("torch").from_numpy(LABELS).to(getattr(need("torch"), np.dtype(dtype).name))
    else:
        labels = own(ms, LABELS.astype(dtype))
    assert float(ms.loss(own(ms, LOGITS), labels)) == float(call(ms))


def test_labels_beyond_32_bits_do_not_wrap(ms):
    labels = np.array([0, 2**32, 1, 0])
    with pytest.raises(LabelError, match=r"at \(1,\)"):
        ms.loss(own(ms, LOGITS), labels if ms.__name__.endswith("jax") else own(ms, labels))


def test_out_is_checked(ms):
    if ms.__name__.endswith("jax"):
        with pytest.raises(ValueError, match="`out`: expected None in JAX"):
            ms.loss_and_grad(own(ms, LOGITS), own(ms, LABELS), out=own(ms, LOGITS))
        return
    out = own(ms, np.empty_like(LOGITS))
    _, gradient = ms.loss_and_grad(own(ms, LOGITS), own(ms, LABELS), out=out)
    assert gradient is out
    np.testing.assert_array_equal(np.asarray(out), np.asarray(ms.loss_and_grad(own(ms, LOGITS), own(ms, LABELS))[1]))
    logits = own(ms, LOGITS)
    assert ms.loss_and_grad(logits, own(ms, LABELS), out=logits)[1] is logits
    with pytest.raises(ValueError, match="`out`: expected"):
        ms.loss_and_grad(own(ms, LOGITS), own(ms, LABELS), out=own(ms, np.empty((4, 2))))


def test_errors_are_value_errors_and_label_errors_index_errors():
    assert issubclass(TargetError, ValueError)
    assert issubclass(LabelError, IndexError)
    assert issubclass(SmoothingError, ValueError)
    assert issubclass(multismooth.MissingBackendError, ImportError)
