"""LinearLoss for Flax NNX: a classifier layer that ends in its loss, so that no logits are kept."""

from inspect import signature

import jax.numpy as jnp
from flax import nnx

from multismooth.flax.options import OPTIONS, is_array, linear_loss_by, product, refuse_unknown


class Option(nnx.Variable):
    """An array among a layer's options: copied, saved and moved with the layer, and not trained."""


class LinearLoss(nnx.Linear):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with `nnx.Linear`'s parameters.

    Args:
        in_features, out_features, rngs and every keyword of `nnx.Linear`, with its meaning: dtype and promote_dtype
            are what features and parameters are cast by; precision, preferred_element_type and dot_general make the
            logits. A `dot_general` of your own is differentiated by JAX, a chunk of logits at a time.
        Every other keyword is a default for one of `linear_loss` (label_smoothing, convention, weight, …) and becomes
            an attribute. Arrays become variables of type `Option`, which are no `nnx.Param` and are not trained.
        options: the same as a dict.

    `head(hidden, targets, **options)` returns the loss; options given there win. `head.logits(hidden)` predicts.
    The parameters of an `nnx.Linear` load into it and back: `nnx.update(head, nnx.state(linear, nnx.Param))`.

    Raises TypeError for a keyword that is none, saying which is meant, and ValueError for a `dot_general` with state.

    >>> import jax.numpy as jnp
    >>> head = LinearLoss(8, 5, rngs=nnx.Rngs(0), label_smoothing=0.1, weight=jnp.ones(5))
    >>> head(jnp.zeros((2, 8)), jnp.array([1, 4])).shape, head.logits(jnp.zeros((2, 8))).shape
    ((), (2, 5))
    >>> [name for name in nnx.state(head, nnx.Param)], head.label_smoothing
    (['bias', 'kernel'], 0.1)
    """

    def __init__(self, in_features, out_features, *, rngs, options=None, **arguments):
        own = signature(nnx.Linear.__init__).parameters
        refuse_unknown(type(self).__name__, arguments, list(own)[1:])
        refuse_unknown(type(self).__name__, options or {})
        super().__init__(in_features, out_features, rngs=rngs, **{k: v for k, v in arguments.items() if k in own})
        self._product()
        for name, value in {**(options or {}), **{k: v for k, v in arguments.items() if k not in own}}.items():
            setattr(self, name, Option(jnp.array(value)) if is_array(value) else value)

    def __call__(self, hidden, targets, **options):  # type: ignore[override]
        bias = self.bias[...] if self.use_bias else None
        hidden, kernel, bias = self.promote_dtype((hidden, self.kernel[...], bias), dtype=self.dtype)
        return linear_loss_by(self._product())(hidden, kernel.T, targets, bias=bias, **self.options | options)

    @property
    def options(self):
        """The options that this layer was given, as a dict."""
        given = {name: getattr(self, name) for name in OPTIONS if name in vars(self)}
        return {name: value[...] if isinstance(value, nnx.Variable) else value for name, value in given.items()}

    def logits(self, hidden):
        """The scores (N…, out_features) that the loss is of; features and classes are on the option `axis`."""
        axis = self.options.get("axis")
        if axis is None:
            return super().__call__(hidden)
        return jnp.moveaxis(super().__call__(jnp.moveaxis(hidden, axis, -1)), -1, axis)

    def _product(self):
        # of Flax 0.12 and later
        wanted = getattr(self, "preferred_element_type", None)
        return product(self.precision, wanted, self.dot_general, nnx.Module)
