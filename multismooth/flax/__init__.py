"""Classifier heads for Flax: `multismooth.flax.nnx.LinearLoss` and `multismooth.flax.linen.LinearLoss`."""

from multismooth.errors import require

require("flax", "jax")
