"""The front door: pick the backend from the type of the logits, importing nothing that the caller has not.

The type's method resolution order names its framework (Parameters, fake and functional tensors, tracers included:
a JAX tracer is no `jax.Array` subclass, but it lives in a jax module).
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate

from multismooth.api.functions import Functions
from multismooth.api.public import Arguments, Result, misused, named
from multismooth.errors import complain


def backend_of(array):
    """The backend module for an array. Import statements, because `import_module` breaks `torch.compile`'s graph."""
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


def _dispatched(method: Callable[Concatenate[Any, Arguments], Result]) -> Callable[Arguments, Result]:
    """The method's function of whichever backend its first argument belongs to."""
    name, signature = method.__name__, inspect.signature(method)
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


loss = _dispatched(Functions.loss)
terms = _dispatched(Functions.terms)
loss_and_grad = _dispatched(Functions.loss_and_grad)
smooth_targets = _dispatched(Functions.smooth_targets)
linear_loss = _dispatched(Functions.linear_loss)
linear_loss_and_grad = _dispatched(Functions.linear_loss_and_grad)
smoothing_correction = _dispatched(Functions.smoothing_correction)
binary_loss = _dispatched(Functions.binary_loss)
