"""The functions of `multismooth` itself: each picks the backend from the type of its first argument.

No framework is imported that the caller has not imported. The modules in the type's method resolution order name its
framework. So Parameters, fake and functional tensors and tracers are recognised: a JAX tracer is no subclass of
`jax.Array`, but its class is in a jax module.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Self

from multismooth.api import prior_functions as api
from multismooth.api.functions import Functions
from multismooth.api.options import Array, signature_of
from multismooth.api.public import Arguments, Result, misused, named
from multismooth.errors import complain


def backend_of(array):
    """The backend module for an array. It uses import statements: `import_module` breaks `torch.compile`'s graph."""
    for base in type(array).__mro__:
        root = base.__module__.partition(".")[0]
        if root == "torch":
            from multismooth import torch as module

            return module
        if root in ("jax", "jaxlib", "flax"):
            from multismooth import jax as module

            return module
        if root == "numpy":
            from multismooth import numpy as module

            return module
    raise complain(
        "logits",
        "a torch.Tensor, jax.Array or numpy.ndarray",
        type(array).__name__,
        "Convert it, or call multismooth.numpy for nested lists.",
        TypeError,
    )


def backend_object(array):
    """The `Backend` for an array, for what is written in its namespace and is no function of `Functions`."""
    return backend_of(array)._functions._backend


TYPES = {"Scores": "Array", "Labels": "Array"}  # in the signatures: arrays of any framework, and results of the same


def _dispatched(method: Callable[Concatenate[Any, Arguments], Result]) -> Callable[Arguments, Result]:
    """A function that calls the method of the backend to which its first argument belongs."""
    name, signature = method.__name__, signature_of(method, types=TYPES)
    parameters = list(signature.parameters.values())[1:]
    first = parameters[0].name

    @wraps(method)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        wrong = None if args or first in options else misused(call, args, options)
        if wrong is not None:
            raise wrong
        return getattr(backend_of(args[0] if args else options[first]), name)(*args, **options)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return named(call, "multismooth")


if TYPE_CHECKING:
    from multismooth.typed.dispatch import *  # noqa: F403
else:
    loss = _dispatched(Functions.loss)
    terms = _dispatched(Functions.terms)
    loss_and_grad = _dispatched(Functions.loss_and_grad)
    smooth_targets = _dispatched(Functions.smooth_targets)
    linear_loss = _dispatched(Functions.linear_loss)
    linear_loss_and_grad = _dispatched(Functions.linear_loss_and_grad)
    linear_terms = _dispatched(Functions.linear_terms)
    smoothing_correction = _dispatched(Functions.smoothing_correction)
    binary_loss = _dispatched(Functions.binary_loss)
    focal_loss = _dispatched(Functions.focal_loss)
    confidence_penalty = _dispatched(Functions.confidence_penalty)
    margin_smoothing = _dispatched(Functions.margin_smoothing)
    distillation_loss = _dispatched(Functions.distillation_loss)
    normalizer = _dispatched(Functions.normalizer)
    unigram_prior = _dispatched(Functions.unigram_prior)


class OnlinePrior(api.OnlinePrior[Any]):
    """`OnlinePrior` of any backend: its arrays become those of the logits' framework, on the logits' device.

    See `multismooth.api.prior_functions.OnlinePrior` for what it is.

    >>> import numpy as np
    >>> import multismooth
    >>> state = multismooth.OnlinePrior.start(2).update(np.eye(2), np.array([0, 1]))
    >>> state.counts.tolist()
    [1, 1]
    """

    __slots__ = ()

    @classmethod
    def start(cls, num_classes: int) -> Self:
        from multismooth import numpy

        return cls(*numpy.OnlinePrior.start(num_classes))

    def update(
        self, logits: Array, targets: Array, *, ignore_index: int | None = -100, axis: int | None = None
    ) -> Self:
        state = backend_of(logits).OnlinePrior(*self).update(logits, targets, ignore_index=ignore_index, axis=axis)
        return type(self)(*state)

    def next_epoch(self) -> Self:
        return type(self)(*backend_of(self.sums).OnlinePrior(*self).next_epoch())
