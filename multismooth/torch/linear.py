"""Linear layer and loss in PyTorch: forward computes the gradients chunk by chunk, with at most three matrix products.

Forward computes each chunk's gradient while its logits exist. So nothing of size (N, K) is kept, and backward only
multiplies by the upstream gradient. The gradient of reduction "none", double backward and other calls that
`compat.eligible` refuses use checkpointed chunks of the formulas of `spec`: a fourth product, and any derivative.
"""

import math
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from multismooth import correction, linear
from multismooth.implementations import select
from multismooth.torch import autocast, autograd, choice, compat
from multismooth.torch.gpu import launch, plans
from multismooth.torch.namespace import XP, known

WORKSPACE = 2**23  # logits per chunk, 32 MiB of float32: the kernel writes their gradient over them
DEVICE_WORKSPACE = 2**30  # bytes of logits per chunk on a GPU, whose matrix products are fast with thousands of rows
DEVICE_ROWS = {"least": 1024, "multiple": 128}  # each chunk reads the classifier twice and the sum of its gradient once
SPEC_BYTES = 16  # per logit, for the formulas of `spec`: a few float32 copies
HALF_FACTOR = 2.0**10  # float16 gradients up to 64 do not overflow, and those down to 6e-11 do not become 0


def _rows(hidden, classifier):
    return hidden.numel() // max(classifier.shape[1], 1)


def _chunk_rows(hidden, classifier, chunk_rows, settings=None):
    """Rows per chunk. They fit the cache of a CPU, or a share of the memory of another device.

    Without settings it is for the formulas of `spec`. All rows, if a compiler has a symbol for their number: a loop
    over chunks would fix it.
    """
    rows, classes = _rows(hidden, classifier), classifier.shape[0]
    if not known(rows):
        return rows
    if hidden.is_cpu:
        return linear.chunk_size(rows, classes, chunk_rows, WORKSPACE if settings else linear.WORKSPACE)
    in_place = settings and not settings.soft and launch.device(hidden)
    workspace = DEVICE_WORKSPACE // (hidden.itemsize if in_place else SPEC_BYTES)
    return linear.chunk_size(rows, classes, chunk_rows, workspace, **DEVICE_ROWS)


def float16_scale(hidden, rows, problem, settings):
    """A power of two that cancels a mean's 1/N in float16, where ε/(K·N) is 0. The products divide by it again, before
    they round."""
    if hidden.dtype is not torch.float16 or settings.reduction != "mean":
        return 1.0
    size = problem.normalizer if isinstance(problem.normalizer, float) else rows
    return 2.0 ** min(
        max(math.frexp(size)[1] - 1, 0), 15
    )  # if only one row counts its gradient is not divided by N, and 2¹⁶ is infinite in float16


def stored_factor(hidden, reduction):
    """The factor of the gradients that forward stores: in float16 the gradients of a mean would become 0."""
    return HALF_FACTOR if hidden.dtype is torch.float16 and reduction == "mean" else 1.0


class _Logits:
    """Computes the logits of all chunks in the same memory. New memory for each costs a tenth of the products."""

    def __init__(self, rows, hidden, classifier):
        self._memory = torch.empty(rows, classifier.shape[0], dtype=hidden.dtype, device=hidden.device)

    def __call__(self, hidden, classifier, bias):
        logits = torch.mm(hidden, classifier.T, out=self._memory[: hidden.shape[0]])
        return logits if bias is None else logits.add_(bias)


class TensorProducts(linear.InPlaceProducts):
    """Matrix products that write to reused memory: the logits of one chunk, and the gradients themselves."""

    def __init__(self, hidden, classifier, settings, rows, xp, scale, upstream):
        super().__init__(hidden, classifier, settings, rows, xp)
        self._logits = _Logits(min(rows, hidden.shape[0]), hidden, classifier)
        self.scale, self.factor = scale, upstream / scale

    def logits(self, hidden, bias):
        return self._logits(hidden, self.classifier, bias)

    def put_hidden(self, g, out):
        out.addmm_(g, self.classifier, beta=0, alpha=self.factor)

    def add_classifier(self, g, hidden):
        wide = compat.ADDMM_OUT_DTYPE and g.is_cuda and g.itemsize == 2 and self.dtype is torch.float32
        if not wide and g.dtype is not self.dtype:
            super().add_classifier(g, hidden)
            return
        factors = {"beta": 0 if self.d_classifier is None else 1, "alpha": self.factor}
        if self.d_classifier is None:
            self.d_classifier = torch.empty_like(self.classifier, dtype=self.dtype)
        if wide:  # half-precision operands with float32 sums, as cuBLAS computes anyway, without rounding
            torch.addmm(self.d_classifier, g.T, hidden, out_dtype=self.dtype, out=self.d_classifier, **factors)
        else:
            self.d_classifier.addmm_(g.T, hidden, **factors)

    def product(self, left, right):
        return torch.addmm(left.new_zeros(()), left, right, beta=0, alpha=self.factor)


def _kernel(logits, plan, xp):
    return choice.kernel_for(logits, plan, 1)(logits, plan, 1, out=logits)


def _plan_of_labels(problem, settings):
    """The plan of the whole call, of which each chunk takes a part. Soft targets have one for each chunk."""
    return None if settings.soft else plans.known(problem, settings)


def with_gradients(
    hidden, classifier, bias, call, needed=(True, True, True), kernel=_kernel, planned=_plan_of_labels, upstream=1.0
):
    """(loss, (∂hidden, ∂classifier, ∂bias) of upstream·loss, None where not needed). Each chunk makes them at once."""
    chunk_rows, problem, settings = call
    call = _chunk_rows(hidden, classifier, chunk_rows, settings), problem, settings
    scale = float16_scale(hidden, _rows(hidden, classifier), problem, settings)
    options = (
        {}
        if kernel is linear.plain_kernel
        else {"products": partial(TensorProducts, scale=scale, upstream=upstream), "planned": planned}
    )
    return linear.forward_and_gradient(hidden, classifier, bias, *call, XP, kernel, needed=needed, **options)


class Unchanged:
    """A chunk's function, which checkpoint runs again in backward. It raises if the caller wrote to a tensor since."""

    def __init__(self, function, hidden, classifier, bias, problem):
        self._function = function
        self._tensors = [x for x in (hidden, classifier, bias, *[*problem][1:]) if isinstance(x, torch.Tensor)]
        self._versions = self._current_versions()

    def _current_versions(self):
        tracked = () if torch.compiler.is_compiling() else self._tensors
        return [None if tensor.is_inference() else tensor._version for tensor in tracked]

    def __call__(self, *arguments):
        if self._current_versions() != self._versions:
            raise RuntimeError(
                "linear head: a tensor of the call was modified by an in-place operation before its backward, which "
                "makes the logits again from it. Pass a clone() of what changes."
            )
        return self._function(*arguments)


def _by_spec(evaluate, function, hidden, classifier, bias, chunk_rows, problem, settings):
    """`evaluate` with a `function` of `spec` for every chunk, checkpointed where gradients may be needed."""
    forward_mode = compat.forward_mode()  # PyTorch 2.6 to 2.11: checkpoint does not support it
    if not (forward_mode or compat.functorch_active() or not torch.is_grad_enabled()):
        function = partial(checkpoint, Unchanged(function, hidden, classifier, bias, problem), use_reentrant=False)
    chunk_rows = _chunk_rows(hidden, classifier, chunk_rows)
    return evaluate(hidden, classifier, bias, chunk_rows, problem, settings, XP, function)


_loss_by_spec = partial(_by_spec, linear.forward, linear.plain)


def terms(hidden, classifier, bias, chunk_rows, problem, settings):
    """The Terms. Any of their upstream gradients may differ from element to element, so backward makes each chunk's
    logits again."""
    return _by_spec(linear.terms, linear.plain_terms, *_cast(hidden, classifier, bias), chunk_rows, problem, settings)


def _loss_by_kernels(hidden, classifier, bias, chunk_rows, problem, settings):
    """The loss by the kernels, without gradients."""
    size = _chunk_rows(hidden, classifier, chunk_rows, settings)
    logits_of = _Logits(min(size, _rows(hidden, classifier)), hidden, classifier)

    def chunk_loss(rows, classifier, bias, plan, xp):
        logits = logits_of(rows, classifier, bias)
        name = select(*choice.supports(logits, plan, 1, with_gradient=False), "spec")
        if name == "spec":
            return linear.losses_of(logits, plan, xp)
        return choice.kernel_of(name, plan)(logits, plan, 1, False)[0]

    return linear.forward(hidden, classifier, bias, size, problem, settings, XP, chunk_loss)


class _LinearLoss(torch.autograd.Function):
    """hidden, classifier, bias → summed loss. Forward also computes the gradients.

    The first backward scales them in place and returns them. A second backward, over a retained graph, computes them
    again, so that two callers never share one buffer.
    """

    @staticmethod
    def forward(ctx, hidden, classifier, bias, call):
        chunk_rows, problem, settings = call
        ctx.kind = hidden.dtype, hidden.shape
        ctx.learns = hidden.dtype is torch.float16 and hidden.is_cpu
        ctx.stored = (
            autograd.EXPECTED_UPSTREAM.of(ctx.kind) if ctx.learns else stored_factor(hidden, settings.reduction)
        )
        loss, ctx.gradients = with_gradients(
            hidden, classifier, bias, call, ctx.needs_input_grad[:3], upstream=ctx.stored
        )
        ctx.problem = problem
        others = [value for value in [*problem][1:] if isinstance(value, torch.Tensor)]
        ctx.save_for_backward(hidden, classifier, bias, *others)  # autograd raises if the caller writes to one of them
        ctx.call = chunk_rows, settings
        return loss

    @staticmethod
    def backward(ctx, upstream):
        needed, gradients = ctx.needs_input_grad[:3], ctx.gradients
        if compat.differentiates_backward(upstream):
            *inputs, call = _saved_arguments(ctx)
            return *_differentiable(inputs, needed, call, upstream), None
        ctx.gradients = None
        applied = upstream.item() if ctx.learns else ctx.stored  # the factor that the gradients need to contain
        if gradients is None or applied != ctx.stored:
            try:
                *inputs, call = _saved_arguments(ctx)
            except RuntimeError:  # the caller has written to a tensor: use forward's gradients
                if gradients is None:
                    raise
                applied = ctx.stored
            else:
                gradients = None  # free them before the next ones are allocated
                gradients = with_gradients(*inputs, call, needed, upstream=applied)[1]
        if ctx.learns:
            autograd.EXPECTED_UPSTREAM.learn(ctx.kind, applied)
            if applied == upstream.item():
                return *gradients, None
        factor = upstream / applied
        return *(None if gradient is None else autograd.scale_(gradient, factor) for gradient in gradients), None


def _saved_arguments(ctx):
    """(hidden, classifier, bias, call) of forward. RuntimeError if the caller has written to one of its tensors."""
    chunk_rows, settings = ctx.call
    return *ctx.saved_tensors[:3], (chunk_rows, ctx.problem, settings)


def _differentiable(inputs, needed, call, upstream):
    """The gradients by the formulas of `spec`, for a second derivative or a vmap over backward."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        with_gradient = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        loss = _loss_by_spec(*inputs, *call)
        gradients = iter(torch.autograd.grad(loss, with_gradient, upstream, create_graph=create_graph))
    return [next(gradients) if need else None for need in needed]


def cast(*tensors):
    """The tensors in the dtype that autocast gives a linear layer. Autocast itself skips the in-place products here."""
    return [tensor if tensor is None else tensor.to(autocast.layer_dtype(tensor)) for tensor in tensors]


def _cast(*tensors):
    return (
        tensors if compat.transforming() else cast(*tensors)
    )  # autocast casts the products of `spec`'s formulas itself


def loss(hidden, classifier, bias, chunk_rows, problem, settings):
    hidden, classifier, bias = _cast(hidden, classifier, bias)
    tensors = [tensor for tensor in (hidden, classifier, bias) if tensor is not None]
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    eligible = compat.eligible(*tensors, others=[*problem][1:] if torch.is_grad_enabled() else ())
    if eligible and not with_gradient:
        return _loss_by_kernels(hidden, classifier, bias, chunk_rows, problem, settings)
    if settings.reduction == "none" or not eligible:
        return _loss_by_spec(hidden, classifier, bias, chunk_rows, problem, settings)
    return _LinearLoss.apply(hidden, classifier, bias, (chunk_rows, problem, settings))


def loss_and_grad(hidden, classifier, bias, chunk_rows, problem, settings):
    inputs = hidden, classifier, bias
    with torch.no_grad():
        eligible = compat.eligible(*(tensor for tensor in inputs if tensor is not None))
        kernel = _kernel if eligible else linear.plain_kernel
        value, gradients = with_gradients(*_cast(*inputs), (chunk_rows, problem, settings), kernel=kernel)
    pairs = zip(gradients, inputs, strict=True)
    return value, tuple(gradient if gradient is None else gradient.to(of.dtype) for gradient, of in pairs)


def _rows_at(table, labels, xp):
    """The table's row for each label, as an embedding.

    Its gradient is summed in a fixed order on any device. On a GPU that of `take` is not.
    """
    if table.ndim == 1:
        return torch.nn.functional.embedding(labels, table.unsqueeze(1)).squeeze(-1)
    return torch.nn.functional.embedding(labels, table)


def smoothing_correction(hidden, classifier, bias, problem, settings):
    with autocast.without(hidden.device):  # autocast would run Σ_k v_k W_k in half precision, as a linear layer
        return correction.correction(hidden, classifier, bias, problem, settings, XP, _rows_at)
