"""The contenders of `gpu.py`: losses of logits, and of a linear head.

Gradients come from `torch.autograd.grad`, as the layer before the loss gets them in training. `backward()` on a leaf
would clone the gradient of a loss that keeps it (Liger), 4 bytes per logit, which no training step does.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from contenders import BASE, FLOOR, SMOOTHING

import multismooth.torch


class Contender(NamedTuple):
    name: str
    make: Callable  # problem -> function without arguments -> loss or losses, gradients…
    remark: str = ""  # what it leaves out, or does in addition
    smoothing: float | None = SMOOTHING  # None: there is no loss to compare with float64
    upstream: str = "mean"  # the gradient is of the "mean", the "sum", or "random" weights that only backward knows


# --- losses of logits -----------------------------------------------------------------------------------------


def by_autograd(loss, reduction="mean"):
    """`make` of a contender from `loss`: (problem, reduction) -> function without arguments -> loss or losses."""

    def make(problem):
        call, upstream = loss(problem, reduction), problem.weights if reduction == "none" else None

        def run():
            value = call()
            return value.detach(), *torch.autograd.grad(value, problem.leaves, upstream)

        return run

    return make


def rows_only(problem):
    if problem.logits.ndim != 2:
        raise ValueError("takes (N, K) logits only; the time of a transposing copy would not be its own")


def eager(problem, reduction, loss=F.cross_entropy, **options):
    options = {"label_smoothing": SMOOTHING, "reduction": reduction} | options
    return lambda: loss(problem.leaf, problem.targets, **options)


def everyday(loss, **options):
    """`loss` with class weights, and every label 0 ignored."""

    def call(problem, reduction):
        weight = torch.linspace(0.5, 1.5, problem.shape[1], dtype=problem.logits.dtype, device=problem.logits.device)
        return eager(problem, reduction, loss, weight=weight, ignore_index=0, **options)

    return call


def compiled(problem, reduction):
    return eager(problem, reduction, torch.compile(F.cross_entropy, dynamic=False))


def ours(problem, reduction):
    return eager(problem, reduction, multismooth.torch.loss, axis=1)


def ours_at_once(problem, out=False):
    options = {"label_smoothing": SMOOTHING, "axis": 1, "out": problem.out if out else None}
    return lambda: multismooth.torch.loss_and_grad(problem.logits, problem.targets, **options)


def liger(problem, reduction):
    from liger_kernel.transformers.functional import liger_cross_entropy

    rows_only(problem)
    return eager(problem, reduction, liger_cross_entropy)


def flash(problem, reduction):
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

    rows_only(problem)

    def call():
        losses, _ = cross_entropy_loss(problem.leaf, problem.targets, label_smoothing=SMOOTHING)
        return losses if reduction == "none" else losses.mean()

    return call


def quack(problem, reduction):
    from quack import cross_entropy

    rows_only(problem)
    return lambda: cross_entropy(problem.leaf, problem.targets, reduction=reduction)


def quack_at_once(problem):
    from quack.cross_entropy import cross_entropy_fwd

    rows_only(problem)
    return lambda: cross_entropy_fwd(problem.logits, problem.targets, return_dx=True)


def jax_ours(problem):
    """Uses the tensors' own memory. It must not change from now on, because JAX treats arrays as constant."""
    import jax

    import multismooth.jax

    def loss(z, y):
        return multismooth.jax.loss(z, y, label_smoothing=SMOOTHING, axis=1)

    arrays = [jax.dlpack.from_dlpack(x) for x in (problem.logits, problem.targets.int())]
    step = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
    return lambda: step(*arrays)


ADDITION, PRODUCTS = "add (6-byte floor)", "the three products"
IN_PLACE = "writes the gradient over the logits; the host waits for the device"
WEIGHTED = "with class weights and ignored labels"
LOSSES = (
    (BASE, eager, "", SMOOTHING),
    ("torch.compile", compiled, "", SMOOTHING),
    ("multismooth.torch", ours, "", SMOOTHING),
    ("Liger", liger, IN_PLACE, SMOOTHING),
    ("flash-attention", flash, "", SMOOTHING),
    ("quack", quack, "no smoothing", 0.0),
)
OF_LOGITS = (
    Contender(FLOOR, lambda p: lambda: p.out.copy_(p.logits), "no loss: one number read for each one written", None),
    Contender(ADDITION, lambda p: lambda: p.out.add_(p.logits), "no loss: two numbers read for each one written", None),
    *(Contender(name, by_autograd(loss), remark, smoothing) for name, loss, remark, smoothing in LOSSES),
    Contender("multismooth.torch, loss_and_grad", ours_at_once, "no autograd"),
    Contender("multismooth.torch, out=", lambda p: ours_at_once(p, out=True), "no autograd; into existing memory"),
    Contender(f"{BASE}, everyday", by_autograd(everyday(F.cross_entropy)), WEIGHTED, None),
    Contender("multismooth.torch, everyday", by_autograd(everyday(multismooth.torch.loss, axis=1)), WEIGHTED, None),
    Contender("quack, return_dx", quack_at_once, "no smoothing, no autograd, gradient of the sum", 0.0, "sum"),
    *(
        Contender(f"{name}, upstream", by_autograd(loss, "none"), remark, smoothing, "random")
        for name, loss, remark, smoothing in LOSSES
    ),
)
OF_SOFT = (
    *OF_LOGITS[:2],
    *(Contender(name, by_autograd(loss), remark, smoothing) for name, loss, remark, smoothing in LOSSES[:3]),
    Contender("multismooth.torch, loss_and_grad", ours_at_once, "no autograd"),
    *(
        Contender(f"{name}, upstream", by_autograd(loss, "none"), remark, smoothing, "random")
        for name, loss, remark, smoothing in LOSSES[:3]
    ),
)
IN_JAX = Contender("multismooth.jax, jit", jax_ours, "in a process of its own; wall clock of successive calls")


# --- linear heads ---------------------------------------------------------------------------------------------------


def products(problem):
    @torch.no_grad()
    def run():
        problem.hidden.mm(problem.classifier.T)  # freed before the next product is computed
        return problem.g @ problem.classifier, problem.g.T @ problem.hidden

    return run


def head(loss, **options):
    """`make` of a contender from a loss of (features, classifier, labels)."""

    def call(problem, _):
        run = loss()
        return lambda: run(problem.hidden, problem.classifier, problem.targets, **options)

    return by_autograd(call)


def head_liger():
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy


def head_apple():
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


def head_quack():
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy


def head_torch():
    return lambda *tensors: F.linear_cross_entropy(*tensors, options=torch.nn.LinearCrossEntropyOptions())


def of_logits(hidden, classifier, labels):
    return F.cross_entropy(hidden @ classifier.T, labels, label_smoothing=SMOOTHING)


OF_HEADS = (
    Contender(PRODUCTS, products, "no loss", None),
    Contender(BASE, head(lambda: of_logits), "all the logits at once"),
    Contender("torch.compile", head(lambda: torch.compile(of_logits, dynamic=False)), "all the logits at once"),
    Contender("multismooth.torch.linear_loss", head(lambda: multismooth.torch.linear_loss, label_smoothing=SMOOTHING)),
    Contender(
        "multismooth.torch.linear_loss, ε = 0",
        head(lambda: multismooth.torch.linear_loss, label_smoothing=0.0),
        "no smoothing",
        0.0,
    ),
    Contender("Liger", head(head_liger, label_smoothing=SMOOTHING)),
    Contender("torch.linear_cross_entropy", head(head_torch), "no smoothing, which it has only for all logits", 0.0),
    Contender("cut cross-entropy", head(head_apple), "no smoothing; gradients below 2⁻¹² are skipped", 0.0),
    Contender("quack", head(head_quack), "no smoothing", 0.0),
)
