"""Correct losses for PyTorch as people write them: see correct_losses.py."""

from correct_losses import COMMON, WEIGHTED, reduced, table
from mutants import optional
from mutants_formula import cross, parts, rows
from mutants_machine import hand_made

torch = optional("torch")
functional = torch and torch.nn.functional
TORCH, form = table("torch")


def smoothed(z, y, eps):
    """The rows of PyTorch's convention."""
    return rows(z, y, 1 - eps + eps / z.shape[-1], eps / z.shape[-1])


@form(8, "torch", COMMON + " ignore_index")
def cross_entropy(z, y, **settings):
    return functional.cross_entropy(z, y, **settings)


@form(8, "torch", WEIGHTED + " ignore_index")
def cross_entropy_module(z, y, weight, **settings):
    return torch.nn.CrossEntropyLoss(weight.to(z.dtype), **settings)(z, y)


@form(2, "torch", WEIGHTED)
def cross_entropy_with_single_precision_weights(z, y, weight, **settings):
    return functional.cross_entropy(z, y, weight.float(), **settings)


@form(1, "torch", "", accepts=("weight", "label_smoothing", "ignore_index", "reduction"))
def cross_entropy_as_it_is(z, y, label_smoothing=0.1, **settings):
    return functional.cross_entropy(z, y, label_smoothing=label_smoothing, **settings)


@form(4, "timm")
def cross_entropy_with_probabilities(z, y, label_smoothing, reduction):
    return functional.cross_entropy(z, smoothed(z, y, label_smoothing), reduction=reduction)


@form(3, "timm")
def cross_entropy_smoothing_one_hot_rows(z, y, **settings):
    return functional.cross_entropy(z, functional.one_hot(y, z.shape[1]).to(z.dtype), **settings)


@form(4, "torch-kl-div")
def divergence(z, y, label_smoothing, reduction):
    each = functional.kl_div(z.log_softmax(1), smoothed(z, y, label_smoothing), reduction="none").sum(1)
    return reduced(each, torch.ones_like(each), reduction)


@form(3, "torch-kl-div", "label_smoothing")
def divergence_batchmean(z, y, label_smoothing):
    return torch.nn.KLDivLoss(reduction="batchmean")(z.log_softmax(1), smoothed(z, y, label_smoothing))


@form(2, "torch-kl-div-mean", "label_smoothing")
def divergence_over_entries(z, y, label_smoothing):
    return functional.kl_div(z.log_softmax(1), smoothed(z, y, label_smoothing), reduction="none").mean()


@form(4, "annotated-transformer", "label_smoothing", reduction="sum")
def padding_column_without_mass(z, y, label_smoothing):
    q = rows(torch.full_like(z, 0), y, 1 - label_smoothing, label_smoothing / (z.shape[1] - 2))
    q = torch.where(torch.arange(z.shape[1]) == 0, 0.0, q).masked_fill((y == 0)[:, None], 0)
    return functional.kl_div(z.log_softmax(1), q, reduction="sum")


@form(4, "fairseq", "label_smoothing", reduction="sum")
def gathered(z, y, label_smoothing):
    off, pad = label_smoothing / (z.shape[1] - 1), y == 1
    log_p = z.log_softmax(-1)
    own = -log_p.gather(-1, y[:, None])[:, 0].masked_fill(pad, 0)
    return (1 - label_smoothing - off) * own.sum() - off * log_p.sum(-1).masked_fill(pad, 0).sum()


@form(6, "torch", WEIGHTED + " ignore_index")
def weighted_per_term(z, y, label_smoothing, reduction, weight, ignore_index):
    weight = weight.to(z.dtype)
    own, _, counted = parts(z, y, ignore_index)
    w = torch.where(counted, weight[y.masked_fill(~counted, 0)], 0)
    every = (-z.log_softmax(1) @ weight / z.shape[1]).masked_fill(~counted, 0)
    return reduced((1 - label_smoothing) * w * own + label_smoothing * every, w, reduction)


@form(4, "paddle", WEIGHTED, ignore_index=None)
def weighted_by_the_mixture(z, y, label_smoothing, reduction, weight):
    q = smoothed(z, y, label_smoothing)
    w = q @ weight.to(z.dtype)
    return reduced(w * cross(z, q), w, reduction)


@form(4, "allennlp-tokens", WEIGHTED, ignore_index=None)
def weighted_whole(z, y, label_smoothing, reduction, weight):
    each = weight.to(z.dtype).gather(0, y) * cross(z, smoothed(z, y, label_smoothing))
    return each.sum() / (len(y) + 1e-13) if reduction == "mean" else reduced(each, None, reduction)


@form(4, "fastai", WEIGHTED)
def weighted_nll_and_plain_mean(z, y, label_smoothing, reduction, weight):
    log_p = z.log_softmax(1)
    own, every = functional.nll_loss(log_p, y, weight.to(z.dtype), reduction=reduction), -log_p.mean(1)
    return (1 - label_smoothing) * own + label_smoothing * reduced(every, torch.ones_like(every), reduction)


@form(3, "mmpretrain-classy")
def mass_over_one_plus_mass(z, y, label_smoothing, reduction):
    t = functional.one_hot(y, z.shape[1]).to(z.dtype)
    each = cross(z, (t + label_smoothing / z.shape[1]) / (1 + label_smoothing))
    return reduced(each, torch.ones_like(each), reduction)


@form(3, "nemo", "label_smoothing", ignore_index=0)
def a_little_more_than_the_count(z, y, label_smoothing):
    q = rows(z, y, 1 - label_smoothing, label_smoothing / (z.shape[1] - 1))
    counted = (y != 0).to(z.dtype)  # a count of bools plus 1e-6 would be float32
    return cross(z, q).masked_fill(y == 0, 0).sum() / (counted.sum() + 1e-6)


@form(3, "transformer-engine", "label_smoothing ignore_index")
def at_least_one(z, y, label_smoothing, ignore_index):
    own, every, counted = parts(z, y, ignore_index)
    return ((1 - label_smoothing) * own + label_smoothing * every).sum() / counted.sum().clamp(min=1)


@form(5, "torch", COMMON + " ignore_index prior")
def towards_a_prior(z, y, label_smoothing, reduction, ignore_index, prior):
    own, _, counted = parts(z, y, ignore_index)
    every = (-z.log_softmax(1) @ prior.to(z.dtype)).masked_fill(~counted, 0)
    return reduced((1 - label_smoothing) * own + label_smoothing * every, counted, reduction)


@form(4, "torch", COMMON + " z_loss")
def with_z_loss(z, y, label_smoothing, reduction, z_loss):
    each = functional.cross_entropy(z, y, label_smoothing=label_smoothing, reduction="none")
    squares = z_loss * z.logsumexp(1).square().masked_fill(y == -100, 0)
    return reduced(each + squares, y != -100, reduction)


@form(4, "liger", WEIGHTED + " z_loss")
def with_class_weights_and_a_plain_mean_of_squares(z, y, label_smoothing, reduction, weight, z_loss):
    each = functional.cross_entropy(z, y, weight.to(z.dtype), label_smoothing=label_smoothing, reduction=reduction)
    squares = z_loss * z.logsumexp(1).square().masked_fill(y == -100, 0)
    return each + reduced(squares, y != -100, reduction)


@form(3, "torch", "label_smoothing normalizer")
def over_a_number(z, y, label_smoothing, normalizer):
    return functional.cross_entropy(z, y, label_smoothing=label_smoothing, reduction="sum") / normalizer


@form(4, "torch", COMMON + " class_mask")
def some_classes_masked(z, y, label_smoothing, reduction, class_mask):
    log_p = torch.where(class_mask, z, -torch.inf).log_softmax(1)
    counted = y != -100
    own = -log_p.gather(1, y.masked_fill(~counted, 0)[:, None])[:, 0]
    every = -torch.where(class_mask, log_p, 0).sum(1) / class_mask.sum()
    each = (1 - label_smoothing) * own + label_smoothing * every
    return reduced(each.masked_fill(~counted, 0), counted, reduction)


@form(4, "torch", COMMON + " ignore_index")
def channels_second(z, y, **settings):
    _, _, _ = z.shape
    return functional.cross_entropy(z, y, **settings)


@form(4, "fairseq2")
def flattened_sentences(z, y, label_smoothing, reduction):
    _, _, k = z.shape
    each = cross(z.flatten(0, 1), rows(z, y, 1 - label_smoothing, label_smoothing / (k - 1)).flatten(0, 1))
    return reduced(each, torch.ones_like(each), reduction)


@form(3, "marian", "label_smoothing", normalizer="sentences")
def divided_by_sentences(z, y, label_smoothing):
    batch, _, _ = z.shape
    return functional.cross_entropy(z.mT, y, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum") / batch


@form(4, "torch", COMMON + " ignore_index")
def normaliser_less_dot_product(z, y, label_smoothing, reduction, ignore_index):
    counted = y != ignore_index
    q = smoothed(z, y.masked_fill(~counted, 0), label_smoothing)
    return reduced((z.logsumexp(1) - (q * z).sum(1)).masked_fill(~counted, 0), counted, reduction)


@form(3, "torch", "label_smoothing ignore_index")
def five_rows_at_a_time(z, y, **settings):
    chunks = zip(z.split(5), y.split(5), strict=True)
    total = sum(functional.cross_entropy(*chunk, reduction="sum", **settings) for chunk in chunks)
    return total / (y != settings["ignore_index"]).sum()


@form(3, "torch")
def classes_in_chunks(z, y, label_smoothing, reduction):
    own, _, counted = parts(z, y)
    chunks = z.split(max(2, z.shape[1] // 3), 1)
    lse = torch.stack([chunk.logsumexp(1) for chunk in chunks]).logsumexp(0)
    every = lse - sum(chunk.sum(1) for chunk in chunks) / z.shape[1]
    each = (1 - label_smoothing) * own + label_smoothing * every
    return reduced(each.masked_fill(~counted, 0), counted, reduction)


@form(6, "torch", "label_smoothing reduction ignore_index")
def gradient_by_hand(z, y, label_smoothing, reduction, ignore_index):
    def forward(z, y):
        counted = y != ignore_index
        q = smoothed(z, y.masked_fill(~counted, 0), label_smoothing)
        slope = (z.softmax(1) - q).masked_fill(~counted[:, None], 0)
        loss = reduced(cross(z, q).masked_fill(~counted, 0), counted, reduction)
        return loss, slope / counted.sum() if reduction == "mean" else slope

    return hand_made(z, y, lambda slope, upstream: slope * upstream[..., None], forward)


# --- other layouts and rows -------------------------------------------------------------------------------------------


@form(5, "torch", COMMON + " ignore_index")
def sentences(z, y, **settings):
    _, _, k = z.shape
    loss = functional.cross_entropy(z.reshape(-1, k), y.reshape(-1), **settings)
    return loss.reshape(y.shape) if settings["reduction"] == "none" else loss


@form(5, "torch", COMMON + " ignore_index")
def channels(z, y, **settings):
    _, _, _ = z.shape
    return functional.cross_entropy(z, y, **settings)


@form(5, "torch", COMMON + " ignore_index")
def images(z, y, **settings):
    _, _, _, _ = z.shape
    return functional.cross_entropy(z, y, **settings)


@form(4, "torch", "label_smoothing", normalizer="sentences")
def summed_over_tokens(z, y, label_smoothing):
    _, _, k = z.shape
    each = functional.cross_entropy(z.reshape(-1, k), y.reshape(-1), reduction="none", label_smoothing=label_smoothing)
    return each.sum() / max(len(y), 1)


@form(4, "torch", "label_smoothing", reduction="sentence means")
def means_of_sentences(z, y, label_smoothing):
    _, _, k = z.shape
    settings = {"reduction": "none", "label_smoothing": label_smoothing}
    each = functional.cross_entropy(z.reshape(-1, k), y.reshape(-1), **settings).reshape(y.shape)
    return (each.sum(-1) / (y != -100).sum(-1).clamp(min=1)).sum() / max(len(y), 1)


@form(6, "timm")
def rows_of_probabilities(z, target, label_smoothing, reduction):
    q = (1 - label_smoothing) * target + label_smoothing / z.shape[-1]
    return reduced(-(q * z.log_softmax(-1)).sum(-1), torch.ones_like(target[..., 0]), reduction)


@form(5, "torch", COMMON + " ignore_index")
def targets_first(target, z, **settings):
    return functional.cross_entropy(z, target, **settings)


@form(5, "keras")
def targets_first_as_rows(target, z, label_smoothing, reduction):
    return rows_of_probabilities(z, target, label_smoothing, reduction)
