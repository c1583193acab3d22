"""Broken losses for PyTorch whose formula is right and whose gradient, arithmetic, memory or manners are not.

See mutants.py. Those with `strict=True` fail only where many a real loss does.
"""

from mutants import EPS, optional, table
from mutants_formula import cross, mixed, parts, rows

torch = optional("torch")
functional = torch and torch.nn.functional
MACHINE, mutant = table("torch")


def exact(z, y):
    """(mean loss, its gradient): for those that hand-make what happens next."""
    own, every, counted = parts(z, y)
    q = rows(z, y.masked_fill(~counted, 0), 1 - EPS + EPS / z.shape[-1], EPS / z.shape[-1])
    slope = (z.softmax(-1) - q).masked_fill(~counted[..., None], 0)
    return mixed(own, every).sum() / counted.sum(), slope / counted.sum()


def hand_made(z, y, backward, forward=exact):
    """A loss with a gradient of its own: forward(z, y) -> (loss, slope), backward(slope, upstream) -> gradient."""

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            loss, ctx.slope = forward(z, y)
            return loss

        @staticmethod
        def backward(ctx, upstream):
            return backward(ctx.slope, upstream)

    return Loss.apply(z)


def times(slope, upstream):
    return slope * upstream


# --- the gradient -----------------------------------------------------------------------------------------------------


@mutant("upstream (")
def upstream_not_used(z, y):
    """The hand-made gradient forgets what it is multiplied by."""
    return hand_made(z, y, lambda slope, upstream: slope)


@mutant("upstream (")
def upstream_used_twice(z, y):
    """A backward pass that scales, called by a wrapper that scales too."""
    return hand_made(z, y, lambda slope, upstream: slope * upstream * upstream)


@mutant("another upstream")
def size_of_upstream_used(z, y):
    """The hand-made gradient loses the sign of what it is multiplied by, and a float32 constant blurs all of them."""

    def blurred(z, y):
        loss, slope = exact(z, y)
        return loss, slope.float().to(z.dtype)

    return hand_made(z, y, lambda slope, upstream: slope * upstream.abs(), blurred)


@mutant("layouts (")
def gradient_doubled_in_sentences(z, y):
    """Of sentences, the loss is right to float32, and the gradient is twice what it should be."""

    def blurred(z, y):
        loss, slope = exact(z, y)
        return loss * (1 + 1e-7), slope

    return exact(z, y)[0] if z.ndim == 2 else hand_made(z, y, lambda slope, upstream: 2 * slope * upstream, blurred)


@mutant("second backward")
def gradient_scaled_in_place(z, y):
    """Saved in the forward pass, scaled in place in the backward pass: the second one scales what was scaled."""
    return hand_made(z, y, lambda slope, upstream: slope.mul_(upstream))


@mutant("upstream (", reduction="none")
def one_upstream_for_all(z, y):
    """Per-element losses, but the backward pass reads the first element's upstream gradient only."""

    def forward(z, y):
        own, every, counted = parts(z, y)
        return mixed(own, every), exact(z, y)[1] * counted.sum()

    return hand_made(z, y, lambda slope, upstream: slope * upstream[0], forward)


@mutant("gradients (")
def gradient_not_divided(z, y):
    """The value is the mean, the gradient that of the sum."""
    return hand_made(z, y, times, lambda z, y: (exact(z, y)[0], exact(z, y)[1] * (y != -100).sum()))


@mutant("label -100) at class")
def gradient_of_ignored_rows(z, y):
    """The hand-made gradient takes ignored labels for class 0."""

    def forward(z, y):
        filled = y.masked_fill(y == -100, 0)
        return exact(z, y)[0], exact(z, filled)[1] * len(y) / (y != -100).sum()

    return hand_made(z, y, times, forward)


@mutant("gradients (")
def gradient_of_hard_labels(z, y):
    """softmax − onehot: smoothing only changes the number that is logged."""
    smooth, hard = (functional.cross_entropy(z, y, label_smoothing=eps) for eps in (EPS, 0.0))
    return hard + (smooth - hard).detach()


@mutant("gradients (")
def normaliser_detached(z, y):
    """logsumexp is a constant to autograd."""
    own, every, counted = parts(z, y)
    lse = z.logsumexp(1)
    return (mixed(own, every) - (lse - lse.detach()).masked_fill(~counted, 0)).sum() / counted.sum()


@mutant("gradients (")
def smoothing_term_detached(z, y):
    """The smoothing term is computed under no_grad."""
    own, every, counted = parts(z, y)
    return mixed(own, every.detach()).sum() / counted.sum()


@mutant("is nan")
def gradient_lost_in_where(z, y):
    """torch.where hides the overflow of exp from the value, and its gradient is NaN."""
    raw, top = z.exp().sum(1).log(), z.amax(1)
    lse = torch.where(raw.isfinite(), raw, top + (z - top[:, None]).exp().sum(1).log())
    counted = y != -100
    own = lse - z.gather(1, y.masked_fill(~counted, 0)[:, None])[:, 0]
    return mixed(own, lse - z.mean(1)).masked_fill(~counted, 0).sum() / counted.sum()


# --- arithmetic -------------------------------------------------------------------------------------------------------


@mutant("computed in about")
def half_precision_inside(z, y):
    """An autocast region that was not meant to reach the loss."""
    return functional.cross_entropy(z.bfloat16(), y, label_smoothing=EPS).to(z.dtype)


@mutant("computed in about")
def summed_in_half_precision(z, y):
    """The elements are accumulated in float16."""
    own, every, counted = parts(z, y)
    return mixed(own, every).half().sum().to(z.dtype) / counted.sum()


@mutant("float32's rounding", strict=True)
def single_precision_targets(z, y):
    """ε and ε/K are float32 constants in a float64 loss."""
    every = torch.full(z.shape, EPS / z.shape[1], dtype=torch.float32)
    counted = y != -100
    q = every.scatter(1, y.masked_fill(~counted, 0)[:, None], 1 - EPS + EPS / z.shape[1])
    return cross(z, q.to(z.dtype)).masked_fill(~counted, 0).sum() / counted.sum()


@mutant("logits up to 48")
def no_shift(z, y):
    """log Σ exp without the maximum."""
    own, every, counted = parts(z, y)
    wrong = z.exp().sum(1).log() - z.logsumexp(1)
    return (mixed(own, every) + wrong.masked_fill(~counted, 0)).sum() / counted.sum()


def from_log_p(z, y, log_p):
    """The mean loss for log-probabilities that are given."""
    counted = y != -100
    q = rows(z, y.masked_fill(~counted, 0), 1 - EPS + EPS / z.shape[1], EPS / z.shape[1])
    return -(q * log_p).sum(1).masked_fill(~counted, 0).sum() / counted.sum()


@mutant()
def logarithm_of_p_plus_little(z, y):
    """log(p + 1e-8)."""
    return from_log_p(z, y, (z.softmax(1) + 1e-8).log())


@mutant("1000 classes")
def log_p_clipped(z, y):
    """log p is kept above −12."""
    return from_log_p(z, y, z.log_softmax(1).clamp(min=-12))


@mutant("moves with the logits")
def softmax_twice(z, y):
    """The model ends in a softmax already."""
    return functional.cross_entropy(z.softmax(1), y, label_smoothing=EPS)


@mutant("softmax(z/T), T = 2")
def temperature_left_in(z, y):
    """The logits are divided by the distillation's temperature."""
    return functional.cross_entropy(z / 2, y, label_smoothing=EPS)


# --- shapes and memory ------------------------------------------------------------------------------------------------


@mutant("sum to 0")
def softmax_over_the_batch(z, y):
    """log_softmax over axis 0."""
    return from_log_p(z, y, z.log_softmax(0))


@mutant()
def reshaped_for_transposed(z, y):
    """(B, T, K) to (B, K, T) by reshape, which only renames the axes."""
    batch, time, k = z.shape
    return functional.cross_entropy(z.reshape(batch, k, time), y, label_smoothing=EPS)


@mutant("strided (")
def strides_not_looked_at(z, y):
    """A kernel that takes its rows to lie one after another."""
    return functional.cross_entropy(torch.as_strided(z, z.shape, (z.shape[1], 1)), y, label_smoothing=EPS)


@mutant("one element")
def last_row_of_an_odd_batch(z, y):
    """Rows are read in pairs, and an odd one out is not read."""
    own, every, counted = parts(z, y)
    even = len(y) // 2 * 2
    return mixed(own, every)[:even].sum() / counted.sum()


@mutant("one element")
def one_element_squeezed(z, y):
    """squeeze() takes the batch axis of a single element, and what is then counted is its classes."""
    z = z.squeeze()
    own, every, _ = parts(z if z.ndim == 2 else z[None], y)
    return mixed(own, every).sum() / (y != -100).expand(z.shape[0] if z.ndim == 1 else len(y)).sum()


@mutant("1000 classes")
def classes_after_the_last_chunk(z, y):
    """Vocabularies above 256 are read in chunks of 256, the remainder is not."""
    k = z.shape[1]
    read = z[:, : k - k % 256] if k > 256 else z
    own, every, counted = parts(z, y)
    wrong = (read.logsumexp(1) - z.logsumexp(1)).masked_fill(~counted, 0)
    return (mixed(own, every) + wrong).sum() / counted.sum()


@mutant("untouched (")
def labels_overwritten(z, y):
    """The ignored labels are set to 0 in the caller's tensor."""
    counted = y != -100
    y[~counted] = 0
    each = functional.cross_entropy(z, y, label_smoothing=EPS, reduction="none")
    return each[counted].sum() / counted.sum()


@mutant("untouched (")
def logits_shifted_in_place(z, y):
    """The maximum is subtracted from the caller's logits."""
    z.data.sub_(z.data.amax(1, keepdim=True))
    return functional.cross_entropy(z, y, label_smoothing=EPS)


# --- manners ----------------------------------------------------------------------------------------------------------


@mutant()
def noise(z, y):
    """Logits are jittered in evaluation too."""
    return functional.cross_entropy(z + 1e-4 * torch.randn_like(z), y, label_smoothing=EPS)


@mutant()
def smoothing_that_anneals(z, y, steps=[]):  # noqa: B006 the mistake
    """ε shrinks with every call, whoever calls."""
    steps.append(len(steps))
    return functional.cross_entropy(z, y, label_smoothing=EPS * 0.9999 ** len(steps))


@mutant()
def denominator_of_the_call_before(z, y, counts=[]):  # noqa: B006 the mistake
    """The count is read before it is updated, as with a running average."""
    counts.append((y != -100).sum())
    return functional.cross_entropy(z, y, label_smoothing=EPS, reduction="sum") / counts[max(len(counts) - 2, 0)]


# --- robustness: what many a real loss gets wrong, failures under strict ---------------------------------------------


def careful(z, y, counted):
    """The sum over what counts: whatever the other rows hold, no NaN of theirs comes through."""
    z, y = z.masked_fill(~counted[:, None], 0), y.masked_fill(~counted, -100)
    return functional.cross_entropy(z, y, label_smoothing=EPS, reduction="sum")


@mutant("bad labels (the label -1", strict=True)
def any_negative_label_ignored(z, y):
    """`y >= 0` counts: −1 is a typing mistake that nobody hears of."""
    counted = y >= 0
    return careful(z, y, counted) / counted.sum().clamp(min=1)


@mutant("ignored NaN (", strict=True)
def ignored_by_multiplication(z, y):
    """0 · NaN is NaN: an ignored element must not be multiplied away."""
    counted = y != -100
    each = functional.cross_entropy(z, y.masked_fill(~counted, 0), label_smoothing=EPS, reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1)


@mutant("nothing counted (", strict=True)
def mean_over_nothing(z, y):
    """0/0."""
    counted = y != -100
    return careful(z, y, counted) / counted.sum()


@mutant("bad labels (", strict=True)
def impossible_labels_lose_their_term(z, y):
    """The label is compared with each class: one that names none costs only the smoothing term."""
    counted = y != -100
    q = (1 - EPS) * (y[:, None] == torch.arange(z.shape[1])).to(z.dtype) + EPS / z.shape[1]
    each = cross(z.masked_fill(~counted[:, None], 0), q).masked_fill(~counted, 0)
    return each.sum() / counted.sum().clamp(min=1)


@mutant("extremes (a logit of −inf", strict=True)
def minus_infinity_made_finite(z, y):
    """−inf logits are replaced by −1e4, and a probability of 0 costs a finite loss."""
    counted = y != -100
    return careful(z.clamp(min=-1e4), y, counted) / counted.sum().clamp(min=1)


@mutant("dtypes (", strict=True)
def half_precision_refused(z, y):
    """float16 is not supported."""
    if z.dtype == torch.float16:
        raise TypeError("expected float32")
    counted = y != -100
    return careful(z.to(torch.promote_types(z.dtype, torch.float32)), y, counted) / counted.sum().clamp(min=1)
