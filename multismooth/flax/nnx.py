"""LinearLoss for Flax NNX: a classifier layer that returns its loss, so that the logits are never kept."""

from inspect import signature

import jax.numpy as jnp
from flax import nnx

from multismooth.flax.options import OPTIONS, evaluate, is_array, product, refuse_unknown


class Option(nnx.Variable):
    """An array among a layer's options: a copy that is saved and moved with the layer, and is not trained."""


class LinearLoss(nnx.Linear):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with `nnx.Linear`'s parameters.

    Args:
        in_features, out_features, rngs and every keyword of `nnx.Linear`, with the same meaning: dtype and
            promote_dtype cast features and parameters; precision, preferred_element_type and dot_general make the
            logits. JAX differentiates your own `dot_general`, one chunk of logits at a time.
        Every other keyword is a default for an argument of `linear_loss` (label_smoothing, convention, weight, …) and
            becomes an attribute. Arrays become variables of type `Option`, not `nnx.Param`, and are not trained.
        options: the same, as a dict.
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

    def __init__(self, in_features, out_features, *, rngs, options=None, return_terms=False, **arguments):
        own = signature(nnx.Linear.__init__).parameters
        refuse_unknown(type(self).__name__, arguments, list(own)[1:])
        refuse_unknown(type(self).__name__, options or {})
        super().__init__(in_features, out_features, rngs=rngs, **{k: v for k, v in arguments.items() if k in own})
        self.return_terms = return_terms
        self._product()  # refuses a `dot_general` that has variables
        for name, value in {**(options or {}), **{k: v for k, v in arguments.items() if k not in own}}.items():
            setattr(self, name, Option(jnp.array(value)) if is_array(value) else value)

    def __call__(self, hidden, targets, **options):  # type: ignore[override]
        bias = self.bias[...] if self.use_bias else None
        hidden, kernel, bias = self.promote_dtype((hidden, self.kernel[...], bias), dtype=self.dtype)
        given = self.options | options
        return evaluate(self.return_terms, self._product(), hidden, kernel, targets, bias, given)

    @property
    def options(self):
        """The options of this layer, as a dict."""
        own = {name: getattr(self, name) for name in OPTIONS if name in vars(self)}
        return {name: value[...] if isinstance(value, nnx.Variable) else value for name, value in own.items()}

    def logits(self, hidden):
        """The logits (N…, out_features) that the loss is computed from. The option `axis` is the class axis."""
        axis = self.options.get("axis")
        if axis is None:
            return super().__call__(hidden)
        return jnp.moveaxis(super().__call__(jnp.moveaxis(hidden, axis, -1)), -1, axis)

    def _product(self):
        preferred = getattr(self, "preferred_element_type", None)  # Flax 0.12 and later
        return product(self.precision, preferred, self.dot_general, nnx.Module)
