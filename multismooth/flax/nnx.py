"""The loss as a Flax NNX module, for any convention, and a classifier layer that never keeps the logits."""

from __future__ import annotations

from inspect import signature
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

import jax
import jax.numpy as jnp
from flax import nnx

from multismooth.api.options import Array
from multismooth.flax.options import OPTIONS, evaluate, is_array, options_of, product, refuse_unknown
from multismooth.jax import loss
from multismooth.jax.options import HeadOptions, LossOptions
from multismooth.problem import Terms

__all__ = ["LinearLoss", "Loss", "Option"]

Result = TypeVar("Result")  # of a head: an array, or the Terms


class Option(nnx.Variable[jax.Array]):
    """An array among a module's options: a copy that is saved and moved with the module, and is not trained."""


class _WithOptions(nnx.Module):
    """A module whose attributes are keyword arguments of a function."""

    _known = OPTIONS

    def _keep(self, options):
        for name, value in options.items():
            setattr(self, name, Option(jnp.array(value)) if is_array(value) else value)

    @property
    def options(self) -> dict[str, Any]:
        """The options of this module, as a dict."""
        own = {name: getattr(self, name) for name in self._known if name in vars(self)}
        return {name: value[...] if isinstance(value, nnx.Variable) else value for name, value in own.items()}


class Loss(_WithOptions):
    """`loss(logits, targets, …)` as a module, for any convention.

    Args:
        Keywords: defaults for the arguments of `loss` (label_smoothing, convention, weight, …), which become
            attributes. Arrays become variables of type `Option`: they are in the state, and are not trained.

    `criterion(logits, targets, **options)` returns the loss; its options replace the module's.

    Raises TypeError for an unknown keyword, with the one that was probably meant.

    >>> import jax.numpy as jnp
    >>> criterion = Loss(convention="fairseq", label_smoothing=0.1, weight=jnp.ones(4))
    >>> criterion(jnp.zeros((2, 4)), jnp.array([0, 1])).shape, criterion.label_smoothing
    ((), 0.1)
    >>> [name for name in nnx.state(criterion)]
    ['weight']
    """

    _known = options_of(loss)

    def __init__(self, **options: Unpack[LossOptions]) -> None:
        refuse_unknown(type(self).__name__, options, options=self._known)
        self._keep(options)

    def __call__(self, logits: jax.Array, targets: Array, **options: Unpack[LossOptions]) -> jax.Array:
        every: dict[str, Any] = {**self.options, **options}
        return loss(logits, targets, **every)


class LinearLossOptions(HeadOptions, total=False):
    """Of `LinearLoss`, with those of `nnx.Linear`."""

    use_bias: bool
    dtype: Any
    param_dtype: Any
    precision: Any
    kernel_init: Any
    bias_init: Any
    dot_general: Any
    promote_dtype: Any
    preferred_element_type: Any


class LinearLoss(_WithOptions, nnx.Linear, Generic[Result]):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with `nnx.Linear`'s parameters.

    Args:
        in_features, out_features, rngs and every keyword of `nnx.Linear`, with the same meaning: dtype and
            promote_dtype cast features and parameters; precision, preferred_element_type and dot_general make the
            logits. JAX differentiates your own `dot_general`, one chunk of logits at a time.
        Every other keyword is a default for an argument of `linear_loss` (label_smoothing, convention, weight, …) and
            becomes an attribute. Arrays become variables of type `Option`, not `nnx.Param`, and are not trained.
        return_terms: the result is that of `linear_terms`, which reduces nothing.

    `head(hidden, targets, **options)` returns the loss, or the Terms; its options replace the layer's.
    `head.logits(…)` predicts. The parameters of an `nnx.Linear` can be loaded, `nnx.update(head, nnx.state(linear,
    nnx.Param))`, and the other way round.

    Raises TypeError for an unknown keyword, with the one that was probably meant, and ValueError for a `dot_general`
    that has variables.

    >>> import jax.numpy as jnp
    >>> head = LinearLoss(8, 5, rngs=nnx.Rngs(0), label_smoothing=0.1, weight=jnp.ones(5))
    >>> head(jnp.zeros((2, 8)), jnp.array([1, 4])).shape, head.logits(jnp.zeros((2, 8))).shape
    ((), (2, 5))
    >>> [name for name in nnx.state(head, nnx.Param)], head.label_smoothing
    (['bias', 'kernel'], 0.1)
    """

    @overload
    def __init__(
        self: LinearLoss[jax.Array],
        in_features: int,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        return_terms: Literal[False] = False,
        **arguments: Unpack[LinearLossOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: LinearLoss[Terms[jax.Array]],
        in_features: int,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        return_terms: Literal[True],
        **arguments: Unpack[LinearLossOptions],
    ) -> None: ...

    def __init__(self, in_features, out_features, *, rngs, return_terms=False, **arguments):
        own = signature(nnx.Linear.__init__).parameters
        refuse_unknown(type(self).__name__, arguments, list(own)[1:])
        layer: dict[str, Any] = {name: value for name, value in arguments.items() if name in own}
        super().__init__(in_features, out_features, rngs=rngs, **layer)
        self.return_terms = return_terms
        self._product()  # refuses a `dot_general` that has variables
        self._keep({name: value for name, value in arguments.items() if name not in own})

    def __call__(  # type: ignore[override]
        self, hidden: jax.Array, targets: Array, **options: Unpack[HeadOptions]
    ) -> Result:
        bias = None if self.bias is None else self.bias[...]
        hidden, kernel, bias = self.promote_dtype((hidden, self.kernel[...], bias), dtype=self.dtype)
        given = self.options | options
        return evaluate(self.return_terms, self._product(), hidden, kernel, targets, bias, given)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The logits (N…, out_features) that the loss is computed from. The option `axis` is the class axis."""
        axis = self.options.get("axis")
        if axis is None:
            return super().__call__(hidden)
        return jnp.moveaxis(super().__call__(jnp.moveaxis(hidden, axis, -1)), -1, axis)

    def _product(self):
        preferred = getattr(self, "preferred_element_type", None)  # Flax 0.12 and later
        return product(self.precision, preferred, self.dot_general, nnx.Module)


def __dir__():
    return __all__
