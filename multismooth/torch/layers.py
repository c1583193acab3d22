"""The loss as a module, for any convention, and a classifier layer that returns its loss without the whole logits."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, Unpack, overload

import numpy as np
import torch

from multismooth.api import argument_checks
from multismooth.api.options import Array
from multismooth.api.public import public, unexpected
from multismooth.problem import Terms
from multismooth.registry import resolve
from multismooth.torch.backend import TorchBackend, functions
from multismooth.torch.options import HeadOptions, HeadTermsOptions, LossOptions

ARRAYS = ("weight", "prior", "class_mask", "sample_weight", "label_smoothing", "z_loss", "logit_softcap", "normalizer")
_backend = TorchBackend()
_loss = public(functions.loss, "multismooth.torch")
_linear_loss = public(functions.linear_loss, "multismooth.torch")
_linear_terms = public(functions.linear_terms, "multismooth.torch")
Result = TypeVar("Result")  # of a head: a tensor, or the Terms


class _WithOptions(torch.nn.Module):
    """A module that keeps the keyword arguments of a function: arrays as buffers, the others in `self.options`.

    Buffers keep their dtype when the module is cast, because the loss is computed in float32 at least.
    """

    options: dict[str, Any]
    _arrays: dict[str, str]  # the options that are buffers, with the buffers' names
    _buffer_names: ClassVar[dict[str, str]] = {}  # of those that are not named as their option

    def _keep(self, options, function, device=None, classes=None):
        """Refuse options that no call of the function accepts, and keep the others."""
        known = [name for name, p in signature(function).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
        for name, value in options.items():
            if name not in known or name == "bias":
                raise unexpected(type(self).__name__, name, [own for own in known if own != "bias"])
            if name == "convention":
                resolve(value)
            elif name == "reduction":
                argument_checks.reduction(value)
            elif name in ("weight", "prior") and value is not None and classes is not None:
                argument_checks.per_class(name, np.shape(value), classes, square=name == "prior")
        self.options = {name: value for name, value in options.items() if not _array(name, value)}
        self._arrays = {name: self._buffer_names.get(name, name) for name in options if name not in self.options}
        for name in self._arrays:
            self._register(name, options[name], device)

    def _register(self, name, value, device):
        if isinstance(value, torch.nn.Parameter):
            self.register_parameter(self._arrays[name], value)
            return
        if not isinstance(value, torch.Tensor):  # a copy: `load_state_dict` writes to the buffer
            value = _backend.take(name, value).clone()
        self.register_buffer(self._arrays[name], value if device is None else value.to(device))

    def _with_arrays(self, options):
        """All options of a call: those given there win."""
        arrays = {name: getattr(self, buffer) for name, buffer in self._arrays.items()}
        return {**arrays, **self.options, **options}  # which PyTorch 2.6 compiles, and no `|`

    def extra_repr(self):
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        arrays = [f"{name}={tuple(getattr(self, buffer).shape)}" for name, buffer in self._arrays.items()]
        return ", ".join(filter(None, [super().extra_repr(), *options, *arrays]))

    def _apply(self, fn, recurse=True):
        before = {name: self._buffers[name] for name in self._arrays.values() if name in self._buffers}
        super()._apply(fn, recurse)
        for name, value in before.items():
            if self._buffers[name].dtype != value.dtype:
                self._buffers[name] = value.to(self._buffers[name].device)
        return self


class Loss(_WithOptions):
    """`loss(logits, targets, …)` as a module, for any convention.

    Args:
        options: defaults for the keyword arguments of `loss` (label_smoothing, convention, weight, …).

    `forward(logits, targets, **options)` returns the loss; its options override the defaults.

    Arrays among the options become buffers of their names: they are in the state dict and move with the module. They
    keep their dtype when the module is cast. The other options are in `self.options`.

    Raises:
        TypeError: unknown option. ValueError: a convention or reduction that no call accepts.

    >>> import torch
    >>> criterion = Loss(convention="fairseq", label_smoothing=0.1, ignore_index=1)
    >>> criterion
    Loss(convention='fairseq', label_smoothing=0.1, ignore_index=1)
    >>> criterion(torch.zeros(2, 4), torch.tensor([0, 1])).ndim
    0
    """

    def __init__(self, **options: Unpack[LossOptions]) -> None:
        super().__init__()
        self._keep(options, _loss)

    def forward(self, logits: torch.Tensor, targets: Array, **options: Unpack[LossOptions]) -> torch.Tensor:
        return _loss(logits, targets, **self._with_arrays(options))

    if TYPE_CHECKING:

        def __call__(self, logits: torch.Tensor, targets: Array, **options: Unpack[LossOptions]) -> torch.Tensor: ...


class LinearLoss(_WithOptions, torch.nn.Linear, Generic[Result]):
    """`linear_loss(hidden, self.weight, targets, bias=self.bias, …)` as a layer with `nn.Linear`'s parameters.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`, whose state dict loads here.
        return_terms: `forward` is `linear_terms`, which reduces nothing.
        options: defaults for the keyword arguments of `linear_loss` (label_smoothing, convention, ignore_index, …).

    `forward(hidden, targets, **options)` returns the loss, or the Terms. Its options override the defaults; `weight`
    means the class weights. `logits(hidden)` is the linear layer alone, for prediction.

    Arrays among the options become buffers: `weight` as `class_weight`, the others under their own names. So they are
    in the state dict and move with the layer. They keep their dtype when the layer is cast, because the loss is
    computed in float32 at least. The other options are in `self.options`.

    Raises:
        TypeError: unknown option. ValueError: an option's value that no call accepts.

    >>> import torch
    >>> head = LinearLoss(8, 5, label_smoothing=0.1)
    >>> head(torch.zeros(2, 8), torch.tensor([1, 4])).ndim, head.logits(torch.zeros(2, 8)).shape
    (0, torch.Size([2, 5]))
    """

    _buffer_names: ClassVar = {"weight": "class_weight"}

    @overload
    def __init__(
        self: LinearLoss[torch.Tensor],
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[HeadOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: LinearLoss[Terms[torch.Tensor]],
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        return_terms: Literal[True],
        **options: Unpack[HeadTermsOptions],
    ) -> None: ...

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, return_terms=False, **options):
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.return_terms = return_terms
        self._keep(options, _linear_terms if return_terms else _linear_loss, self.weight.device, self.out_features)

    if TYPE_CHECKING:

        def __call__(self, hidden: torch.Tensor, targets: Array, **options: Unpack[HeadOptions]) -> Result: ...

    def forward(self, hidden, targets, **options):  # type: ignore[override]
        function = _linear_terms if self.return_terms else _linear_loss
        return function(hidden, self.weight, targets, bias=self.bias, **self._with_arrays(options))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits (N…, out_features), whose loss `forward` returns."""
        return torch.nn.Linear.forward(self, hidden)

    def extra_repr(self):
        return super().extra_repr() + ", return_terms=True" * self.return_terms


def _array(name, value):
    return name in ARRAYS and isinstance(value, (torch.Tensor, np.ndarray, list, tuple))
