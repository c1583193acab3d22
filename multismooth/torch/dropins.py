"""Drop-ins for torch's own losses: their signatures and results, class axis 1, computed by multismooth.

They differ from the originals only where those are wrong: fp16 does not overflow, NaN at an ignored or absent element
does not reach the loss, and the arguments that `originals` lists are errors. As in torch, soft targets need not be
distributions, the mean over no elements is NaN (with a gradient of 0), and under autocast the loss is float32.
"""

from typing import TYPE_CHECKING, Any

import torch

from multismooth.api.argument_checks import same_shape
from multismooth.errors import complain
from multismooth.torch import autograd, originals
from multismooth.torch.backend import TorchBackend
from multismooth.torch.originals import Refusal

_backend = TorchBackend()


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`torch.nn.functional.cross_entropy`: −Σ_k w_k q_k log softmax(input)_k with classes on axis 1, in nats.

    It accepts and refuses the same arguments as torch's function and returns the same result, in the same dtype: that
    of the input, float32 under autocast, and for probabilities the widest of all arguments. Where torch raises a
    RuntimeError, the error is a ValueError too.

    Raises:
        TargetError: targets of another shape or dtype; labels that name no class (an IndexError too, as in torch).
        SmoothingError: ε outside [0, 1]. TypeError: an argument that is not a tensor, or not a number.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
    >>> ours = cross_entropy(logits, labels, label_smoothing=0.1)
    >>> torch.allclose(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    True
    """
    reduction = originals.reduction_of(size_average, reduce, reduction)
    arguments = input, target, weight, ignore_index, reduction, label_smoothing
    key, kind, dtype = originals.kind_of_call(*arguments)
    if kind is not None:
        loss = autograd.loss_again(kind, originals.given(input, target, weight))
        if loss is not None:
            return loss if loss.dtype is dtype else loss.to(dtype)
    call, empty, dtype = originals.checked_call(_backend, *arguments, key)
    logits, axis = call.problem.logits, call.settings.axis
    if logits.shape[axis] == 0:
        loss = logits.sum(axis)  # without classes the loss is 0, although 1/K is not defined
        loss = loss if reduction == "none" else loss.sum()
        return originals.as_original(loss, reduction == "mean", dtype)
    call, empty = originals.marked(call, empty)
    return originals.as_original(_backend.loss(call, dtype), empty, dtype)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, its arguments, buffers, state and repr, computed by `cross_entropy` of this module.

    >>> import torch
    >>> CrossEntropyLoss(label_smoothing=0.1)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(1.3863)
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    if TYPE_CHECKING:

        def __call__(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor: ...


def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> torch.Tensor:
    """`torch.nn.functional.linear_cross_entropy` (torch 2.13) on every supported torch, chunked, smoothed or not.

    `cross_entropy(linear(input, linear_weight, linear_bias), target, …)` without the (N, C) logits. `options`
    (a `torch.nn.LinearCrossEntropyOptions`) may set the rows per chunk; the loss is chunked without it, too. For a
    weight with more than two axes, (C, d_1, …, D), all logits are computed, as in the original. Errors are those of
    `cross_entropy`.

    >>> import torch
    >>> linear_cross_entropy(torch.eye(2), torch.ones(3, 2), torch.tensor([0, 2]), label_smoothing=0.1)
    tensor(1.0986)
    """
    originals.tensors("input", input, target=target, linear_weight=linear_weight, linear_bias=linear_bias)
    shape = _logits_shape(input, linear_weight, linear_bias)
    if ignore_index is not None and target.shape == torch.Size(shape):
        remedy = "Leave it out: probabilities are no labels."
        raise complain("ignore_index", "None with probabilities", repr(ignore_index), remedy, Refusal)
    ignore_index = -100 if ignore_index is None else ignore_index
    originals.same_layer_dtype(input, linear_weight=linear_weight, linear_bias=linear_bias)
    classes, *extra, features = linear_weight.shape
    if extra or classes == 0:
        bias = None if linear_bias is None else linear_bias.reshape(-1)
        logits = torch.nn.functional.linear(input, linear_weight.reshape(-1, features), bias).reshape(shape)
        return cross_entropy(
            logits, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    template = _backend.template(shape, input.dtype, input)
    arguments = template, target, weight, ignore_index, reduction, label_smoothing
    key, kind, dtype = originals.kind_of_call(*arguments)
    call, empty = None if kind is None else kind.call(originals.given(template, target, weight)), False
    if call is None:
        call, empty, dtype = originals.checked_call(_backend, *arguments, key)
    rows = getattr(options, "batch_chunk_size", None)
    input, linear_weight = _backend.array(input), _backend.array(linear_weight)
    bias = None if linear_bias is None else _backend.array(linear_bias)
    loss = _backend.linear_loss(input, linear_weight, bias, rows or None, call)
    return originals.as_original(loss, empty, dtype)


def _logits_shape(input, linear_weight, linear_bias):
    """The shape of the logits (N, C, d_1, …). It refuses tensors of the layer that do not fit each other."""
    if not 1 <= input.ndim <= 2:
        raise complain("input", "(D,) or (N, D) features", f"{tuple(input.shape)}", "Reshape it to (-1, D).", Refusal)
    if linear_weight.ndim < 2:
        expected, got = "shape (C, D) or (C, d_1, …, D)", f"{tuple(linear_weight.shape)}"
        raise complain("linear_weight", expected, got, "Pass a linear layer's weight.", Refusal)
    classes, *extra, features = linear_weight.shape
    if input.shape[-1] != features:
        expected = f"(C, {input.shape[-1]}) for input {tuple(input.shape)}"
        raise complain("linear_weight", expected, f"{tuple(linear_weight.shape)}", "Transpose it?", Refusal)
    if linear_bias is not None and not same_shape(linear_bias.shape, (classes, *extra)):
        expected, got = f"shape {(classes, *extra)}", f"{tuple(linear_bias.shape)}"
        raise complain("linear_bias", expected, got, "Pass one number per output.", Refusal)
    if extra and input.ndim == 1:
        expected, got = f"(N, {features}) for linear_weight {tuple(linear_weight.shape)}", f"{tuple(input.shape)}"
        raise complain("input", expected, got, "Add a batch axis: input[None].", Refusal)
    return *input.shape[:-1], classes, *extra
