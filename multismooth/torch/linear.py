"""PyTorch linear head and loss: gradients computed in forward, chunk by chunk, with three matrix products at most.

Forward knows each chunk's gradient as soon as its logits exist, so nothing of size (N, K) is kept and backward only
multiplies by the upstream gradient. The gradient of reduction "none", double backward and whatever else
`compat.eligible` refuses take checkpointed chunks of the plain text: a fourth product, any derivative.
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
DEVICE_WORKSPACE = 2**30  # bytes of logits per chunk on a GPU, whose products want rows in the thousands
DEVICE_ROWS = {"least": 1024, "multiple": 128}  # a chunk reads the classifier twice and its gradient's sum once
PLAIN_BYTES = 16  # per logit of the plain text: a few float32 copies
HALF_FACTOR = 2.0**10  # up to a gradient of 64 it does not overflow, down to 6e-11 it is not 0


def _rows(hidden, classifier):
    return hidden.numel() // max(classifier.shape[1], 1)


def _chunk_rows(hidden, classifier, chunk_rows, settings=None):
    """Rows per chunk: by what fits a cache on a CPU, by memory on other devices. Without settings, for plain text.

    All, where their number is a compiler's symbol: a loop would fix it.
    """
    rows, classes = _rows(hidden, classifier), classifier.shape[0]
    if not known(rows):
        return rows
    if hidden.is_cpu:
        return linear.chunk_size(rows, classes, chunk_rows, WORKSPACE if settings else linear.WORKSPACE)
    in_place = settings and not settings.soft and launch.compiled()
    workspace = DEVICE_WORKSPACE // (hidden.itemsize if in_place else PLAIN_BYTES)
    return linear.chunk_size(rows, classes, chunk_rows, workspace, **DEVICE_ROWS)


def _scale(hidden, rows, problem, settings):
    """A power of two against a mean's 1/N in float16, where ε/(K·N) is 0; the products undo it before they round."""
    if hidden.dtype is not torch.float16 or settings.reduction != "mean":
        return 1.0
    size = problem.normalizer if isinstance(problem.normalizer, float) else rows
    return 2.0 ** min(max(math.frexp(size)[1] - 1, 0), 15)  # a single counted row has it all, and 2¹⁶ is infinite


def stored_factor(hidden, reduction):
    """What gradients are multiplied by while nobody has seen the upstream one: float16 would lose those of a mean."""
    return HALF_FACTOR if hidden.dtype is torch.float16 and reduction == "mean" else 1.0


class _Logits:
    """The logits of one chunk after the other in the same memory: mapping it anew costs a tenth of the products."""

    def __init__(self, rows, hidden, classifier):
        self._memory = torch.empty(rows, classifier.shape[0], dtype=hidden.dtype, device=hidden.device)

    def __call__(self, hidden, classifier, bias):
        logits = torch.mm(hidden, classifier.T, out=self._memory[: hidden.shape[0]])
        return logits if bias is None else logits.add_(bias)


class _Products(linear.InPlaceProducts):
    """Products into memory that is kept: one chunk's logits, and the gradients themselves."""

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
        if wide:  # float16 and bfloat16 operands, float32 sums: what cuBLAS does anyway, without the rounding
            torch.addmm(self.d_classifier, g.T, hidden, out_dtype=self.dtype, out=self.d_classifier, **factors)
        else:
            self.d_classifier.addmm_(g.T, hidden, **factors)

    def product(self, left, right):
        return torch.addmm(left.new_zeros(()), left, right, beta=0, alpha=self.factor)


def _kernel(logits, plan, xp):
    return choice.kernel_for(logits, plan, 1)(logits, plan, 1, out=logits)


def with_gradients(
    hidden, classifier, bias, call, needed=(True, True, True), kernel=_kernel, planned=plans.known, upstream=1.0
):
    """(loss, (∂hidden, ∂classifier, ∂bias) of upstream·loss, None where not needed), each while its logits exist."""
    chunk_rows, problem, settings = call
    call = _chunk_rows(hidden, classifier, chunk_rows, settings), problem, settings
    scale = _scale(hidden, _rows(hidden, classifier), problem, settings)
    more = (
        {}
        if kernel is linear.plain_kernel
        else {"products": partial(_Products, scale=scale, upstream=upstream), "planned": planned}
    )
    return linear.forward_and_gradient(hidden, classifier, bias, *call, XP, kernel, needed=needed, **more)


class Unchanged:
    """`linear.plain` for backward to run once more, which it refuses if the caller wrote to a tensor in between."""

    def __init__(self, hidden, classifier, bias, problem):
        self._tensors = [x for x in (hidden, classifier, bias, *[*problem][1:]) if isinstance(x, torch.Tensor)]
        self._versions = self._seen()

    def _seen(self):
        tracked = () if torch.compiler.is_compiling() else self._tensors
        return [None if tensor.is_inference() else tensor._version for tensor in tracked]

    def __call__(self, *arguments):
        if self._seen() != self._versions:
            raise RuntimeError(
                "linear_loss: a tensor of the call was modified by an in-place operation before its backward, which "
                "makes the logits again from it. Pass a clone() of what changes."
            )
        return linear.plain(*arguments)


def _plain(hidden, classifier, bias, chunk_rows, problem, settings):
    forward_mode = compat.forward_mode()  # PyTorch 2.6 to 2.11: checkpoint has no rule for it
    keeps = forward_mode or compat.functorch_active() or not torch.is_grad_enabled()
    chunk_loss = (
        linear.plain
        if keeps
        else partial(checkpoint, Unchanged(hidden, classifier, bias, problem), use_reentrant=False)
    )
    chunk_rows = _chunk_rows(hidden, classifier, chunk_rows)
    return linear.forward(hidden, classifier, bias, chunk_rows, problem, settings, XP, chunk_loss)


def _evaluated(hidden, classifier, bias, chunk_rows, problem, settings):
    """The loss where nobody wants a gradient, by the kernels."""
    size = _chunk_rows(hidden, classifier, chunk_rows, settings)
    logits_of = _Logits(min(size, _rows(hidden, classifier)), hidden, classifier)

    def chunk_loss(own, classifier, bias, plan, xp):
        logits = logits_of(own, classifier, bias)
        name = select(*choice.supports(logits, plan, 1, with_gradient=False), "spec")
        return linear.losses_of(logits, plan, xp) if name == "spec" else choice.KERNELS[name](logits, plan, 1, False)[0]

    return linear.forward(hidden, classifier, bias, size, problem, settings, XP, chunk_loss)


class _LinearLoss(torch.autograd.Function):
    """hidden, classifier, bias → summed loss. The first backward hands out what forward computed, scaled in place;
    a second one, over a retained graph, computes them anew, so no gradient ever has two owners."""

    @staticmethod
    def forward(ctx, hidden, classifier, bias, call):
        chunk_rows, problem, settings = call
        ctx.kind = hidden.dtype, hidden.shape
        ctx.learns = hidden.dtype is torch.float16 and hidden.is_cpu
        ctx.stored = autograd.EXPECTED.of(ctx.kind) if ctx.learns else stored_factor(hidden, settings.reduction)
        loss, ctx.gradients = with_gradients(
            hidden, classifier, bias, call, ctx.needs_input_grad[:3], upstream=ctx.stored
        )
        ctx.problem = problem
        own = [value for value in [*problem][1:] if isinstance(value, torch.Tensor)]
        ctx.save_for_backward(hidden, classifier, bias, *own)  # autograd notices if the caller writes to one of them
        ctx.call = chunk_rows, settings
        return loss

    @staticmethod
    def backward(ctx, upstream):
        needed, gradients = ctx.needs_input_grad[:3], ctx.gradients
        if autograd.differentiated(upstream):
            *inputs, call = _again(ctx)
            return *_differentiable(inputs, needed, call, upstream), None
        ctx.gradients = None
        held = upstream.item() if ctx.learns else ctx.stored  # what the gradients ought to be multiplied by already
        if gradients is None or held != ctx.stored:
            try:
                *inputs, call = _again(ctx)
            except RuntimeError:  # a tensor was written to since: the gradients that are there are right
                if gradients is None:
                    raise
                held = ctx.stored
            else:
                gradients = None  # or there would be two of each
                gradients = with_gradients(*inputs, call, needed, upstream=held)[1]
        if ctx.learns:
            autograd.EXPECTED.learn(ctx.kind, held)
            if held == upstream.item():
                return *gradients, None
        factor = upstream / held
        return *(None if gradient is None else autograd.scale_(gradient, factor) for gradient in gradients), None


def _again(ctx):
    """(hidden, classifier, bias, call) of a forward whose tensors are as they were."""
    chunk_rows, settings = ctx.call
    return *ctx.saved_tensors[:3], (chunk_rows, ctx.problem, settings)


def _differentiable(inputs, needed, call, upstream):
    """The gradients from scratch by the plain text, to be differentiated or vmapped over."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        with_gradient = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(_plain(*inputs, *call), with_gradient, upstream, create_graph=again))
    return [next(found) if need else None for need in needed]


def cast(*tensors):
    """What autocast makes of a linear layer's tensors: the products here are made in place, which it lets be."""
    return [tensor if tensor is None else tensor.to(autocast.layer_dtype(tensor)) for tensor in tensors]


def _cast(*tensors):
    return tensors if compat.transforming() else cast(*tensors)  # plain text's products are cast as they are


def loss(hidden, classifier, bias, chunk_rows, problem, settings):
    hidden, classifier, bias = _cast(hidden, classifier, bias)
    tensors = [tensor for tensor in (hidden, classifier, bias) if tensor is not None]
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    eligible = compat.eligible(*tensors, others=[*problem][1:] if torch.is_grad_enabled() else ())
    if eligible and not with_gradient:
        return _evaluated(hidden, classifier, bias, chunk_rows, problem, settings)
    if settings.reduction == "none" or not eligible:
        return _plain(hidden, classifier, bias, chunk_rows, problem, settings)
    return _LinearLoss.apply(hidden, classifier, bias, (chunk_rows, problem, settings))


def loss_and_grad(hidden, classifier, bias, chunk_rows, problem, settings):
    given = hidden, classifier, bias
    with torch.no_grad():
        kernel = (
            _kernel if compat.eligible(*(tensor for tensor in given if tensor is not None)) else linear.plain_kernel
        )
        value, gradients = with_gradients(*_cast(*given), (chunk_rows, problem, settings), kernel=kernel)
    back = zip(gradients, given, strict=True)
    return value, tuple(gradient if gradient is None else gradient.to(of.dtype) for gradient, of in back)


def _rows_at(table, labels, xp):
    """An embedding's gradient is summed in a fixed order on any device, which that of `take` is not on a GPU."""
    if table.ndim == 1:
        return torch.nn.functional.embedding(labels, table.unsqueeze(1)).squeeze(-1)
    return torch.nn.functional.embedding(labels, table)


def smoothing_correction(hidden, classifier, bias, problem, settings):
    with autocast.without(hidden.device):  # Σ_k v_k W_k is no layer
        return correction.correction(hidden, classifier, bias, problem, settings, XP, _rows_at)
