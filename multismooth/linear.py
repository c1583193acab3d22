"""Linear head and loss together, a chunk of rows at a time: the (N, K) logits never exist.

    ∂loss/∂hidden = G·W,   ∂loss/∂W = Gᵀ·hidden,   ∂loss/∂bias = Σ_n G_n    with G the gradient of a chunk's logits

Elements become rows: everything is (N,) or (N, D), classes last. Denominators need labels and weights but no logits,
so they are known before the first chunk and each chunk's G is final. Eager loops use this file; JAX scans (its own).
"""

from multismooth import spec
from multismooth.plan import mapped, plan_of
from multismooth.reduction import factors

WORKSPACE = 2**22  # logits per chunk, 16 MiB of float32: their gradient may be as much again
BLOCK = 8192  # classes whose share of the classifier's gradient is added at a time, to need no second one


def chunk_size(rows, num_classes, chunk_rows, workspace=WORKSPACE, least=1, multiple=1):
    """Rows per chunk: what was asked for, or equal parts that keep to the workspace (in logits), in round numbers."""
    if chunk_rows is not None:
        return chunk_rows
    chunks = -(-rows // max(workspace // max(num_classes, 1), least))
    size = -(-rows // max(chunks, 1))
    return max(1, -(-size // multiple) * multiple) if chunks > 1 else max(1, size)


def flatten(hidden, problem, settings, xp):
    """(hidden (N, D), Problem over rows, Settings over rows, shape of the elements)."""
    axis = settings.axis
    last = xp.moveaxis(hidden, axis, -1)
    shape, num_classes = tuple(last.shape[:-1]), problem.logits.shape[axis]

    def rows(array):
        if spec.rank(array) == 0:
            return array
        return xp.reshape(xp.broadcast_to(array, shape), (-1,))

    targets, mask = problem.targets, problem.class_mask
    if settings.soft:
        targets = xp.reshape(xp.moveaxis(targets, axis, -1), (-1, num_classes))
    else:
        targets = xp.reshape(targets, (-1,))
    if mask is not None and mask.ndim > 1:
        mask = xp.moveaxis(mask, axis, -1)
    flat = problem._replace(
        logits=xp.broadcast_to(xp.constant(0.0, hidden), (targets.shape[0], num_classes)),
        targets=targets,
        label_smoothing=rows(problem.label_smoothing),
        sample_weight=rows(problem.sample_weight),
        class_mask=mask,
    )
    return xp.reshape(last, (-1, last.shape[-1])), flat, settings._replace(axis=1), shape


def mask_rows(mask, index, shape, xp):
    """Rows of a mask that broadcasts to (*shape, K), without spreading it over all of them."""
    place, step = [], 1
    for size, own in zip(reversed(shape), reversed(mask.shape[:-1]), strict=True):
        place.append(index * 0 if own == 1 else index // step % size)
        step *= size
    return mask[tuple(reversed(place))]


def row_chunk(problem, start, stop, shape, xp):
    """The Problem of the rows start:stop, its logits still a shape only."""

    def cut(array):
        return array if spec.rank(array) == 0 else array[start:stop]

    mask = problem.class_mask
    if mask is not None and mask.ndim > 1:
        mask = mask_rows(mask, xp.arange(start, stop, device=problem.targets.device), shape, xp)
    return problem._replace(
        logits=problem.logits[start:stop],
        targets=problem.targets[start:stop],
        label_smoothing=cut(problem.label_smoothing),
        sample_weight=cut(problem.sample_weight),
        class_mask=mask,
    )


def chunks(problem, settings, shape, chunk_rows, xp, plan=None):
    """(rows, plan) of every chunk, averaged over the whole call where "mean" is asked for.

    Each is made when it is wanted, since a plan may hold (N, K) rows, unless there is one of the whole call to cut.
    """
    rows, num_classes = problem.logits.shape
    size = chunk_size(rows, num_classes, chunk_rows)
    one = size >= rows  # rows may be a compiler's symbol, over which there is no loop
    parts = [(0, rows)] if one else [(start, min(start + size, rows)) for start in range(0, rows, size)]
    if plan is not None:
        for start, stop in parts:
            yield slice(start, stop), mapped(plan, lambda x, place=slice(start, stop): x[place], lambda row: row)
        return
    problems = [row_chunk(problem, start, stop, shape, xp) for start, stop in parts]
    plans = ((plan_of(part, settings, xp), part.logits) for part in problems)
    mean = factors(plans, problem, settings, xp)
    for (start, stop), part in zip(parts, problems, strict=True):
        yield slice(start, stop), spec.scaled(plan_of(part, settings, xp), *mean)


def logits_of(hidden, classifier, bias):
    logits = hidden @ classifier.T
    return logits if bias is None else logits + bias


def masked_rows(hidden, plan, xp):
    """The features with dead rows at 0: whatever stands there would reach the classifier's gradient as 0·NaN."""
    return hidden if plan.active is None else xp.where(xp.reshape(plan.active, (-1, 1)), hidden, xp.zeros_like(hidden))


def losses_of(logits, plan, xp):
    """Per-element losses of a chunk by the text of `spec`."""
    return spec.losses(logits, plan, 1, xp)


def plain(hidden, classifier, bias, plan, xp):
    return losses_of(logits_of(hidden, classifier, bias), plan, xp)


def gathered(losses, shape, settings, xp):
    """The result of a call from the per-element losses of its chunks."""
    if settings.reduction == "none":
        return xp.reshape(xp.concat(losses), shape)
    first, *rest = map(xp.sum, losses)
    return sum(rest, start=first)


def forward(hidden, classifier, bias, chunk_rows, problem, settings, xp, chunk_loss=plain):
    """The loss; `chunk_loss` says how a chunk is computed."""
    hidden, problem, settings, shape = flatten(hidden, problem, settings, xp)
    parts = chunks(problem, settings, shape, chunk_rows, xp)
    losses = [chunk_loss(masked_rows(hidden[rows], plan, xp), classifier, bias, plan, xp) for rows, plan in parts]
    return gathered(losses, shape, settings, xp)


def plain_kernel(logits, plan, xp):
    """(per-element losses, gradient) of a chunk by the text of `spec`."""
    return spec.losses_and_gradient(logits, plan, 1, xp)


class Products:
    """A head's matrix products in a framework's operators; PyTorch has its own, into memory that is there already.

    The classifier's gradient is a sum over chunks. Of one chunk it is a product, which needs no buffer wider than
    itself; of several it is summed in the dtype that is computed in, or in its own (`Settings.accumulate`).
    """

    scale = 1.0  # what multiplies the gradient of a chunk's logits: see PyTorch's
    factor = 1.0  # what the products multiply by before they round: the upstream gradient, and the scale taken out

    def __init__(self, hidden, classifier, settings, rows, xp):
        single = rows >= hidden.shape[0] or settings.accumulate == "input"
        self.dtype = classifier.dtype if single else xp.float_of(hidden)
        self.classifier, self.total, self._xp = classifier, None, xp

    def logits(self, hidden, bias):
        return logits_of(hidden, self.classifier, bias)

    def put_hidden(self, g, out):
        """out = g·W"""
        out[...] = g @ self.classifier

    def add_classifier(self, g, hidden):
        """total += gᵀ·hidden, after the first chunk a block of classes at a time."""
        if self.total is None and g.dtype == self.dtype:
            self.total = g.T @ hidden
            return
        if self.total is None:
            self.total = self._xp.zeros_like(self.classifier, dtype=self.dtype)
        for start in range(0, self.total.shape[0], BLOCK):
            self.total[start : start + BLOCK] += self.product(g[:, start : start + BLOCK].T, hidden)

    def product(self, left, right):
        return left @ right


def forward_and_gradient(
    hidden, classifier, bias, chunk_rows, problem, settings, xp,
    kernel=plain_kernel, products=Products, needed=(True, True, True), planned=lambda *call: None,
):  # fmt: skip
    """(loss, (∂hidden, ∂classifier, ∂bias), None where not needed); `planned` may know the plan of the whole call."""
    features, flat, row_settings, shape = flatten(hidden, problem, settings, xp)
    size = chunk_size(features.shape[0], classifier.shape[0], chunk_rows)
    head = products(features, classifier, settings, size, xp)
    d_hidden = xp.empty_like(features) if needed[0] else None
    d_bias = xp.zeros_like(bias, dtype=xp.float_of(hidden)) if needed[2] and bias is not None else None
    losses = []
    for rows, plan in chunks(flat, row_settings, shape, size, xp, planned(flat, row_settings)):
        own = masked_rows(features[rows], plan, xp)
        loss, g = kernel(head.logits(own, bias), spec.scaled(plan, head.scale), xp)
        losses.append(loss)
        if d_bias is not None:
            d_bias += xp.sum(g, axis=0, dtype=d_bias.dtype)
        g = xp.astype(g, features.dtype, copy=False)
        if d_hidden is not None:
            head.put_hidden(g, d_hidden[rows])
        if needed[1]:
            head.add_classifier(g, own)
        del g  # or the next chunk's logits would be a second workspace
    if d_hidden is not None:
        d_hidden = xp.moveaxis(xp.reshape(d_hidden, (*shape, features.shape[1])), -1, settings.axis)
    found = ((d_hidden, hidden), (head.total, classifier), (spec.times(d_bias, head.factor), bias))
    gradients = tuple(None if total is None else xp.astype(total, of.dtype, copy=False) for total, of in found)
    return spec.times(gathered(losses, shape, settings, xp), 1 / head.scale), gradients
