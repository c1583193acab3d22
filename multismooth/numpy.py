"""NumPy backend: kernels compute the loss and its gradient, the formulas of `spec` the rest. It also accepts lists.

>>> import multismooth.numpy as ms
>>> round(float(ms.loss([[2.0, 0.5, -1.0]], [0], label_smoothing=0.1)), 6)
0.391311
"""

from functools import partial
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from multismooth import alternatives, linear, spec
from multismooth.api import argument_checks
from multismooth.api.functions import Functions
from multismooth.api.prior_functions import online_prior
from multismooth.api.public import public
from multismooth.backend import Backend
from multismooth.cpu import alternatives as cpu
from multismooth.cpu import capped, choice, kernels
from multismooth.cpu.buffers import age_buffers, gradient_memory
from multismooth.cpu.kernels import without_warnings
from multismooth.cpu.layout import layout_of
from multismooth.errors import complain
from multismooth.implementations import REQUEST, select
from multismooth.namespace import XP
from multismooth.plan import with_numbers
from multismooth.recording import plan_program
from multismooth.reduction import reduced_plan

__all__ = [
    "OnlinePrior",
    "binary_loss",
    "confidence_penalty",
    "distillation_loss",
    "focal_loss",
    "linear_loss",
    "linear_loss_and_grad",
    "linear_terms",
    "loss",
    "loss_and_grad",
    "margin_smoothing",
    "normalizer",
    "smooth_targets",
    "smoothing_correction",
    "terms",
    "unigram_prior",
]


def plan_and_kernel(call, with_gradient):
    """(the plan of a call, the name of its kernel: the best for its size, or the one that the caller requested)."""
    problem, settings, memo, values = call
    request = REQUEST.get()
    key = with_gradient, request and request.names
    known = None if memo is None else memo.kernels.get(key)
    if known is not None:
        program, name = known
        if request is not None:
            request.ran.append(name)
        return with_numbers(reduced_plan(problem, settings, XP)) if program is None else program(*values), name
    plan = with_numbers(reduced_plan(problem, settings, XP))
    name = select(*choice.supports(problem.logits, plan, settings.axis))
    if memo is not None:
        z = problem.logits
        program = None if values is None else plan_program(z.shape, z.dtype == np.float64, values, settings)
        memo.kernels[key] = program, name
    return plan, name


def evaluate(call, with_gradient=True, out=None):
    """(the loss, per element for reduction "none" and else summed; the gradient of the sum, or None)."""
    age_buffers()
    plan, name = plan_and_kernel(call, with_gradient)
    z, axis, summed = call.problem.logits, call.settings.axis, call.settings.reduction != "none"
    if plan.softcap is not None and name != "spec":
        loss, gradient = capped_elements(name, z, plan, axis, with_gradient)
        loss = np.add.reduce(loss, None) if summed else loss
        return loss, gradient_for(z, gradient, out) if with_gradient else None
    if name == "columns":
        loss, gradient = kernels.columns(z, plan, with_gradient, summed)
        if kernels.plain(loss):
            loss = z.dtype.type(loss) if summed else loss
            return loss, gradient_for(z, gradient, out) if with_gradient else None
        name = "spec"
    if name == "spec":
        if with_gradient:
            loss, gradient = spec.losses_and_gradient(z, plan, axis, XP)
        else:
            loss, gradient = spec.losses(z, plan, axis, XP), None
    else:
        loss, gradient = choice.evaluate(name, z, plan, axis, with_gradient, out)
    if summed:
        loss = np.add.reduce(loss, None)
    return loss, gradient_for(z, gradient, out) if with_gradient else None


def capped_elements(name, z, plan, axis, with_gradient):
    """(the losses per element, the gradient of their sum or None) under a soft cap, by a kernel that knows none."""

    def kernel(z, plan, axis, with_gradient, own):
        plan = with_numbers(plan._replace(softcap=None))
        if name != "columns":
            return choice.evaluate(name, z, plan, axis, with_gradient, own)
        losses, gradient = kernels.columns(z, plan, with_gradient, False)
        if kernels.plain(losses):
            return losses, gradient
        return spec.losses_and_gradient(z, plan, axis, XP) if with_gradient else (spec.losses(z, plan, axis, XP), None)

    if z.size <= capped.BLOCK:
        return capped.in_one_block(kernel, z, plan, axis, with_gradient, XP)
    gradient = None
    if with_gradient:
        gradient = layout_of(z, axis).as_logits(gradient_memory(z.size, z.dtype), XP)
    return capped.evaluate(kernel, z, plan, axis, XP, gradient), gradient


def gradient_for(z, gradient, out):
    """The gradient in the dtype of the logits z, written to the caller's `out` if there is one."""
    if out is None:
        return gradient.astype(z.dtype, copy=False)
    if gradient is not out:
        out[...] = gradient
    return out


class NumpyBackend(Backend):
    name = "numpy"
    xp = XP
    types = MappingProxyType(
        {
            "Scores": "Array | Rows",
            "Labels": "Array | Rows",
            "Result": "NDArray[floating]",
            "Arrays": "NDArray[Any]",
            "Loss": "floating | NDArray[floating]",
        }
    )

    def is_array(self, value):
        return isinstance(value, (np.ndarray, np.generic))

    def array(self, value, like=None):
        return np.asarray(value)

    def kind(self, array):
        """JAX's bfloat16 counts as floating, though NumPy does not know it. A long double is not supported."""
        if array.dtype.name == "bfloat16":
            return "floating"
        kind = "other" if array.dtype.itemsize > 8 else array.dtype.kind
        return {"i": "integer", "u": "integer", "f": "floating", "b": "boolean"}.get(kind, "other")

    def values(self, array, validate):
        return array

    def first_row(self, z, axis, validate):
        return z[argument_checks.first_element(z.ndim, axis)] if z.size and z.strides[axis] else None

    def view(self, array):
        if array.dtype == np.uint64:  # of which half is negative in int64: no label may wrap to another
            return (lambda labels: np.minimum(labels, np.iinfo(np.int64).max).astype(np.int64),)
        return (partial(np.asarray, dtype=np.int64) if array.dtype.kind in "iu" else np.asarray,)

    def row_view(self, z, axis):
        return (itemgetter(argument_checks.first_element(z.ndim, axis)),)

    def template(self, shape, dtype, like):
        return np.broadcast_to(np.zeros((), dtype=dtype or np.float64), shape)

    @without_warnings
    def loss(self, call):
        return evaluate(call, with_gradient=False)[0]

    @without_warnings
    def terms(self, call):
        return super().terms(call)

    @without_warnings
    def smooth_targets(self, call):
        return super().smooth_targets(call)

    @without_warnings
    def loss_and_grad(self, call, out=None):
        z = call.problem.logits
        if out is not None and (not isinstance(out, np.ndarray) or out.shape != z.shape or out.dtype != z.dtype):
            expected = f"an array of shape {z.shape} and dtype {z.dtype}"
            got = f"{type(out).__name__} {getattr(out, 'shape', '')} {getattr(out, 'dtype', '')}"
            raise complain("out", expected, got, "Make it with np.empty_like(logits).")
        return evaluate(call, out=out)

    @without_warnings
    def normalizer(self, call, summed):
        return super().normalizer(call, summed)

    @without_warnings
    def linear_loss(self, hidden, classifier, bias, chunk_rows, call):
        return linear.forward(hidden, classifier, bias, chunk_rows, call.problem, call.settings, XP)

    @without_warnings
    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, call):
        """Half precision is multiplied in float32: NumPy has no BLAS for it, and in float16 ε/(K·N) is 0."""
        inputs = (hidden, classifier, bias)
        wide = (x.astype(np.float32) if x is not None and x.itemsize == 2 else x for x in inputs)
        loss, gradients = linear.forward_and_gradient(
            *wide, chunk_rows, call.problem, call.settings, XP, products=linear.InPlaceProducts
        )
        pairs = zip(gradients, inputs, strict=True)
        return loss, tuple(g if g is None else g.astype(x.dtype, copy=False) for g, x in pairs)

    @without_warnings
    def linear_terms(self, hidden, classifier, bias, chunk_rows, call):
        return super().linear_terms(hidden, classifier, bias, chunk_rows, call)

    @without_warnings
    def alternative(self, call, alternative):
        age_buffers()
        problem, axis = call.problem, call.settings.axis
        z = problem.logits
        plan, alternative = alternatives.reduced(problem, call.settings, alternative, XP)
        plan, names = with_numbers(plan), ["chunked", "spec"] if z.size else ["spec"]
        if cpu.compiles(z, plan, alternative, axis):
            names.insert(0, "numba")
        if (name := select(*names)) == "spec":
            losses = alternative.losses(z, plan, axis, XP)
        else:
            workers = 1 if z.size < choice.MIN_LOGITS_FOR_THREADS else choice.cores()
            losses = cpu.evaluate(name, z, plan, alternative, axis, XP, workers=workers)
        return losses if call.settings.reduction == "none" else np.add.reduce(losses, None)

    @without_warnings
    def smoothing_correction(self, hidden, classifier, bias, call):
        return super().smoothing_correction(hidden, classifier, bias, call)


_functions = Functions(NumpyBackend())
if TYPE_CHECKING:
    from multismooth.typed.numpy import *  # noqa: F403
else:
    loss = public(_functions.loss, __name__)
    terms = public(_functions.terms, __name__)
    loss_and_grad = public(_functions.loss_and_grad, __name__)
    smooth_targets = public(_functions.smooth_targets, __name__)
    linear_loss = public(_functions.linear_loss, __name__)
    linear_loss_and_grad = public(_functions.linear_loss_and_grad, __name__)
    linear_terms = public(_functions.linear_terms, __name__)
    smoothing_correction = public(_functions.smoothing_correction, __name__)
    binary_loss = public(_functions.binary_loss, __name__)
    focal_loss = public(_functions.focal_loss, __name__)
    confidence_penalty = public(_functions.confidence_penalty, __name__)
    margin_smoothing = public(_functions.margin_smoothing, __name__)
    distillation_loss = public(_functions.distillation_loss, __name__)
    normalizer = public(_functions.normalizer, __name__)
    unigram_prior = public(_functions.unigram_prior, __name__)
    OnlinePrior = online_prior(_functions._backend, __name__)


def __dir__():
    return __all__
