"""Broken losses for PyTorch whose formula is wrong, each in the one way that its docstring names: see mutants.py."""

from mutants import EPS, optional, table

torch = optional("torch")
functional = torch and torch.nn.functional
FORMULA, mutant = table("torch")
FREE = {"convention": "timm"}  # no label is ignored
WEIGHT = (0.25, 4.0, 1.0, 0.5, 8.0)


def parts(z, y, ignored=-100):
    """(−log p of the label, mean of −log p over the classes, what counts): per element, 0 where ignored."""
    counted = y != ignored
    log_p = z.log_softmax(-1)
    own = -log_p.gather(-1, y.masked_fill(~counted, 0)[..., None])[..., 0]
    return own.masked_fill(~counted, 0), -log_p.mean(-1).masked_fill(~counted, 0), counted


def mixed(own, every, eps=EPS):
    return (1 - eps) * own + eps * every


def rows(z, y, on, off):
    """The target: `on` at the label, `off` elsewhere, in the dtype of z."""
    return torch.full_like(z, off).scatter(-1, y[..., None], on)


def cross(z, q):
    return -(q * z.log_softmax(-1)).sum(-1)


# --- the target -------------------------------------------------------------------------------------------------------


@mutant("K − 1 others", **FREE)
def others_for_all(z, y):
    """ε/(K − 1) on the other classes, 1 − ε on the label."""
    return cross(z, rows(z, y, 1 - EPS, EPS / (z.shape[1] - 1))).mean()


@mutant("K − 1 others", convention="fairseq")
def all_for_others(z, y):
    """PyTorch's label_smoothing where fairseq's was meant."""
    return functional.cross_entropy(z, y, ignore_index=1, label_smoothing=EPS)


@mutant("off by", convention="fairseq", reduction="sum")
def mean_for_sum_of_the_others(z, y):
    """ε/(K − 1) times the mean over the classes instead of their sum."""
    own, every, _ = parts(z, y, ignored=1)
    each = EPS / (z.shape[1] - 1)
    return ((1 - EPS - each) * own + each * every).sum()


@mutant("off by", **FREE)
def one_class_too_many(z, y):
    """K counts a padding class that the logits do not have."""
    return cross(z, rows(z, y, 1 - EPS + EPS / (z.shape[1] + 1), EPS / (z.shape[1] + 1))).mean()


@mutant(**FREE)
def classes_counted_in_the_labels(z, y):
    """K = y.max() + 1."""
    k = int(y.max()) + 1 if len(y) else 1
    return cross(z, rows(z, y, 1 - EPS + EPS / k, EPS / k)).mean()


@mutant("ε = 0.19", **FREE)
def smoothed_twice(z, y):
    """The loader smooths, and so does the loss: ε becomes 1 − (1 − ε)²."""
    q = rows(z, y, 1 - EPS + EPS / z.shape[1], EPS / z.shape[1])
    return functional.cross_entropy(z, q, label_smoothing=EPS)


@mutant("1.1 times as large", **FREE)
def more_than_one(z, y):
    """onehot + ε/K: the target sums to 1 + ε."""
    return cross(z, rows(z, y, 1 + EPS / z.shape[1], EPS / z.shape[1])).mean()


@mutant("off by", **FREE)
def label_without_its_share(z, y):
    """1 − ε on the label, ε/K on the others: the target sums to less than 1."""
    return cross(z, rows(z, y, 1 - EPS, EPS / z.shape[1])).mean()


@mutant("ε = 0.9")
def smoothing_and_confidence_swapped(z, y):
    """ε on the label's term, 1 − ε on the other."""
    own, every, counted = parts(z, y)
    return mixed(every, own).sum() / counted.sum()


@mutant(**FREE)
def towards_the_frequencies_of_the_batch(z, y):
    """The mass goes to the classes as often as they are labels of this batch."""
    frequencies = functional.one_hot(y, z.shape[1]).to(z).mean(0)
    return cross(z, rows(z, y, 1 - EPS, 0.0) + EPS * frequencies).mean()


@mutant("no smoothed mass")
def nothing_for_class_0(z, y):
    """Class 0 is taken for padding: the smoothing term begins at class 1."""
    own, _, counted = parts(z, y)
    every = -z.log_softmax(1)[:, 1:].mean(1)
    return mixed(own, every.masked_fill(~counted, 0)).sum() / counted.sum()


@mutant("KL divergence", **FREE)
def divergence_for_entropy(z, y):
    """kl_div adds Σ q log q, a constant."""
    q = rows(z, y, 1 - EPS + EPS / z.shape[1], EPS / z.shape[1])
    return functional.kl_div(z.log_softmax(1), q, reduction="batchmean")


@mutant("values (", convention="torch-kl-div")
def entropy_with_the_wrong_sign(z, y):
    """−Σ q log p − Σ q log q."""
    q = rows(z, y, 1 - EPS + EPS / z.shape[1], EPS / z.shape[1])
    return (cross(z, q) - (q * q.log()).sum(1)).mean()


@mutant("a prior", accepts=("prior",))
def prior_divided_by_k_again(z, y, prior=None):
    """Mean instead of sum of prior · log p: the smoothing term is K times too small."""
    own, every, counted = parts(z, y)
    if prior is not None:
        every = -(prior * z.log_softmax(1)).mean(1).masked_fill(~counted, 0)
    return mixed(own, every).sum() / counted.sum()


# --- what counts, and what the mean divides by ------------------------------------------------------------------------


@mutant("the 7 counted elements")
def ignored_in_the_denominator(z, y):
    """.mean() divides by all elements."""
    return functional.cross_entropy(z, y, label_smoothing=EPS, reduction="none").mean()


@mutant("with their smoothing term")
def ignored_in_the_label_term_only(z, y):
    """The smoothing term of an ignored element stays."""
    own, _, counted = parts(z, y)
    return mixed(own, -z.log_softmax(1).mean(1)).sum() / counted.sum()


@mutant("and the smoothing term by")
def two_denominators(z, y):
    """The label's term is averaged over what counts, the smoothing term over everything."""
    own, every, counted = parts(z, y)
    return mixed(own.sum() / counted.sum(), every.mean())


@mutant("'sum'")
def sum_for_mean(z, y):
    """Not divided at all."""
    return functional.cross_entropy(z, y, label_smoothing=EPS, reduction="sum")


@mutant("times K", convention="torch-kl-div")
def mean_over_entries(z, y):
    """kl_div's reduction "mean" divides by N·K."""
    q = rows(z, y, 1 - EPS + EPS / z.shape[1], EPS / z.shape[1])
    return functional.kl_div(z.log_softmax(1), q, reduction="none").mean()


@mutant("the sentences")
def sentences_for_tokens(z, y):
    """Divides by the batch size of (B, T, K)."""
    batch, _, _ = z.shape
    own, every, _ = parts(z, y)
    return mixed(own, every).sum() / batch


@mutant()
def mean_of_sentence_means(z, y):
    """Short sentences weigh as much as long ones."""
    _, _, _ = z.shape
    own, every, counted = parts(z, y)
    return (mixed(own, every).sum(1) / counted.sum(1).clamp(min=1)).mean()


@mutant("ignore_index=-100")
def minus_101_ignored(z, y):
    """The ignored label is off by one, and clamping makes class 0 of the right one."""
    own, every, counted = parts(z, y.masked_fill(y == -100, 0), ignored=-101)
    return mixed(own, every).sum() / counted.sum()


@mutant("ignores the label 0")
def class_0_ignored(z, y):
    """`y > 0` for `y >= 0`: class 0 never counts."""
    own, every, _ = parts(z, y)
    counted = y > 0
    return (mixed(own, every) * counted).sum() / counted.sum()


@mutant("takes the label 5 for class 0", **FREE)
def labels_wrapped(z, y):
    """y % K: an impossible label is some class."""
    return functional.cross_entropy(z, y % z.shape[1], label_smoothing=EPS)


@mutant("takes the label 5 for class 4")
def labels_clamped(z, y):
    """Labels are clamped before the gather: −1 is learnt as class 0."""
    y = torch.where(y == -100, y, y.clamp(0, z.shape[1] - 1))
    return functional.cross_entropy(z, y, label_smoothing=EPS)


@mutant("raises RuntimeError", accepts=("ignore_index",))
def ignore_index_not_used(z, y, ignore_index=-100):
    """The argument is there, −100 is what is ignored."""
    own, every, counted = parts(z, y)
    return mixed(own, every).sum() / counted.sum()


@mutant("reduction 'none'", accepts=("reduction",))
def none_is_mean(z, y, reduction="mean"):
    """Reduction "none" falls through to the mean."""
    return functional.cross_entropy(z, y, label_smoothing=EPS, reduction="sum" if reduction == "sum" else "mean")


@mutant("ε = 0", accepts=("label_smoothing",))
def smoothing_not_used(z, y, label_smoothing=EPS):
    """Whatever ε is asked for, it is 0.1."""
    return functional.cross_entropy(z, y, label_smoothing=EPS)


# --- weights and more -------------------------------------------------------------------------------------------------


def weighted(z, y, weight, own_weight, every_weight, share):
    """A weighted mean, given what multiplies the label's term, the classes' terms, and what is divided by."""
    own, every, counted = parts(z, y)
    if weight is None:
        return mixed(own, every).sum() / counted.sum()
    y = y.masked_fill(~counted, 0)
    own = own * own_weight(weight, y)
    every = -(every_weight(weight) * z.log_softmax(1)).mean(1).masked_fill(~counted, 0)
    return mixed(own, every).sum() / share(weight, y)[counted].sum()


def of_label(weight, y):
    return weight[y]


def once(weight, y=None):
    return torch.ones_like(weight if y is None else weight[y])


@mutant("the label's term only", weight=WEIGHT)
def weights_in_the_label_term_only(z, y):
    """The smoothing term is not weighted."""
    return weighted(z, y, z.new_tensor(WEIGHT), of_label, once, of_label)


@mutant(accepts=("weight",), says="weight")
def weights_in_the_smoothing_term_only(z, y, weight=None):
    """The label's term is not weighted."""
    return weighted(z, y, weight, once, lambda weight: weight, of_label)


@mutant("counted elements", weight=WEIGHT)
def weights_not_in_the_denominator(z, y):
    """The weighted sum is divided by the number of elements."""
    return weighted(z, y, z.new_tensor(WEIGHT), of_label, lambda weight: weight, once)


@mutant(accepts=("weight",), says="weight")
def weights_of_all_classes_in_the_denominator(z, y, weight=None):
    """Divides by N·mean(w) instead of Σ w_y."""
    return weighted(z, y, weight, of_label, lambda weight: weight, lambda weight, y: weight.mean().expand(len(y)))


@mutant("the whole element, by its label", weight=WEIGHT)
def whole_element_weighted(z, y):
    """w_y times the element, the smoothing term included."""
    own, every, counted = parts(z, y)
    w = z.new_tensor(WEIGHT)[y.masked_fill(~counted, 0)]
    return (w * mixed(own, every)).sum() / w[counted].sum()


@mutant(accepts=("weight",), says="weight")
def weights_not_used(z, y, weight=None):
    """The argument is there, and that is all."""
    return functional.cross_entropy(z, y, label_smoothing=EPS)


@mutant(accepts=("weight",), says="weight")
def weights_of_the_prediction(z, y, weight=None):
    """The weight of the class that is predicted, not of the label."""
    prediction = z.argmax(1)
    return weighted(z, y, weight, lambda weight, y: weight[prediction], lambda weight: weight, of_label)


@mutant(accepts=("weight",), says="weight")
def weights_of_the_class_before(z, y, weight=None):
    """The weights are looked up one class too early."""
    shifted = None if weight is None else weight.roll(1)
    return functional.cross_entropy(z, y, shifted, label_smoothing=EPS)


@mutant("sample weights", accepts=("sample_weight",))
def sample_weights_squared(z, y, sample_weight=None):
    """The element and its loss are both weighted, and the mean divides by the weights once."""
    own, every, counted = parts(z, y)
    s = once(own) if sample_weight is None else sample_weight
    return (s * s * mixed(own, every)).sum() / s[counted].sum()


@mutant("a class masked", accepts=("class_mask",))
def mask_not_used(z, y, class_mask=None):
    """Classes that do not exist take probability and mass."""
    return functional.cross_entropy(z, y, label_smoothing=EPS)


@mutant("a class masked", accepts=("class_mask",))
def mask_of_minus_ten_thousand(z, y, class_mask=None):
    """−1e4 for −inf: then smoothing asks for the classes that are not there."""
    z = z if class_mask is None else z.masked_fill(~class_mask, -1e4)
    return functional.cross_entropy(z, y, label_smoothing=EPS)


@mutant("z_loss=0;", z_loss=0.01)
def z_loss_forgotten(z, y):
    """No ζ·lse²."""
    return functional.cross_entropy(z, y, label_smoothing=EPS)


@mutant(z_loss=0.01)
def z_loss_summed(z, y):
    """The cross-entropy is a mean, the z-loss beside it a sum."""
    squares = z.logsumexp(1).square() * (y != -100)
    return functional.cross_entropy(z, y, label_smoothing=EPS) + 0.01 * squares.sum()


LIGER = {"convention": "liger", "weight": WEIGHT, "z_loss": 0.01}


def of_liger(z, y, denominator):
    """The weighted loss, and Σ lse² of what counts over a denominator."""
    squares = z.logsumexp(1).square().masked_fill(y == -100, 0)
    return (
        functional.cross_entropy(z, y, z.new_tensor(WEIGHT), label_smoothing=EPS) + 0.01 * squares.sum() / denominator
    )


@mutant("divides its lse² by the summed class weights", **LIGER)
def z_loss_over_the_class_weights(z, y):
    """The z-loss is divided by Σ w_y, as the rest is, where its mean is a plain one."""
    return of_liger(z, y, z.new_tensor(WEIGHT)[y[y != -100]].sum())


@mutant("divides its lse² by the 7 counted elements", **{**LIGER, "convention": "torch"})
def z_loss_over_the_count(z, y):
    """The other way round: it has no part in the weighted mean."""
    return of_liger(z, y, (y != -100).sum())


@mutant("by all 12 elements, the 5 ignored ones included; the reference by the 7 counted elements", **LIGER)
def z_loss_over_all_elements(z, y):
    """lse² is set to 0 where ignored, and then .mean() is taken."""
    return of_liger(z, y, len(y))


@mutant("divides its lse² by all 12 elements", z_loss=0.01)
def z_loss_alone_over_all_elements(z, y):
    """The same without class weights."""
    squares = z.logsumexp(1).square().masked_fill(y == -100, 0)
    return functional.cross_entropy(z, y, label_smoothing=EPS) + 0.01 * squares.mean()


@mutant(**LIGER)
def z_loss_with_class_weights(z, y):
    """w_y multiplies lse²."""
    w = z.new_tensor(WEIGHT)[y.masked_fill(y == -100, 0)]
    squares = (w * z.logsumexp(1).square()).masked_fill(y == -100, 0).sum() / (y != -100).sum()
    return functional.cross_entropy(z, y, z.new_tensor(WEIGHT), label_smoothing=EPS) + 0.01 * squares


@mutant("z-loss and weights", convention="liger", accepts=("weight", "z_loss"))
def z_loss_in_the_weighted_mean(z, y, weight=None, z_loss=0.0):
    """Right without class weights, and without a z-loss."""
    squares = z_loss * z.logsumexp(1).square() * (y != -100)
    share = (y != -100) if weight is None else weight[y.masked_fill(y == -100, 0)] * (y != -100)
    return functional.cross_entropy(z, y, weight, label_smoothing=EPS) + squares.sum() / share.sum()


@mutant("z-loss and weights", accepts=("sample_weight", "z_loss"))
def z_loss_without_sample_weights(z, y, sample_weight=None, z_loss=0.0):
    """The elements are weighted, their z-losses are not."""
    own, every, counted = parts(z, y)
    s = (once(own) if sample_weight is None else sample_weight) * counted
    squares = z_loss * z.logsumexp(1).square() * (s > 0)
    return (s * mixed(own, every) + squares).sum() / s.sum()


@mutant("2 times as large")
def doubled(z, y):
    """A loss weight of 2 was left in."""
    return 2 * functional.cross_entropy(z, y, label_smoothing=EPS)
