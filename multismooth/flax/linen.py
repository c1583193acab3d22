"""LinearLoss for Flax Linen: a classifier layer that ends in its loss, so that no logits are kept."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax.core import FrozenDict

from multismooth.jax import linear_loss


class LinearLoss(nn.Module):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with the parameters of `nn.Dense`.

    Args:
        features: K. use_bias, param_dtype, kernel_init, bias_init: as in `nn.Dense`; its params load here and back.
        options: defaults for the keyword arguments of `linear_loss` (label_smoothing, convention, …).

    `apply(params, hidden, targets, **options)` returns the loss; options given there win.

    >>> import jax, jax.numpy as jnp
    >>> head = LinearLoss(5, options={"label_smoothing": 0.1})
    >>> params = head.init(jax.random.key(0), jnp.zeros((2, 8)), jnp.array([1, 4]))
    >>> head.apply(params, jnp.zeros((2, 8)), jnp.array([1, 4])).shape, params["params"]["kernel"].shape
    ((), (8, 5))
    """

    features: int
    use_bias: bool = True
    param_dtype: Any = "float32"
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros_init()
    options: Mapping[str, Any] = FrozenDict()

    @nn.compact
    def __call__(self, hidden, targets, **options):
        kernel, bias = self._parameters(hidden)
        return linear_loss(hidden, kernel.T, targets, bias=bias, **dict(self.options) | options)

    @nn.compact
    def logits(self, hidden):
        """The scores (N…, features) that the loss is of."""
        kernel, bias = self._parameters(hidden)
        logits = hidden @ kernel
        return logits if bias is None else logits + bias

    def _parameters(self, hidden):
        kernel = self.param("kernel", self.kernel_init, (hidden.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        return kernel, bias
