"""A loss for Keras' `compile`, on Keras' JAX and torch backends.

Keras calls a loss as (y_true, y_pred), passes labels as floats or with an axis of 1, and has reductions of its own.
`Loss` takes all that, and computes with `multismooth.jax.loss` or `multismooth.torch.loss`.
"""

import json
from importlib import import_module
from math import prod
from typing import Any, Unpack

import numpy as np

from multismooth.api.argument_checks import axis_index, elements_shape, offenders
from multismooth.api.options import DEFAULTS, TrainerOptions
from multismooth.api.public import unexpected
from multismooth.convention import Convention
from multismooth.errors import MissingBackendError, TargetError, complain, require
from multismooth.registry import resolve

BACKENDS = ("jax", "torch")
try:
    require("keras", "keras")
    import keras
    from keras import ops
    from keras.src.backend import get_keras_mask  # Keras has no public name for it
except MissingBackendError as error:
    if getattr(error.__cause__, "name", "keras") == "keras":
        raise
    remedy = "Set the environment variable KERAS_BACKEND to jax or torch."
    raise MissingBackendError(f"Keras cannot import its backend ({error.__cause__}). {remedy}") from error

__all__ = ["Loss"]

REDUCTIONS = {  # Keras' names and one more: multismooth's name
    "sum_over_batch_size": "mean",
    "mean": "mean",
    "mean_with_sample_weight": "mean",
    "sum": "sum",
    "none": "none",
    None: "none",
    "convention": "mean",
}
OPTIONS = ["label_smoothing", "convention", "reduction", *TrainerOptions.__annotations__]


@keras.saving.register_keras_serializable(package="multismooth")
class Loss(keras.losses.Loss):
    """`multismooth.loss(y_pred, y_true, …)` as a `keras.losses.Loss`: what `model.compile(loss=…)` takes.

    Args:
        label_smoothing, convention: as in `multismooth.loss`.
        reduction: Keras' names, with Keras' meaning. "sum_over_batch_size" and "mean" divide by the number of elements
            that neither a mask nor `ignore_index` leaves out, "mean_with_sample_weight" by their summed sample weights.
            "convention" divides by what the convention says: by the summed class weights, say.
        name, dtype: as in `keras.losses.Loss`. The loss is computed in float32 at least and returned in `dtype`.
        options: every other keyword of `multismooth.loss` (weight, ignore_index, axis, …). `sample_weight` and
            `class_weight` are arguments of `fit`.

    `y_pred` are logits (N…, K): the last layer has no softmax. `y_true` are labels (N…) or (N…, 1) of any dtype, floats
    too, or one-hot rows and distributions (N…, K). Where the sample weight is 0 or the mask False, an element
    contributes exactly nothing, even if its logits are NaN. While JAX traces, no value can be seen: for probabilities,
    and for labels that are no whole numbers, the loss is NaN.

    Raises:
        ValueError: Keras runs on another backend; `y_pred` are probabilities.
        TargetError: labels that are no whole numbers.

    >>> import keras, numpy as np
    >>> logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]], "float32")
    >>> own = Loss(label_smoothing=0.1)(np.array([[0], [2]]), logits)
    >>> theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(np.eye(3)[[0, 2]], logits)
    >>> round(float(own), 4), round(float(theirs), 4)
    (0.3639, 0.3639)
    """

    def __init__(
        self,
        label_smoothing: Any = 0.1,
        convention: str | Convention = "keras",
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **options: Unpack[TrainerOptions],
    ):
        super().__init__(name=name, dtype=dtype)
        for option in options:
            if option not in OPTIONS:
                raise unexpected("Loss", option, OPTIONS)
        if reduction not in REDUCTIONS:
            expected = " or ".join(map(repr, REDUCTIONS))
            raise complain("reduction", expected, repr(reduction), "All but the last are Keras' own.")
        resolve(convention)
        given = {"label_smoothing": label_smoothing, "convention": convention, **options}
        self.options = {name: _kept(value) for name, value in given.items()}
        self.reduction = reduction
        _module()  # refuses another backend of Keras

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The reduced loss, in Keras' order of arguments."""
        return self._loss(y_true, y_pred, sample_weight, self.reduction)

    def call(self, y_true, y_pred):
        """The loss of each element."""
        return self._loss(y_true, y_pred, None, None)

    def _loss(self, y_true, y_pred, sample_weight, reduction):
        if getattr(y_pred, "_keras_logits", None) is not None:
            remedy = 'Leave activation="softmax" out of the last layer; keras.ops.softmax predicts with such a model.'
            raise complain("y_pred", "logits", "the probabilities of a softmax or sigmoid", remedy)
        mask, logits = get_keras_mask(y_pred), ops.convert_to_tensor(y_pred)
        if self.dtype == "float64":
            logits = ops.cast(logits, "float64")
        options = {name: _array(value) for name, value in self.options.items()}
        axis = axis_index(-1 if options.get("axis") is None else options["axis"], len(logits.shape), "y_pred")
        shape = elements_shape(logits.shape, axis)
        mask, weights = _elementwise("mask", mask, shape), _elementwise("sample_weight", sample_weight, shape)
        both = _product(mask, weights)
        targets = self._targets(y_true, logits, shape, axis, both)
        options |= {"axis": axis, "sample_weight": both, "reduction": REDUCTIONS[reduction]}
        if options["reduction"] == "mean" and reduction != "convention":
            shares = _product(mask, weights if reduction == "mean_with_sample_weight" else None)
            shares = _product(shares, self._not_ignored(targets))
            options["normalizer"] = prod(shape) if shares is None else ops.sum(ops.broadcast_to(shares, shape))
        loss = ops.cast(_module().loss(logits, targets, **options), self.dtype)
        if _backend().traced(logits) and options.get("validate") is not False:
            loss = ops.where(_probabilities(logits, axis), float("nan"), loss)
        return loss

    def _targets(self, y_true, logits, shape, axis, weights):
        """Labels as integers of the elements' shape, or rows of the logits' shape."""
        y, rows = ops.convert_to_tensor(y_true), tuple(logits.shape)
        kind, num_classes = keras.backend.standardize_dtype(y.dtype), rows[axis]
        if num_classes == 1:
            remedy = "Make one logit for each class; a single logit belongs to keras.losses.BinaryCrossentropy."
            raise complain("y_pred", "two classes or more", f"shape {rows}", remedy)
        if tuple(y.shape) == (*rows[:axis], 1, *rows[axis + 1 :]):
            y = ops.squeeze(y, axis=axis)
        if tuple(y.shape) == rows:
            return ops.cast(y, "float32") if "int" in kind else y
        if "float" not in kind or tuple(y.shape) != shape:
            return y
        whole = (y == ops.floor(y)) & (ops.abs(y) < 2.0**31)
        wrong = _backend().values(~whole if weights is None else ~whole & (weights != 0), None)
        if wrong is not None and wrong.any():
            expected, got = "labels that are whole numbers", offenders(wrong, ops.convert_to_numpy(y))
            remedy = "Label smoothing is for classes: for regression use a regression loss."
            raise complain("y_true", f"{expected}, or rows of shape {rows}", got, remedy, TargetError)
        return ops.cast(ops.where(whole, y, num_classes), "int32")

    def _not_ignored(self, targets):
        """1 for each label that is not ignored and 0 for each that is. None: none can be."""
        ignored = self.options.get("ignore_index", DEFAULTS["ignore_index"])
        if ignored is None or "int" not in keras.backend.standardize_dtype(targets.dtype):
            return None
        return ops.cast(targets != ignored, "float32")

    def get_config(self):
        options = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in self.options.items()
        }
        if isinstance(options["convention"], Convention):
            options["convention"] = json.loads(options["convention"].to_json())
        return {**super().get_config(), "dtype": self.dtype, **options}

    @classmethod
    def from_config(cls, config):
        if isinstance(config["convention"], dict):
            config = config | {"convention": Convention.from_json(json.dumps(config["convention"]))}
        return cls(**config)


def _module():
    """The backend of multismooth that computes with the arrays of Keras' backend."""
    name = keras.backend.backend()
    if name not in BACKENDS:
        expected = "jax or torch, with whose arrays multismooth computes"
        remedy = "Set the environment variable KERAS_BACKEND before Keras is imported."
        raise complain("Keras' backend", expected, name, remedy)
    return import_module(f"multismooth.{name}")


def _probabilities(logits, axis):
    """Whether the first rows of logits whose values cannot be seen are probabilities, to about the last digit.

    Of fewer than eight rows nothing is said: a row or two of two logits may sum to 1 by chance.
    """
    rows = ops.reshape(ops.moveaxis(logits, axis, -1), (-1, logits.shape[axis]))[:8]
    if rows.shape[0] < 8:
        return False
    rows = ops.cast(rows, "float32")
    slack = 1e-5 if keras.backend.standardize_dtype(logits.dtype) in ("float32", "float64") else 2.0**-6
    sums = ops.abs(ops.sum(rows, axis=-1) - 1) <= slack
    return ops.all(rows >= 0) & ops.all(sums) & ops.any((rows > 0) & (rows < 1))


def _backend():
    return _module()._functions._backend


def _kept(value):
    """An option as it is saved: arrays and lists as NumPy arrays, on no device."""
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return value


def _array(value):
    return ops.convert_to_tensor(value) if isinstance(value, np.ndarray) else value


def _elementwise(argument, value, shape):
    """A mask or sample weights as floats with the elements' axes. Keras allows one more, of length 1."""
    if value is None:
        return None
    value = ops.cast(ops.convert_to_tensor(value), "float32")
    if len(value.shape) == len(shape) + 1 and value.shape[-1] == 1:
        value = ops.squeeze(value, axis=-1)
    if 0 < len(value.shape) < len(shape):
        expected, got = f"one for each element, of shape {shape}", f"shape {tuple(value.shape)}"
        remedy = f"Pass {argument}[:, None] for one for each sample."
        raise complain(argument, expected, got, remedy)
    return value


def _product(*factors):
    """The product of those that are not None, or None."""
    factors = [factor for factor in factors if factor is not None]
    return None if not factors else factors[0] if len(factors) == 1 else factors[0] * factors[1]
