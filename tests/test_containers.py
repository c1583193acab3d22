"""What carries more than values is refused with what to pass, and other containers of values are read as they are."""

import importlib
import warnings
from functools import partial

import numpy as np
import pytest
from requirements import need

import multismooth
from multismooth import LabelError, TargetError

RNG = np.random.default_rng(5)
LOGITS, LABELS = RNG.normal(size=(4, 3)), np.array([0, 2, 1, 0])
HIDDEN, CLASSIFIER = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 5))


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array):
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(np.array(array))
    return need("jax").numpy.asarray(array) if ms.__name__.endswith("jax") else np.asarray(array)


def calls(ms, **given):
    """Every function with one argument exchanged; those that lack the argument are left out."""
    z, y, h, w = (own(ms, array) for array in (LOGITS, LABELS, HIDDEN, CLASSIFIER))
    usual = {
        "loss": {"logits": z, "targets": y},
        "terms": {"logits": z, "targets": y},
        "loss_and_grad": {"logits": z, "targets": y},
        "binary_loss": {"logits": z, "targets": own(ms, LOGITS > 0)},
        "smooth_targets": {"targets": y, "num_classes": 3},
        "linear_loss": {"hidden": h, "classifier": w, "targets": y},
        "linear_loss_and_grad": {"hidden": h, "classifier": w, "targets": y},
        "smoothing_correction": {"hidden": h, "classifier": w, "targets": y},
    }
    (name,) = given
    for function, arguments in usual.items():
        if name in arguments:
            yield partial(getattr(ms, function), **{**arguments, **given})


def refused_everywhere(ms, remedy, **given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in calls(ms, **given):
            with pytest.raises(ValueError, match=remedy):
                call()


def sparse(array):
    return need("scipy.sparse").csr_array(array)


def test_scipys_sparse_arrays(ms):
    refused_everywhere(ms, r"`targets`: .*toarray\(\)", targets=sparse(LOGITS))
    refused_everywhere(ms, r"`logits`: .*toarray\(\)", logits=sparse(LOGITS))
    refused_everywhere(ms, r"`classifier`: .*toarray\(\)", classifier=need("scipy.sparse").csr_matrix(CLASSIFIER))
    with pytest.raises(TypeError, match="Convert it"):
        multismooth.loss(sparse(LOGITS), LABELS)


def test_jaxs_sparse_arrays():
    bcoo = need("jax.experimental.sparse").BCOO.fromdense
    ms = importlib.import_module("multismooth.jax")
    for name, array in (("logits", LOGITS), ("hidden", HIDDEN), ("classifier", CLASSIFIER)):
        refused_everywhere(ms, rf"`{name}`: .*todense\(\)", **{name: bcoo(own(ms, array))})


def layouts():
    """Tensors of other layouts, each with the remedy."""
    torch = need("torch")
    dense = torch.tensor(LOGITS)
    yield dense.to_sparse(), r"to_dense\(\)"
    yield dense.to_sparse_csr(), r"to_dense\(\)"
    yield dense.float().to_mkldnn(), r"to_dense\(\)"
    yield torch.quantize_per_tensor(dense.float(), 0.1, 0, torch.quint8), r"dequantize\(\)"
    yield torch.nested.nested_tensor([dense[0], dense[1, :2]]), "to_padded_tensor"
    yield torch.nested.nested_tensor([dense[0], dense[1, :2]], layout=torch.jagged), "to_padded_tensor"
    yield torch.masked.masked_tensor(dense, dense > 0), r"get_data\(\)"


@pytest.mark.filterwarnings("ignore:The PyTorch API of", "ignore:torch.quantize_per_tensor", "ignore:Sparse CSR")
@pytest.mark.parametrize("name", ["logits", "targets", "hidden", "classifier"])
def test_tensors_of_other_layouts(name):
    ms = importlib.import_module("multismooth.torch") if need("torch") else None
    for tensor, remedy in layouts():
        refused_everywhere(ms, rf"(?s)`{name}`: .*{remedy}", **{name: tensor})


def test_a_dense_call_is_not_taken_for_a_sparse_one():
    torch = need("torch")
    ms, logits, labels = importlib.import_module("multismooth.torch"), torch.tensor(LOGITS), torch.tensor(LABELS)
    for _ in range(2):
        ms.loss(logits, labels)
    with pytest.raises(ValueError, match=r"to_dense\(\)"):
        ms.loss(logits.to_sparse(), labels)
    with pytest.raises(ValueError, match=r"`targets`: .*to_dense\(\)"):
        ms.loss(logits, labels.to_sparse())
    half = logits.bfloat16()
    ms.loss(half, labels)
    with pytest.raises(ValueError, match=r"to_dense\(\)"):
        ms.loss(half.to_sparse(), labels)


def test_pandas(ms):
    pandas = need("pandas")
    expected = float(ms.loss(own(ms, LOGITS), own(ms, LABELS)))
    index = [10, 11, 12, 13]
    logits = own(ms, LOGITS)
    for labels in (
        pandas.Series(LABELS, index=index),
        pandas.Series(LABELS, index=index, dtype="Int64"),
        pandas.Series(pandas.Categorical(LABELS), index=index),
        pandas.Series(LABELS.astype(np.uint8), index=index),
        pandas.DataFrame({"label": LABELS, "other": LABELS})["label"],
    ):
        assert float(ms.loss(logits, labels)) == expected
        assert float(ms.loss(logits, labels, sample_weight=pandas.Series(np.ones(4), index=index))) == pytest.approx(
            expected, rel=1e-6
        )
    rows = pandas.DataFrame(np.eye(3)[LABELS], index=index)
    assert float(ms.loss(logits, rows)) == pytest.approx(expected, rel=1e-6)
    weights = pandas.Series(np.ones(3), index=["cat", "dog", "cow"])
    assert float(ms.loss(logits, own(ms, LABELS), weight=weights)) == pytest.approx(expected, rel=1e-6)


def test_pandas_with_something_missing(ms):
    pandas = need("pandas")
    for labels in (
        pandas.Series([0, None, 1, 2], dtype="Int64"),
        pandas.Series(["cat", "dog", "cat", "cow"]),
        pandas.Series(pandas.Categorical(["cat", "dog", "cat", "cow"])),
        pandas.Series([0, None, 1, 2]),
    ):
        with pytest.raises(TargetError):
            ms.loss(own(ms, LOGITS), labels)
    with pytest.raises(ValueError, match="`sample_weight`"):
        ms.loss(own(ms, LOGITS), own(ms, LABELS), sample_weight=pandas.Series([1.0, None, 1, 1]))


def test_arrays_in_any_layout(ms):
    """Reversed, transposed, read-only, of the other byte order: what a framework cannot read is copied."""
    expected = float(ms.loss(own(ms, LOGITS), own(ms, LABELS)))
    frozen = LABELS.copy()
    frozen.flags.writeable = False
    reverse = LABELS[::-1].copy()[::-1]
    for labels in (
        frozen,
        reverse,
        LABELS.astype(">i4"),
        LABELS.astype(">i8"),
        np.repeat(LABELS, 2)[::2],
        LABELS.tolist(),
    ):
        assert float(ms.loss(own(ms, LOGITS), labels)) == expected
    weight = np.broadcast_to(np.ones(()), (3,))
    assert float(ms.loss(own(ms, LOGITS), own(ms, LABELS), weight=weight)) == pytest.approx(expected, rel=1e-6)


def test_arrays_of_another_framework(ms):
    torch, jax = need("torch"), need("jax")
    expected = float(ms.loss(own(ms, LOGITS), own(ms, LABELS)))
    for labels in (torch.tensor(LABELS), jax.numpy.asarray(LABELS), LABELS, tuple(LABELS)):
        assert float(ms.loss(own(ms, LOGITS), labels)) == expected
    if not ms.__name__.endswith("torch"):
        with pytest.raises(ValueError, match=r"`weight`: expected an array of numbers; got Parameter \(.*detach"):
            ms.loss(own(ms, LOGITS), own(ms, LABELS), weight=torch.nn.Parameter(torch.ones(3)))


def test_random_keys_are_no_labels():
    jax = need("jax")
    ms = importlib.import_module("multismooth.jax")
    keys, logits = jax.random.split(jax.random.key(0), 4), own(ms, LOGITS)
    with pytest.raises(TargetError, match=r"`targets`: expected integer labels.*got dtype key"):
        ms.loss(logits, keys)
    with pytest.raises(ValueError, match=r"`logits`: expected a floating dtype; got key"):
        ms.loss(keys, own(ms, LABELS))
    with pytest.raises(ValueError, match=r"`weight`: expected real numbers; got dtype key"):
        ms.loss(logits, own(ms, LABELS), weight=keys[:3])


# --- integers that wrap ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_no_label_wraps_to_another(ms, dtype):
    """The largest and the smallest label of each dtype name no class, however they are made."""
    limits = np.iinfo(dtype)
    expected = float(ms.loss(own(ms, LOGITS), own(ms, LABELS)))
    assert float(ms.loss(own(ms, LOGITS), own(ms, LABELS.astype(dtype)))) == expected
    wrapping = {2**n - 100 for n in (8, 16, 32, 64)} | {2**n for n in (8, 16, 32, 63)} | {2**n + 1 for n in (8, 16, 32)}
    for value in sorted({limits.max, limits.min, *wrapping} - {0}):
        if not limits.min <= value <= limits.max:
            continue
        labels = np.array([0, value, 1, 0], dtype=dtype)
        for validate in (None, True):
            with pytest.raises(LabelError, match=r"at \(1,\)"):
                ms.loss(own(ms, LOGITS), labels, validate=validate)
        with pytest.raises(LabelError, match=r"at \(1,\)"):
            ms.linear_loss(own(ms, HIDDEN), own(ms, CLASSIFIER), labels)
        found = np.asarray(ms.loss(own(ms, LOGITS), labels, reduction="none", validate=False))
        assert np.isnan(found).tolist() == [False, True, False, False]
    if ms.__name__.endswith("torch"):
        torch = need("torch")
        labels = torch.tensor([0, limits.max, 1, 0], dtype=getattr(torch, dtype))
        with pytest.raises(LabelError, match=r"at \(1,\)"):
            ms.loss(own(ms, LOGITS), labels)


def test_an_ignored_label_is_not_what_another_wraps_to(ms):
    labels = np.array([0, 2**32 - 1, 2**40, 2**62], dtype=np.int64)
    for ignored in (-1, 0, -100):
        with pytest.raises(LabelError, match=r"at \(1,\)"):
            ms.loss(own(ms, LOGITS), labels, ignore_index=ignored)
    top = np.iinfo(np.int32).max if ms.__name__.endswith("jax") else np.iinfo(np.int64).max
    with pytest.raises(ValueError, match="`ignore_index`: expected a label that"):
        ms.loss(own(ms, LOGITS), np.array([0, 2**63, 1, 0], np.uint64), ignore_index=top)


def test_counts_beyond_32_bits(ms):
    count = 2**40
    expected = float(ms.loss(own(ms, LOGITS), own(ms, LABELS), reduction="sum")) / count
    for normalizer in (count, float(count), np.int64(count), np.array(count), np.array(count, np.uint64)):
        found = float(ms.loss(own(ms, LOGITS), own(ms, LABELS), normalizer=normalizer))
        assert found == pytest.approx(expected, rel=1e-6)
    found = float(ms.loss(own(ms, LOGITS), own(ms, LABELS), sample_weight=np.full(4, count), normalizer=count))
    assert found == pytest.approx(expected * count, rel=1e-6)
