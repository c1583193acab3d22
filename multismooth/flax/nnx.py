"""LinearLoss for Flax NNX: a classifier layer that ends in its loss, so that no logits are kept."""

from flax import nnx

from multismooth.jax import linear_loss


class LinearLoss(nnx.Linear):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with `nnx.Linear`'s parameters.

    Args:
        in_features, out_features, rngs and every keyword of `nnx.Linear`; a state of one loads into the other.
        options: a dict of defaults for the keyword arguments of `linear_loss` (label_smoothing, convention, …).

    `head(hidden, targets, **options)` returns the loss; options given there win. `head.logits(hidden)` predicts.

    >>> import jax.numpy as jnp
    >>> head = LinearLoss(8, 5, rngs=nnx.Rngs(0), options={"label_smoothing": 0.1})
    >>> head(jnp.zeros((2, 8)), jnp.array([1, 4])).shape, head.logits(jnp.zeros((2, 8))).shape
    ((), (2, 5))
    """

    def __init__(self, in_features, out_features, *, rngs, options=None, **arguments):
        super().__init__(in_features, out_features, rngs=rngs, **arguments)
        self.options = nnx.static(dict(options or {})) if hasattr(nnx, "static") else dict(options or {})

    def __call__(self, hidden, targets, **options):  # type: ignore[override]
        bias = self.bias[...] if self.use_bias else None
        return linear_loss(hidden, self.kernel[...].T, targets, bias=bias, **dict(self.options) | options)

    def logits(self, hidden):
        """The scores (N…, out_features) that the loss is of."""
        return super().__call__(hidden)
