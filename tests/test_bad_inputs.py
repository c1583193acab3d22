"""Bad input is a clear error that names argument, expected, got and remedy; never a silently wrong number."""

import importlib
import re
import warnings

import numpy as np
import pytest
from conftest import need

import multismooth
from multismooth import LabelError, SmoothingError, SmoothingWarning, TargetError

LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 1.0, 3.0], [0.3, -0.2, 0.9], [1.5, 0.2, 0.1]])
LABELS = np.array([0, 2, 1, 0])
ROWS = np.array([[1.0, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array):
    """The array in the backend's own type (lists and numbers stay)."""
    if not isinstance(array, np.ndarray):
        return array
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(array.copy())
    return need("jax").numpy.asarray(array) if ms.__name__.endswith("jax") else array


def call(ms, logits=LOGITS, targets=LABELS, **options):
    return ms.loss(own(ms, logits), own(ms, targets), **{name: own(ms, value) for name, value in options.items()})


def case(name, error, match, **arguments):
    return pytest.param(arguments, error, match, id=name)


NAN = float("nan")
CASES = [
    case("regression", TargetError, r"`targets`: expected integer labels.*floating values of shape \(4,\)", targets=LABELS * 0.37),
    case("float class ids", TargetError, r"Cast class ids to integers", targets=LABELS * 1.0),
    case("float (N, 1)", TargetError, r"regression", targets=LABELS[:, None] * 1.0),
    case("rows that sum to 2", TargetError, r"sum 2 .*normalise", targets=2 * ROWS),
    case("negative rows", TargetError, r"smallest entry -1", targets=np.array([[2.0, -1, 0]] + [[1.0, 0, 0]] * 3)),
    case("label K", LabelError, r"\[0, 3\).*got 3 at \(1,\).*start at 0", targets=np.array([0, 3, 1, 0])),
    case("label −1", LabelError, r"got -1 at \(2,\).*pass ignore_index=-1", targets=np.array([0, 2, -1, 0])),
    case("label 255", LabelError, r"got 255 at \(0,\) and 1 more.*pass ignore_index=255", targets=np.array([255, 2, 255, 0])),
    case("label −100 not ignored", LabelError, r"got -100", targets=np.array([0, -100, 1, 0]), ignore_index=-1),
    case("no label is special", LabelError, r"got -100", targets=np.array([0, -100, 1, 0]), ignore_index=None),
    case("int one-hot", TargetError, r"One-hot rows must be floating or boolean", targets=ROWS[[0, 1, 0, 1]].astype(int)),
    case("(N, 1) labels", TargetError, r"squeeze\(-1\)", targets=LABELS[:, None]),
    case("too few labels", TargetError, r"shape \(4,\).*got shape \(2,\)", targets=LABELS[:2]),
    case("ε NaN", SmoothingError, r"`label_smoothing`: expected a number in \[0, 1\]; got nan", label_smoothing=NAN),
    case("ε −3", SmoothingError, r"got -3", label_smoothing=-3.0),
    case("ε 1.5", SmoothingError, r"got 1.5", label_smoothing=1.5),
    case("ε True", SmoothingError, r"got True", label_smoothing=True),
    case("ε a word", SmoothingError, r"got 'high'", label_smoothing="high"),
    case("ε per token", SmoothingError, r"got -0.1 at \(1,\)", label_smoothing=np.array([0.1, -0.1, 0, 0])),
    case("ε of a wrong shape", ValueError, r"broadcasts to the elements \(4,\)", label_smoothing=np.array([0.1, 0.2])),
    case("probabilities", ValueError, r"look like probabilities.*before the softmax", logits=np.full((4, 3), [0.2, 0.3, 0.5])),
    case("integer logits", ValueError, r"`logits`: expected a floating dtype", logits=np.ones((4, 3), int)),
    case("no axis", ValueError, r"`logits`: expected at least one axis", logits=np.array(1.0), targets=np.array(0)),
    case("weight shape", ValueError, r"`weight`: expected shape \(3,\)", weight=np.ones(4)),
    case("weight sign", ValueError, r"`weight`.*got -1 at \(1,\)", weight=np.array([1.0, -1, 1])),
    case("prior shape", ValueError, r"`prior`: expected shape \(3,\) or \(3, 3\)", prior=np.ones(2) / 2),
    case("prior sum", ValueError, r"`prior`.*sum 1.5", prior=np.full(3, 0.5)),
    case("prior with others", ValueError, r'`prior`.*spread "others"', prior=np.full(3, 1 / 3), convention="others"),
    case("prior and mask apart", ValueError, r"`prior`.*`class_mask`", prior=np.array([0, 0, 1.0]), class_mask=np.array([True, True, False]), targets=LABELS * 0),
    case("mask dtype", ValueError, r"`class_mask`: expected booleans", class_mask=np.ones(3)),
    case("mask shape", ValueError, r"`class_mask`: expected a shape", class_mask=np.ones((2, 3), bool)),
    case("no class exists", ValueError, r"`class_mask`: expected at least one", class_mask=np.zeros(3, bool)),
    case("masked label", LabelError, r"`class_mask` lets exist; got 2 at \(1,\)", class_mask=np.array([True, True, False])),
    case("masked soft mass", TargetError, r"mass 1 at \(1, 2\)", targets=ROWS, class_mask=np.array([True, True, False])),
    case("sample_weight sign", ValueError, r"`sample_weight`.*-2", sample_weight=np.array([1.0, -2, 1, 1])),
    case("sample_weight shape", ValueError, r"`sample_weight`: expected a shape", sample_weight=np.ones(3)),
    case("convention", ValueError, r"Did you mean 'torch'", convention="torhc"),
    case("reduction", ValueError, r"`reduction`: expected \"mean\", \"sum\" or \"none\"; got 'average'", reduction="average"),
    case("normalizer without mean", ValueError, r"`normalizer`.*reduction='sum'", normalizer=3, reduction="sum"),
    case("negative normalizer", ValueError, r"`normalizer`.*got -3", normalizer=-3),
    case("negative z_loss", ValueError, r"`z_loss`.*got -1", z_loss=-1.0),
    case("axis", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 2", axis=2),
    case("validate", ValueError, r"`validate`: expected None, True or False", validate="yes"),
    case("ignore_index", ValueError, r"`ignore_index`: expected an integer or None", ignore_index=1.5),
    case("classes on axis 1", TargetError, r"Pass axis=1\.", logits=np.zeros((2, 3, 5)), targets=np.zeros((2, 5), int)),
    case("T equal to C", ValueError, r"which fit axis 1 and axis -1. Pass axis=1 or axis=-1", logits=np.zeros((2, 4, 4)), targets=np.zeros((2, 4), int)),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "match"), CASES)
def test_it_is_refused_with_the_remedy(ms, arguments, error, match):
    with pytest.raises(error, match=match):
        call(ms, **arguments)


def test_an_unknown_keyword_is_a_type_error(ms):
    with pytest.raises(TypeError, match="smoothing"):
        call(ms, smoothing=0.1)


def test_only_the_first_arguments_are_positional(ms):
    with pytest.raises(TypeError, match="positional"):
        ms.loss(own(ms, LOGITS), own(ms, LABELS), 0.1)


def test_the_axis_may_be_said_where_the_shapes_leave_it_open(ms):
    logits, labels = np.random.default_rng(0).normal(size=(2, 4, 4)), np.arange(8).reshape(2, 4) % 4
    first, last = (float(call(ms, logits, labels, axis=axis)) for axis in (1, -1))
    assert first != last
    assert float(call(ms, logits.swapaxes(1, 2), labels, axis=1)) == pytest.approx(last, rel=1e-6)


WARNINGS = [
    case("ε too high", None, r"label_smoothing=0.9 shares out more than it leaves", label_smoothing=0.9),
    case("others beyond (K−1)/K", None, "larger at another class", label_smoothing=0.7, convention="others"),
    case("a prior that wins", None, "larger at another class", label_smoothing=0.6, prior=np.array([0.0, 0, 1])),
    case("weights", None, r"30 times the smallest, more than 28 ", weight=np.array([1.0, 30, 1])),
    case("weights under others", None, r"20 times the smallest, more than 18 ", weight=np.array([1.0, 20, 1]), convention="others"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "_", "match"), WARNINGS)
def test_what_is_probably_not_meant_warns_where_it_was_written(ms, arguments, _, match):
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


def test_smooth_targets_and_linear_loss_refuse_too(ms):
    with pytest.raises(ValueError, match="`num_classes`: expected an integer"):
        ms.smooth_targets(own(ms, LABELS), 2.5)
    with pytest.raises(TargetError, match="3 classes on axis -1"):
        ms.smooth_targets(own(ms, np.full((2, 4), 0.25)), 3)
    with pytest.raises(LabelError, match=r"\[0, 2\)"):
        ms.smooth_targets(own(ms, LABELS), 2)
    hidden, classifier = own(ms, np.ones((4, 5))), own(ms, np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"`classifier`: expected \(K, 5\).*Transpose it"):
        ms.linear_loss(hidden, own(ms, np.ones((5, 3))), own(ms, LABELS))
    with pytest.raises(ValueError, match="`bias`: expected shape"):
        ms.linear_loss(hidden, classifier, own(ms, LABELS), bias=own(ms, np.ones(5)))
    with pytest.raises(ValueError, match="`chunk_rows`: expected an integer ≥ 1"):
        ms.linear_loss(hidden, classifier, own(ms, LABELS), chunk_rows=0)
    with pytest.raises(LabelError, match="got 3"):
        ms.linear_loss(hidden, classifier, own(ms, LABELS + 1))


def test_binary_loss_refuses_too(ms):
    logits = own(ms, LOGITS)
    with pytest.raises(TargetError, match=r"values in \[0, 1\].*got 1.5 at \(0, 0\)"):
        ms.binary_loss(logits, own(ms, np.full((4, 3), 1.5)))
    with pytest.raises(TargetError, match="the logits' shape"):
        ms.binary_loss(logits, own(ms, LABELS))
    with pytest.raises(ValueError, match="`pos_weight`: expected finite numbers ≥ 0"):
        ms.binary_loss(logits, own(ms, ROWS), pos_weight=own(ms, np.array([1.0, -1, 1])))
    with pytest.raises(ValueError, match="`reduction`"):
        ms.binary_loss(logits, own(ms, ROWS), reduction="batchmean")


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
