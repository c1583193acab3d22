"""Laws that hold for all logits, labels and smoothings, in every backend: no right number needs to be known."""

from dataclasses import replace

import numpy as np
import pytest
from adapters import ADAPTERS, marks
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tolerance import assert_close

from multismooth.registry import conventions

ROWS, CLASSES, WIDTH = 6, 5, 4
EXAMPLES = 30
TORCH = conventions["torch"]
CONVENTIONS = (
    TORCH,
    conventions["others"],
    replace(TORCH, objective="kl", class_weights="nll_only", denominator="counted"),
    replace(TORCH, spread="others", exclude=(0,), class_weights="mixture", denominator="mixture_weight", scale=0.5),
)


def like_probabilities(z):
    """Rows that the package refuses as logits."""
    return (z >= 0).all(1) & (z <= 1).all(1) & (np.abs(z.sum(1) - 1) < 0.01)


BACKENDS = [pytest.param(adapter, id=adapter.name, marks=marks(adapter)) for adapter in ADAPTERS if not adapter.slow]

numbers = st.floats(-20, 20, allow_subnormal=False)
logits = arrays(np.float64, (ROWS, CLASSES), elements=numbers).filter(lambda z: not like_probabilities(z).any())
labels = arrays(np.int64, (ROWS,), elements=st.integers(1, CLASSES - 1))
smoothing = st.floats(0, 0.2)
weight = arrays(np.float64, (CLASSES,), elements=st.floats(0.9, 1.2))
sample_weight = arrays(np.float64, (ROWS,), elements=st.floats(0.1, 3))
convention = st.sampled_from(CONVENTIONS)
hidden = arrays(np.float64, (ROWS, WIDTH), elements=st.floats(-2, 2, allow_subnormal=False))
classifier = arrays(np.float64, (CLASSES, WIDTH), elements=st.floats(-2, 2, allow_subnormal=False))
bias = arrays(np.float64, (CLASSES,), elements=numbers)
two_rows = st.permutations(range(ROWS)).map(lambda order: order[:2])
everything = {"z": logits, "y": labels, "eps": smoothing, "rules": convention}


def law(**strategies):
    """The test of a law: for each backend, over random arguments, which Hypothesis draws once for all of them.

    To draw takes longer than NumPy's calls. Where a law fails, Hypothesis looks for the simplest arguments.
    """

    def decorate(test):
        drawn, often = [], settings(max_examples=EXAMPLES)
        draw = often(given(**strategies)(lambda **arguments: drawn.append(arguments)))
        draw = seed(test.__name__)(draw) if settings.default.derandomize else draw  # else all laws would draw alike
        simplest = often(given(**strategies)(test))

        def run(adapter):
            if not drawn:
                draw()
            for arguments in drawn:
                own = {name: np.copy(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
                try:
                    test(adapter, **own)
                except Exception:
                    simplest(adapter=adapter)
                    raise

        run.__name__, run.__module__ = test.__name__, test.__module__
        return pytest.mark.parametrize("adapter", BACKENDS)(run)

    return decorate


def same(ours, theirs):
    """Loss and gradient(s) agree to 1e-12; None agrees with None."""
    if isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif ours is not None or theirs is not None:
        assert_close(ours, theirs, "float64")


def one_hot(y):
    return np.eye(CLASSES)[y]


@law(**everything, shift=arrays(np.float64, (ROWS, 1), elements=st.floats(-50, 50)))
def test_adding_a_number_to_all_logits_of_a_row_changes_nothing(adapter, z, y, eps, rules, shift):
    call = {"label_smoothing": eps, "convention": rules}
    same(adapter.call("loss_and_grad", z + shift, y, **call), adapter.call("loss_and_grad", z, y, **call))


@law(z=logits, y=labels, eps=smoothing, w=weight, order=st.permutations(range(CLASSES)), masked=st.booleans())
def test_renaming_the_classes_renames_the_gradient(adapter, z, y, eps, w, order, masked):
    order = np.array(order)
    mask, prior = np.ones(CLASSES, bool), np.arange(1.0, CLASSES + 1) / 15
    mask[0] = not masked
    loss, gradient = adapter.call("loss_and_grad", z, y, label_smoothing=eps, weight=w, prior=prior, class_mask=mask)
    renamed = {"weight": w[order], "prior": prior[order], "class_mask": mask[order]}
    labels = np.argsort(order)[y]
    same(
        adapter.call("loss_and_grad", z[:, order], labels, label_smoothing=eps, **renamed),
        (loss, gradient[:, order]),
    )


@law(**everything)
def test_gradient_rows_sum_to_zero(adapter, z, y, eps, rules):
    _, gradient = adapter.call("loss_and_grad", z, y, label_smoothing=eps, convention=rules)
    assert_close(gradient.sum(1), np.zeros(ROWS), "float64")


@law(z=logits, y=labels, eps=smoothing, w=weight, spread=st.sampled_from(["torch", "others"]))
def test_loss_and_gradient_are_affine_in_epsilon(adapter, z, y, eps, w, spread):
    plain, ours, far = (
        adapter.call("loss_and_grad", z, y, label_smoothing=e, weight=w, convention=spread) for e in (0.0, eps, 0.25)
    )
    same(ours, tuple(a + (b - a) * (eps / 0.25) for a, b in zip(plain, far, strict=True)))


@law(**everything)
def test_epsilon_to_zero_is_continuous_and_zero_is_plain_cross_entropy(adapter, z, y, eps, rules):
    exact = adapter.call("loss_and_grad", z, y, label_smoothing=0.0, convention=rules)
    near = adapter.call("loss_and_grad", z, y, label_smoothing=1e-15, convention=rules)
    same(near, exact)
    peak = z.max(1)
    plain = np.log(np.exp(z - peak[:, None]).sum(1)) + peak - z[np.arange(ROWS), y]
    assert_close(exact[0], rules.scale * plain.mean(), "float64")


@law(**everything, reduction=st.sampled_from(["mean", "sum", "none"]))
def test_label_is_one_hot_is_soft(adapter, z, y, eps, rules, reduction):
    call = {"label_smoothing": eps, "convention": rules, "reduction": reduction}
    hard = adapter.call("loss_and_grad", z, y, **call)
    same(adapter.call("loss_and_grad", z, one_hot(y), **call), hard)
    same(adapter.call("loss_and_grad", z, one_hot(y).astype(bool), **call), hard)


@law(**everything, w=weight)
def test_label_is_one_hot_is_soft_with_class_weights_in_the_sum(adapter, z, y, eps, rules, w):
    call = {"label_smoothing": eps, "convention": rules, "weight": w, "reduction": "sum"}
    hard = adapter.call("loss_and_grad", z, y, **call)
    same(adapter.call("loss_and_grad", z, one_hot(y), **call), hard)
    same(adapter.call("loss_and_grad", z, one_hot(y).astype(bool), **call), hard)


@law(
    **everything,
    w=weight,
    gone=two_rows,
    by=st.sampled_from(["label", "weight", "mask"]),
    fill=st.sampled_from([0.0, np.nan, np.inf]),
)
def test_ignoring_a_row_is_dropping_it(adapter, z, y, eps, rules, w, gone, by, fill):
    call = {"label_smoothing": eps, "convention": rules, "weight": w, "z_loss": 0.01}
    kept = np.setdiff1d(np.arange(ROWS), gone)
    loss, gradient = adapter.call("loss_and_grad", z[kept], y[kept], **call)
    z, y, extra = z.copy(), y.copy(), {}
    z[gone] = fill
    if by == "label":
        y[gone] = -100
    else:
        counts = np.ones(ROWS) if by == "weight" else np.ones(ROWS, bool)
        counts[gone] = 0
        extra["sample_weight"] = counts
    whole, rows = adapter.call("loss_and_grad", z, y, **call, **extra)
    same((whole, rows[kept]), (loss, gradient))
    assert not any(rows[gone].tobytes()), "the gradient of an ignored row is not bit-exactly zero"


@law(**everything, w=weight, gone=two_rows)
def test_ignored_rows_have_zero_bits_in_autodiff(adapter, z, y, eps, rules, w, gone):
    if not adapter.autodiff_every:
        pytest.skip("NumPy has no autodiff")
    z, y = z.copy(), y.copy()
    z[gone[0]], z[gone[1]], y[gone] = np.nan, -np.inf, -100
    loss, (gradient,) = adapter.value_and_grad(
        "loss", z, y, label_smoothing=eps, convention=rules, weight=w, z_loss=0.01
    )
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert not any(gradient[gone].tobytes())


@law(
    x=hidden,
    c=classifier,
    y=labels,
    eps=smoothing,
    rules=convention,
    gone=two_rows,
    chunk=st.sampled_from([None, 2]),
)
def test_ignored_rows_of_a_head_are_dropped(adapter, x, c, y, eps, rules, gone, chunk):
    call = {"label_smoothing": eps, "convention": rules, "chunk_rows": chunk}
    kept = np.setdiff1d(np.arange(ROWS), gone)
    loss, (d_hidden, d_classifier, _) = adapter.call("linear_loss_and_grad", x[kept], c, y[kept], **call)
    x, y = x.copy(), y.copy()
    x[gone], y[gone] = np.nan, -100
    whole, (rows, ours, _) = adapter.call("linear_loss_and_grad", x, c, y, **call)
    same((whole, rows[kept], ours), (loss, d_hidden, d_classifier))
    assert not any(rows[gone].tobytes())


@law(**everything, w=weight, s=sample_weight, gone=two_rows)
def test_micro_batches_with_a_normalizer_are_one_batch(adapter, z, y, eps, rules, w, s, gone):
    y = y.copy()
    y[gone[0]] = -100
    call = {"label_smoothing": eps, "convention": rules, "weight": w}
    whole = adapter.call("loss_and_grad", z, y, sample_weight=s, **call)
    count = np.asarray(adapter.call("terms", z, y, sample_weight=s, **call)[2].sum())
    parts = [
        adapter.call("loss_and_grad", z[i : i + 2], y[i : i + 2], sample_weight=s[i : i + 2], normalizer=count, **call)
        for i in range(0, ROWS, 2)
    ]
    same((sum(loss for loss, _ in parts), np.concatenate([gradient for _, gradient in parts])), whole)


@law(
    z=logits,
    y=labels,
    eps=smoothing,
    rules=convention,
    counts=arrays(np.int64, (ROWS,), elements=st.integers(1, 3)),
)
def test_a_sample_weight_of_n_is_the_row_n_times(adapter, z, y, eps, rules, counts):
    counts = counts * 12 // counts.sum() + 1
    call = {"label_smoothing": eps, "convention": rules, "z_loss": 0.01}
    loss, _ = adapter.call("loss_and_grad", z, y, sample_weight=counts.astype(np.float64), **call)
    repeated = [adapter.call("loss", z[[i]], y[[i]], **call) for i in range(ROWS)]
    assert_close(loss, np.dot(counts, repeated) / counts.sum(), "float64")


@law(
    z=logits,
    y=labels,
    eps=smoothing,
    w=weight,
    gone=st.integers(0, CLASSES - 1),
    value=st.sampled_from([np.nan, -np.inf, 3.0]),
)
def test_a_masked_class_is_an_absent_class(adapter, z, y, eps, w, gone, value):
    kept = np.setdiff1d(np.arange(CLASSES), gone)
    y = np.where(y == gone, (gone + 1) % CLASSES, y)
    for rules in ("torch", "others"):
        call = {"label_smoothing": eps, "convention": rules, "z_loss": 0.01}
        loss, gradient = adapter.call("loss_and_grad", z[:, kept], np.searchsorted(kept, y), weight=w[kept], **call)
        filled = z.copy()
        filled[:, gone] = value
        whole, columns = adapter.call(
            "loss_and_grad", filled, y, weight=w, class_mask=np.arange(CLASSES) != gone, **call
        )
        same((whole, columns[:, kept]), (loss, gradient))
        assert not columns[:, gone].any()


@law(**everything)
def test_a_mask_that_spans_the_classes_masks_none(adapter, z, y, eps, rules):
    call = {"label_smoothing": eps, "convention": rules}
    plain = adapter.call("loss_and_grad", z, y, **call)
    for shape in ((ROWS, 1), (1, 1), (1,)):
        same(adapter.call("loss_and_grad", z, y, class_mask=np.ones(shape, bool), **call), plain)


@law(z=logits, y=labels, eps=st.floats(0, 0.3), w=weight)
def test_two_spreads_are_one_with_another_epsilon(adapter, z, y, eps, w):
    others = adapter.call("loss_and_grad", z, y, label_smoothing=eps, convention="others", weight=w)
    stretched = eps * CLASSES / (CLASSES - 1)
    same(adapter.call("loss_and_grad", z, y, label_smoothing=stretched, weight=w), others)
    converted = conventions["others"].smoothing_for(TORCH, eps, CLASSES)
    assert_close(converted, stretched)


@law(**everything)
def test_a_uniform_prior_is_no_prior(adapter, z, y, eps, rules):
    rules = replace(rules, spread="all", exclude=())
    call = {"label_smoothing": eps, "convention": rules}
    plain = adapter.call("loss_and_grad", z, y, **call)
    same(adapter.call("loss_and_grad", z, y, prior=np.full(CLASSES, 1 / CLASSES), **call), plain)
    same(adapter.call("loss_and_grad", z, y, prior=np.full((CLASSES, CLASSES), 1 / CLASSES), **call), plain)


@law(z=logits, y=labels, eps=smoothing, spread=st.sampled_from(["all", "others"]))
def test_kl_is_cross_entropy_less_the_entropy_of_q(adapter, z, y, eps, spread):
    rules = replace(TORCH, spread=spread)
    loss, gradient = adapter.call("loss_and_grad", z, y, label_smoothing=eps, convention=rules)
    q = adapter.call(
        "smooth_targets", y, CLASSES, label_smoothing=eps, convention=rules, dtype=adapter.dtype("float64")
    )
    entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(1).mean()
    kl = adapter.call("loss_and_grad", z, y, label_smoothing=eps, convention=replace(rules, objective="kl"))
    same(kl, (loss - entropy, gradient))
    assert kl[0] > -1e-12


@law(
    x=hidden,
    c=classifier,
    b=bias,
    y=labels,
    eps=smoothing,
    rules=convention,
    chunk=st.sampled_from([1, 2, 4, 6, 100]),
)
def test_chunks_of_any_size_give_the_same(adapter, x, c, b, y, eps, rules, chunk):
    call = {"label_smoothing": eps, "convention": rules, "bias": b, "z_loss": 0.01}
    whole = adapter.call("linear_loss_and_grad", x, c, y, **call)
    same(adapter.call("linear_loss_and_grad", x, c, y, chunk_rows=chunk, **call), whole)


@law(
    x=hidden, c=classifier, b=bias, y=labels, eps=smoothing, rules=convention, w=weight,
    reduction=st.sampled_from(["mean", "sum", "none"]),
)  # fmt: skip
def test_the_fused_head_is_the_loss_of_its_logits(adapter, x, c, b, y, eps, rules, w, reduction):
    call = {"label_smoothing": eps, "convention": rules, "weight": w, "reduction": reduction}
    loss, gradient = adapter.call("loss_and_grad", x @ c.T + b, y, **call)
    expected = (loss, (gradient @ c, gradient.T @ x, gradient.sum(0)))
    same(adapter.call("linear_loss_and_grad", x, c, y, bias=b, chunk_rows=4, **call), expected)
    assert_close(adapter.call("linear_loss", x, c, y, bias=b, **call), loss, "float64")


@law(z=logits, y=labels, eps=smoothing)
def test_fused_smoothing_is_a_rank_one_correction(adapter, z, y, eps):
    """CE_smooth = CE_hard + ε·(z_y − mean_k z_k)."""
    hard = adapter.call("loss", z, y, label_smoothing=0.0, reduction="none")
    smooth = adapter.call("loss", z, y, label_smoothing=eps, reduction="none")
    assert_close(smooth, hard + eps * (z[np.arange(ROWS), y] - z.mean(1)), "float64")
