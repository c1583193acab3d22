"""Linear head and loss together, one chunk of rows at a time, so that the (N, K) logits never exist.

    ∂loss/∂hidden = G·W,   ∂loss/∂W = Gᵀ·hidden,   ∂loss/∂bias = Σ_n G_n    with G the gradient of a chunk's logits

Elements become rows: everything is (N,) or (N, D), and classes are last. Denominators need labels and weights but no
logits. So they are known before the first chunk, and no chunk's G has to be scaled later.

NumPy and PyTorch use this loop. JAX has its own, a scan.
"""

from multismooth import spec
from multismooth.plan import mapped, plan_of
from multismooth.problem import Terms
from multismooth.reduction import factors, term_factors

WORKSPACE = 2**22  # logits per chunk, 16 MiB of float32; their gradient may take as much again

# Classes whose part of the classifier's gradient is added at a time. All at once would need a second (K, D) buffer.
BLOCK = 8192


def chunk_size(rows, num_classes, chunk_rows, workspace=WORKSPACE, least=1, multiple=1):
    """Rows per chunk: `chunk_rows` if it is given, else equal parts of at most `workspace` logits.

    Parts have at least `least` rows, and a multiple of `multiple`.
    """
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
        targets = xp.moveaxis(targets, axis, -1)
        targets = xp.reshape(targets, (-1, targets.shape[-1]))
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
    """The rows `index` of a mask that broadcasts to (*shape, K), without broadcasting all of it."""
    place, step = [], 1
    for size, own in zip(reversed(shape), reversed(mask.shape[:-1]), strict=True):
        place.append(index * 0 if own == 1 else index // step % size)
        step *= size
    return mask[tuple(reversed(place))]


def row_chunk(problem, start, stop, shape, xp):
    """The Problem of the rows start:stop. Its logits are only a shape, as before."""

    def cut(array):
        return array if spec.rank(array) == 0 else array[start:stop]

    mask = problem.class_mask
    if mask is not None and mask.ndim > 1:
        mask = mask_rows(mask, xp.arange(start, stop, device=getattr(problem.targets, "device", None)), shape, xp)
    return problem._replace(
        logits=problem.logits[start:stop],
        targets=problem.targets[start:stop],
        label_smoothing=cut(problem.label_smoothing),
        sample_weight=cut(problem.sample_weight),
        class_mask=mask,
    )


def chunks(problem, settings, shape, chunk_rows, xp, plan=None, factors=factors):
    """(rows, plan) of every chunk; for reduction "mean" the plans are divided by the denominator of the whole call.

    A chunk's plan may hold a row for each element, so it is made just before its chunk. With `plan`, the one of the
    whole call, the chunks' plans are parts of that. `factors` of all chunks' plans scale each of them.
    """
    rows, num_classes = problem.logits.shape
    size = chunk_size(rows, num_classes, chunk_rows)
    one = size >= rows  # a compiler may know `rows` as a symbol only, which `range` cannot take
    parts = [(0, rows)] if one else [(start, min(start + size, rows)) for start in range(0, rows, size)]
    if plan is not None:
        for start, stop in parts:
            yield slice(start, stop), mapped(plan, lambda x, place=slice(start, stop): x[place], lambda row: row)
        return
    problems = [row_chunk(problem, start, stop, shape, xp) for start, stop in parts]
    plans = ((plan_of(part, settings, xp), part.logits) for part in problems)
    common = factors(plans, problem, settings, xp)
    for (start, stop), part in zip(parts, problems, strict=True):
        yield slice(start, stop), spec.scaled(plan_of(part, settings, xp), *common)


def logits_of(hidden, classifier, bias):
    logits = hidden @ classifier.T
    return logits if bias is None else logits + bias


def masked_rows(hidden, plan, xp):
    """The features with inactive rows at 0. A NaN there would reach the classifier's gradient as 0·NaN."""
    return hidden if plan.active is None else xp.where(xp.reshape(plan.active, (-1, 1)), hidden, xp.zeros_like(hidden))


def losses_of(logits, plan, xp):
    """The losses per element of a chunk, computed by `spec`."""
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
    """The loss; `chunk_loss` computes one chunk."""
    hidden, problem, settings, shape = flatten(hidden, problem, settings, xp)
    parts = chunks(problem, settings, shape, chunk_rows, xp)
    losses = [chunk_loss(masked_rows(hidden[rows], plan, xp), classifier, bias, plan, xp) for rows, plan in parts]
    return gathered(losses, shape, settings, xp)


def plain_terms(hidden, classifier, bias, plan, xp):
    return spec.terms(logits_of(hidden, classifier, bias), plan, 1, xp)


def terms(hidden, classifier, bias, chunk_rows, problem, settings, xp, chunk_terms=plain_terms):
    """The Terms; `chunk_terms` computes those of one chunk."""
    hidden, problem, settings, shape = flatten(hidden, problem, settings, xp)
    parts = chunks(problem, settings, shape, chunk_rows, xp, factors=term_factors)
    found = [chunk_terms(masked_rows(hidden[rows], plan, xp), classifier, bias, plan, xp) for rows, plan in parts]
    return Terms(*(xp.reshape(xp.concat(list(column)), shape) for column in zip(*found, strict=True)))


def plain_kernel(logits, plan, xp):
    """(losses per element, gradient) of a chunk, computed by `spec`."""
    return spec.losses_and_gradient(logits, plan, 1, xp)


class Products:
    """A head's matrix products, for any framework: it writes to no array, so arrays may be immutable.

    The classifier's gradient is a sum over chunks. With one chunk, it is a product. With several, they are summed in
    the dtype that `float_of` names, or in the classifier's own (`Settings.accumulate`).
    """

    scale = 1.0  # multiplies the gradient of a chunk's logits; PyTorch sets it
    factor = 1.0  # multiplies the products before they are rounded: the upstream gradient, divided by `scale`

    def __init__(self, hidden, classifier, settings, rows, xp):
        one_chunk = rows >= hidden.shape[0]
        self.dtype = classifier.dtype if one_chunk or settings.accumulate == "input" else xp.float_of(hidden)
        self.hidden, self.classifier, self.xp = hidden, classifier, xp
        self.d_classifier, self._d_hidden = None, []

    def logits(self, hidden, bias):
        return logits_of(hidden, self.classifier, bias)

    def add_hidden(self, g, rows):
        """The gradient of these rows of the features: g·W. The rows come in order."""
        self._d_hidden.append(g @ self.classifier)

    def add_classifier(self, g, hidden):
        """d_classifier += gᵀ·hidden"""
        part = self.xp.astype(g.T @ hidden, self.dtype, copy=False)
        self.d_classifier = part if self.d_classifier is None else self.d_classifier + part

    def d_hidden(self):
        first, *rest = self._d_hidden
        return self.xp.concat([first, *rest]) if rest else first


class InPlaceProducts(Products):
    """The same for arrays that can be written to: no second buffer as large as the features or the classifier."""

    def add_hidden(self, g, rows):
        if not self._d_hidden:
            self._d_hidden.append(self.xp.empty_like(self.hidden))
        self.put_hidden(g, self._d_hidden[0][rows])

    def put_hidden(self, g, out):
        """out = g·W"""
        out[...] = g @ self.classifier

    def add_classifier(self, g, hidden):
        if self.d_classifier is None and g.dtype == self.dtype:
            self.d_classifier = g.T @ hidden
            return
        if self.d_classifier is None:
            self.d_classifier = self.xp.zeros_like(self.classifier, dtype=self.dtype)
        for start in range(0, self.d_classifier.shape[0], BLOCK):
            block = slice(start, start + BLOCK)
            self.d_classifier[block] += self.product(g[:, block].T, hidden)

    def product(self, left, right):
        return left @ right


def forward_and_gradient(
    hidden, classifier, bias, chunk_rows, problem, settings, xp,
    kernel=plain_kernel, products=Products, needed=(True, True, True), planned=lambda *call: None,
):  # fmt: skip
    """(loss, (∂hidden, ∂classifier, ∂bias)), None for the gradients that are not `needed`.

    `planned` may know the plan of the whole call. Pass `products=InPlaceProducts` where arrays can be written to.
    """
    features, flat, row_settings, shape = flatten(hidden, problem, settings, xp)
    size = chunk_size(features.shape[0], classifier.shape[0], chunk_rows)
    head, losses, d_bias = products(features, classifier, settings, size, xp), [], None
    for rows, plan in chunks(flat, row_settings, shape, size, xp, planned(flat, row_settings)):
        chunk = masked_rows(features[rows], plan, xp)
        loss, g = kernel(head.logits(chunk, bias), spec.scaled(plan, head.scale), xp)
        losses.append(loss)
        if needed[2] and bias is not None:
            part = xp.sum(g, axis=0, dtype=xp.float_of(hidden))
            d_bias = part if d_bias is None else d_bias + part
        g = xp.astype(g, features.dtype, copy=False)
        if needed[0]:
            head.add_hidden(g, rows)
        if needed[1]:
            head.add_classifier(g, chunk)
        del g  # else it would stay while the next chunk's logits are made: a second workspace
    d_hidden = xp.reshape(head.d_hidden(), (*shape, features.shape[1])) if needed[0] else None
    d_hidden = None if d_hidden is None else xp.moveaxis(d_hidden, -1, settings.axis)
    results = ((d_hidden, hidden), (head.d_classifier, classifier), (spec.times(d_bias, head.factor), bias))
    gradients = tuple(None if d is None else xp.astype(d, of.dtype, copy=False) for d, of in results)
    return spec.times(gathered(losses, shape, settings, xp), 1 / head.scale), gradients
