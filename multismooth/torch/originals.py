"""The arguments of torch's own cross-entropy, checked by its rules, for the drop-ins.

An argument that the original refuses is refused here too, with an error that has the original's type and one of this
library's. A few more are refused, for which the original's result is meaningless: ε = NaN or below 0, a boolean ε,
complex class weights, one-element labels of unbatched logits (which it cannot differentiate), and logits and labels on
two devices of which one is "meta".
"""

import math

import numpy as np
import torch

from multismooth import spec
from multismooth.api import argument_checks, target_checks
from multismooth.api.call_cache import kind_of, remember
from multismooth.api.kinds import Kind, expectations, views_of
from multismooth.errors import SmoothingError, TargetError, complain
from multismooth.problem import Call, Problem, Settings
from multismooth.registry import conventions
from multismooth.torch import compat
from multismooth.torch.autocast import layer_dtype, loss_dtype
from multismooth.torch.namespace import XP
from multismooth.torch.plans import marks_nothing

LOGITS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABELS = (torch.int64, torch.uint8)
KINDS: dict[tuple, tuple[Kind, torch.dtype]] = {}  # of calls, each with the result's dtype
CONVENTION = conventions["torch"]  # torch.compile cannot look it up before PyTorch 2.7
ABSENT = [None] * (len(Problem._fields) - 4)  # a Problem's fields after the class weights, which no drop-in has


class Refusal(ValueError, RuntimeError):
    """A bad argument of a drop-in: a RuntimeError, as in torch, and a ValueError, as in this library."""


class TargetRefusal(Refusal, TargetError):
    """Bad targets of a drop-in."""


class SmoothingRefusal(Refusal, SmoothingError):
    """A bad ε of a drop-in."""


class DtypeRefusal(Refusal, NotImplementedError):
    """Logits of a drop-in for which torch has no kernel."""


REFUSALS = {ValueError: Refusal, TargetError: TargetRefusal, SmoothingError: SmoothingRefusal}


def given(logits, target, weight):
    """A Problem's arguments as those of a drop-in."""
    return logits, target, None, weight, *ABSENT


def kind_of_call(logits, target, weight, ignore_index, reduction, label_smoothing):
    """(the key of calls like this one, or None; their Kind and the result's dtype, or None and None)."""
    if compat.watched():
        return None, None, None
    try:
        key = (
            type(logits), logits.shape, logits.dtype, logits.device, type(target), target.shape, target.dtype,
            target.device, weight if weight is None else kind_of(weight), ignore_index, type(ignore_index),
            reduction, label_smoothing, type(label_smoothing), torch.is_autocast_enabled(logits.device.type),
        )  # fmt: skip
        return key, *KINDS.get(key, (None, None))
    except (AttributeError, TypeError, RuntimeError):  # an argument is not a tensor, or its device has no autocast
        return None, None, None


def checked_call(backend, logits, target, weight, ignore_index, reduction, label_smoothing, key=None):
    """(Call, whether it is a mean over no elements, or a function that says so, the result's dtype) of a call.

    key: of calls like this one, if they can be remembered.
    """
    problem, settings, labels, dtype = checked(
        backend, logits, target, weight, ignore_index, reduction, label_smoothing
    )
    if key is not None and key not in KINDS and logits.is_cpu:
        _remember(backend, key, problem, settings, given(logits, target, weight), dtype)
    empty = reduction == "mean" and (lambda: _denominator_is_zero(problem, settings, labels, backend))
    return Call(problem, settings), empty, dtype


def marked(call, empty):
    """(Call, empty) of logits. On a GPU the plan itself marks a mean over no elements, which spares eight launches."""
    if callable(empty) and marks_nothing(call.problem, call.settings):
        return call._replace(settings=call.settings._replace(nothing_is_nan=True)), False
    return call, empty


def _remember(backend, key, problem, settings, arguments, dtype):
    """Keep the Kind of this call, if `quick_check` can check calls like it. It is stricter than `checked`."""
    some = settings.reduction == "mean"
    expect = expectations(problem, settings, scores=False, some=some) if backend.ordinary(problem) else None
    views, taken = views_of(backend, problem, settings.axis), given(problem.logits, problem.targets, problem.weight)
    if expect is None or views is None or any(own is not other for own, other in zip(taken, arguments, strict=True)):
        return
    remember(KINDS, key, (Kind(problem, arguments, (), views, settings, expect), dtype))


def checked(backend, logits, target, weight, ignore_index, reduction, label_smoothing):
    """(Problem, Settings, the values of the labels or None, the result's dtype) of a call."""
    tensors("input", logits, target=target, weight=weight)
    ignore_index, label_smoothing = _ignored(ignore_index), _smoothing(label_smoothing)
    try:
        argument_checks.reduction(reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            argument_checks.smoothing_range(label_smoothing)
        dtype = _logits(logits)
        logits = readable(logits, backend)
        axis = min(logits.ndim - 1, 1)
        soft = argument_checks.same_shape(target.shape, logits.shape)
        target, dtype = _targets(logits, target, axis, soft, ignore_index, dtype)
        weight, dtype = _weight(logits, weight, axis, soft, dtype)
    except ValueError as error:
        raise REFUSALS.get(type(error), type(error))(*error.args) from None
    target, weight = readable(target, backend), None if weight is None else readable(weight, backend)
    labels = None if soft else backend.values(target, None)
    clean = labels is not None and target_checks.labels(labels, logits.shape[axis], ignore_index)
    problem = Problem(logits, target, label_smoothing, weight=weight)
    settings = Settings(CONVENTION, axis, soft, ignore_index, reduction, soft or labels is not None, clean)
    return problem, settings, labels, dtype


def tensors(first, one, **others):
    """Every argument must be a tensor, on the device of `one`; only `input` and `target` may not be None."""
    for name, value in ((first, one), *others.items()):
        if isinstance(value, torch.Tensor):
            if value.device != one.device:
                remedy = f"Move it: {name}.to({first}.device)."
                raise complain(name, f"a tensor on {one.device}, like `{first}`", f"{value.device}", remedy, Refusal)
        elif value is not None or name in ("input", "target"):
            raise complain(name, "a tensor", type(value).__name__, "Convert it: torch.as_tensor(…).", TypeError)


def readable(tensor, backend):
    """A strided tensor that the kernels can read. Floats of eight bits, accepted only under autocast, are cast."""
    tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
    return backend.array(tensor.float() if tensor.dtype.is_floating_point and tensor.itemsize == 1 else tensor)


def reduction_of(size_average, reduce, reduction):
    """The reduction's name. Torch's two deprecated flags override `reduction`, as they do in torch."""
    if size_average is not None or reduce is not None:
        return compat.legacy_reduction(size_average, reduce)
    if reduction == "elementwise_mean":
        compat.warn_of_reduction(reduction)
        return "mean"
    return reduction


def same_layer_dtype(input, **parameters):
    """The tensors of a linear layer must have one dtype after autocast."""
    for name, tensor in parameters.items():
        if tensor is not None and layer_dtype(tensor) is not layer_dtype(input):
            remedy = "Cast one of them."
            raise complain(name, f"the dtype of `input`, {input.dtype}", f"{tensor.dtype}", remedy, Refusal)


def as_original(loss, empty, dtype):
    """The loss in the original's dtype, and NaN for a mean over no elements (`empty`), as the original returns."""
    loss, empty = loss if loss.dtype is dtype else loss.to(dtype), empty() if callable(empty) else empty
    if empty is False:
        return loss
    if isinstance(empty, torch.Tensor):
        return torch.where(empty, math.nan, loss)
    return loss + math.nan if empty else loss


# --- one argument at a time -----------------------------------------------------------------------------------------


def _ignored(value):
    if isinstance(value, torch.Tensor) and value.ndim == 0 and value.dtype in (torch.int64, torch.int32):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        remedy = "Leave it at -100 where no label is ignored."
        raise complain("ignore_index", "an integer", repr(value), remedy, TypeError)
    if not -(2**63) <= value < 2**63:
        raise complain("ignore_index", "an integer of 64 bits", repr(value), "Pass one that a label can be.")
    return value


def _smoothing(value):
    if isinstance(value, torch.Tensor):
        valid = value.ndim == 0 and not value.requires_grad and not value.is_complex()
    else:
        valid = isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool)
    if not valid:
        remedy = "Pass a float; multismooth.torch.loss takes one ε per element, and differentiates it."
        raise complain("label_smoothing", "a number in [0, 1]", repr(value), remedy, TypeError)
    return float(value)


def _logits(logits):
    dtype = loss_dtype(logits)
    if dtype not in LOGITS or logits.layout is not torch.strided:
        got = f"{logits.dtype}" if logits.layout is torch.strided else f"layout {logits.layout}"
        raise complain("input", "dense logits of a floating dtype", got, "Cast it, or to_dense().", DtypeRefusal)
    if logits.ndim == 0:
        raise complain("input", "logits with a class axis", "a single number", "Put the classes on axis 0 or 1.")
    return dtype


def _targets(logits, target, axis, soft, ignore_index, dtype):
    """(targets, the result's dtype by logits and targets)."""
    if not soft:
        floating = target.dtype.is_floating_point
        target_checks.target_shape("floating" if floating else "integer", target.shape, logits.shape, axis)
        if target.dtype not in LABELS:
            raise complain("target", "labels of dtype int64 or uint8", f"{target.dtype}", "Cast: target.long().")
        return target, dtype
    if not target.dtype.is_floating_point:
        expected = f"labels of shape {argument_checks.elements_shape(logits.shape, axis)}, or floating probabilities"
        remedy = "Cast one-hot rows: target.to(input.dtype)."
        raise complain("target", expected, f"{target.dtype} of shape {tuple(target.shape)}", remedy, TargetError)
    if ignore_index >= 0:
        remedy = "Probabilities are no labels: weight the elements of reduction='none' instead."
        raise complain("ignore_index", "a negative number with probabilities", repr(ignore_index), remedy)
    return target, torch.promote_types(dtype, loss_dtype(target))


def _weight(logits, weight, axis, soft, dtype):
    """(class weights, the result's dtype)."""
    if weight is None:
        return None, dtype
    argument_checks.per_class("weight", weight.shape, logits.shape[axis])
    weight_dtype = loss_dtype(weight)
    if weight.is_complex() or not (soft or weight_dtype is dtype):
        expected = "a real dtype" if soft else f"the dtype of `input`, {dtype}"
        raise complain("weight", expected, f"{weight.dtype}", "Cast: weight.to(input.dtype).")
    return weight, torch.promote_types(dtype, weight_dtype) if soft else dtype


def _denominator_is_zero(problem, settings, labels, backend):
    """Whether Σ w_y over the counted elements is 0: a bool, or a tensor if the values cannot be read now.

    `labels` are the values of the labels, or None.
    """
    z, targets, weight = problem.logits, problem.targets, problem.weight
    if settings.soft:
        return XP.number(math.prod(argument_checks.elements_shape(z.shape, settings.axis)), z) == 0
    if labels is not None and (weight is None or (values := backend.values(weight, None)) is not None):
        counted = labels if settings.clean else labels[labels != settings.ignore_index]
        return counted.size == 0 if weight is None or counted.size == 0 else bool(values[counted].sum() == 0)
    counted = targets != settings.ignore_index
    if weight is None:
        return ~counted.any()
    inside = counted & (targets >= 0) & (targets < z.shape[settings.axis])
    shares = spec.rows_at(weight, torch.where(inside, targets, 0), XP)
    return torch.where(inside, shares, 0).sum() == 0
