"""Distributions of the smoothed mass that are counted: of labels, and of what a model predicts."""

from multismooth.alternatives.softmax import softmax


def label_counts(table, labels, counted, xp):
    """The table (K,) with the counted labels added to it."""
    flat, counted = xp.reshape(labels, (-1,)), xp.reshape(counted, (-1,))
    index = xp.where(counted, flat, xp.zeros_like(flat))
    return xp.add_rows(table, index, xp.astype(counted, table.dtype))


def unigram(counts, pseudo_count):
    """(counts + pseudo_count)/Σ of it."""
    total = counts + pseudo_count
    return total / total.sum()


def added_predictions(sums, counts, logits, labels, counted, axis, xp):
    """(sums (K, K), counts (K,)) with p added to row y, and 1 to its count, where the largest logit is the label's."""
    z = xp.astype(xp.stop_gradient(logits), xp.float_of(logits), copy=False)
    rows, labels = xp.reshape(xp.moveaxis(z, axis, -1), (-1, z.shape[axis])), xp.reshape(labels, (-1,))
    right = (xp.argmax(rows, axis=1) == labels) & xp.reshape(counted, (-1,))
    p = xp.where(xp.expand_dims(right, axis=1), softmax(rows, 1, xp).p, xp.constant(0.0, z))
    index = xp.where(right, labels, xp.zeros_like(labels))
    sums = xp.add_rows(sums, index, xp.astype(p, sums.dtype))
    return sums, xp.add_rows(counts, index, xp.astype(right, counts.dtype))


def mean_predictions(sums, counts, xp):
    """The mean p of every class, and 1/K for a class without any."""
    counts = xp.astype(xp.expand_dims(counts, axis=1), sums.dtype)
    some = counts > 0
    uniform = xp.zeros_like(sums) + 1 / sums.shape[1]
    return xp.where(some, sums / xp.where(some, counts, xp.ones_like(counts)), uniform)
