"""LinearLoss: a classifier layer that returns its loss, without the whole logits in memory."""

from inspect import Parameter

import numpy as np
import torch

from multismooth.api import argument_checks
from multismooth.api.options import signature_of
from multismooth.api.public import unexpected
from multismooth.registry import resolve
from multismooth.torch.backend import TorchBackend, functions

ARRAYS = ("weight", "prior", "class_mask", "sample_weight", "label_smoothing", "z_loss", "logit_softcap", "normalizer")
_backend = TorchBackend()


def _options(function):
    """The names of a function's keyword arguments, without the layer's own bias."""
    parameters = signature_of(function).parameters.items()
    return [name for name, parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY and name != "bias"]


OPTIONS = {False: _options(functions.linear_loss), True: _options(functions.linear_terms)}  # by `return_terms`


class LinearLoss(torch.nn.Linear):
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

    _arrays: tuple[str, ...] = ()  # the options that are buffers

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, return_terms=False, **options):
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.return_terms = return_terms
        _check(options, self.out_features, OPTIONS[bool(return_terms)])
        self.options = {name: value for name, value in options.items() if not _array(name, value)}
        self._arrays = tuple(name for name in options if name not in self.options)
        for name in self._arrays:
            self._register(name, options[name])

    def _register(self, name, value):
        if isinstance(value, torch.nn.Parameter):
            self.register_parameter(_buffer_name(name), value)
            return
        if not isinstance(value, torch.Tensor):
            value = _backend.take(
                name, value
            ).clone()  # `load_state_dict` writes to the buffer, which must not be the caller's array
        self.register_buffer(_buffer_name(name), value.to(self.weight.device))

    def forward(self, hidden, targets, **options):  # type: ignore[override]
        arrays = {name: getattr(self, _buffer_name(name)) for name in self._arrays}
        options = arrays | self.options | options
        evaluate = functions.linear_terms if self.return_terms else functions.linear_loss
        return evaluate(hidden, self.weight, targets, bias=self.bias, **options)

    def logits(self, hidden):
        """The logits (N…, out_features), whose loss `forward` returns."""
        return super().forward(hidden)

    def extra_repr(self):
        arrays = "".join(f", {name}={tuple(getattr(self, _buffer_name(name)).shape)}" for name in self._arrays)
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return super().extra_repr() + (", return_terms=True" if self.return_terms else "") + options + arrays

    def _apply(self, fn, recurse=True):
        before = {name: self._buffers[name] for name in map(_buffer_name, self._arrays) if name in self._buffers}
        super()._apply(fn, recurse)
        for name, value in before.items():
            if self._buffers[name].dtype != value.dtype:
                self._buffers[name] = value.to(self._buffers[name].device)
        return self


def _array(name, value):
    return name in ARRAYS and isinstance(value, (torch.Tensor, np.ndarray, list, tuple))


def _buffer_name(name):
    """The name of an option's buffer."""
    return "class_weight" if name == "weight" else name


def _check(options, classes, known):
    """Refuse options that no call accepts."""
    for name, value in options.items():
        if name not in known:
            raise unexpected("LinearLoss", name, known)
        if name == "convention":
            resolve(value)
        elif name == "reduction":
            argument_checks.reduction(value)
        elif name in ("weight", "prior") and value is not None:
            argument_checks.per_class(name, np.shape(value), classes, square=name == "prior")
