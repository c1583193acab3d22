"""Broken PyTorch losses of sentences, channels and images, and of rows of probabilities.

Each is right in everything but the mistake in its name; those of a layout raise in every other layout.
"""

from functools import partial, wraps

from mutants import EPS, optional, table

torch = optional("torch")
functional = torch and torch.nn.functional
LAYOUTS, mutant = table("torch")
IGNORED = -100


def elements(z, y):
    """(the smoothed loss of every element, 0 where it is ignored; what counts), for classes on the last axis."""
    counted = y != IGNORED
    log_p = z.log_softmax(-1)
    own = log_p.gather(-1, torch.where(counted, y, 0)[..., None])[..., 0]
    return -((1 - EPS) * own + EPS * log_p.mean(-1)) * counted, counted


def lengths(counted):
    return counted.reshape(len(counted), -1).sum(1).clamp(min=1)


def of_sentences(each):
    return each.reshape(len(each), -1).sum(1)


# mistake: what the right sum and count became, of (the loss of each element, what counts)
MISTAKES = {
    "mean_of_means": lambda e, c: (of_sentences(e) / lengths(c)).mean(),
    "sum_by_the_sentences": lambda e, c: e.sum() / max(len(e), 1),
    "sum_of_means": lambda e, c: (of_sentences(e) / lengths(c)).sum(),
    "ignored_ones_counted": lambda e, c: e.mean() if e.numel() else e.sum(),
    "by_the_longest": lambda e, c: e.sum() / (len(e) * lengths(c).max() if len(e) else 1),
    "first_sentence_dropped": lambda e, c: e[1:].sum() / c[1:].sum().clamp(min=1) if len(e) > 1 else e.sum() / c.sum(),
    "last_token_dropped": lambda e, c: e[..., :-1].sum() / c[..., :-1].sum().clamp(min=1),
    "an_end_for_every_sentence": lambda e, c: e.sum() / (c.sum() + len(e)).clamp(min=1),
    "by_the_root_of_the_length": lambda e, c: (of_sentences(e) / lengths(c).sqrt()).mean(),
    "later_tokens_weigh_more": lambda e, c: (e * torch.arange(1, e.shape[-1] + 1)).sum() / c.sum().clamp(min=1),
    "an_empty_sentence_counts_as_one": lambda e, c: e.sum() / lengths(c).sum().clamp(min=1),
    "half_of_the_first_token": lambda e, c: (e.sum() - e[..., 0].sum() / 2) / c.sum().clamp(min=1),
}
AXES = {"sentences": (3, -1), "channels": (3, 1), "images": (4, 1)}


def in_layout(reduce, ndim, axis, z, y):
    """The loss with a mistake in its reduction; only in one layout."""
    if z.ndim != ndim or y.shape != z.movedim(axis, -1).shape[:-1]:
        raise ValueError("another layout")
    if ((y < 0) & (y != IGNORED)).any():
        raise IndexError("a label outside the classes")
    return reduce(*elements(z.movedim(axis, -1), y))


for _layout, (_ndim, _axis) in AXES.items():
    for _name, _reduce in MISTAKES.items():
        _fn = wraps(in_layout)(partial(in_layout, _reduce, _ndim, _axis))
        _fn.__name__ = _fn.__qualname__ = f"{_layout} {_name}"
        _fn.__doc__ = f"{_name.replace('_', ' ')}, in {_layout}."
        mutant()(_fn)


# --- rows of probabilities --------------------------------------------------------------------------------------------


def right(z, q):
    return -(q * z.log_softmax(-1)).sum(-1)


def smoothed(z, t):
    return (1 - EPS) * t + EPS / z.shape[-1]


def hard(t):
    return functional.one_hot(t.argmax(-1), t.shape[-1]).to(t)


ROWS = {
    "the_largest_entry_alone": lambda z, t: right(z, smoothed(z, hard(t))).mean(),
    "a_softmax_over_the_targets": lambda z, t: right(z, smoothed(z, t.softmax(-1))).mean(),
    "smoothing_forgotten": lambda z, t: right(z, t).mean(),
    "smoothed_twice": lambda z, t: right(z, smoothed(z, smoothed(z, t))).mean(),
    "over_the_others": lambda z, t: right(z, t * (1 - EPS) + (1 - t) * EPS / (z.shape[-1] - 1)).mean(),
    "averaged_over_the_classes": lambda z, t: -(smoothed(z, t) * z.log_softmax(-1)).mean(),
    "less_the_entropy": lambda z, t: (
        functional.kl_div(z.log_softmax(-1), smoothed(z, t), reduction="none").sum(-1).mean()
    ),
    "a_temperature": lambda z, t: right(z / 2, smoothed(z, t)).mean(),
    "the_sum": lambda z, t: right(z, smoothed(z, t)).sum(),
    "squared_rows": lambda z, t: right(z, smoothed(z, t**2)).mean(),
    "probabilities_clipped": lambda z, t: -(smoothed(z, t) * z.softmax(-1).clamp(min=0.05).log()).sum(-1).mean(),
    "the_other_divergence": lambda z, t: (z.softmax(-1) * (z.log_softmax(-1) - smoothed(z, t).log())).sum(-1).mean(),
}


def of_rows(loss, z, t):
    """A loss that takes rows of probabilities only."""
    if t.shape != z.shape or not t.is_floating_point() or not z.is_floating_point() or z.ndim != 2:
        raise ValueError("rows of probabilities are expected")
    return loss(z, t)


for _name, _loss in ROWS.items():
    _fn = wraps(of_rows)(partial(of_rows, _loss))
    _fn.__name__ = _fn.__qualname__ = f"rows {_name}"
    _fn.__doc__ = f"{_name.replace('_', ' ')}, of rows of probabilities."
    mutant(convention="timm")(_fn)
