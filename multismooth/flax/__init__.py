"""Classifier heads for Flax: `multismooth.flax.nnx.LinearLoss` and `multismooth.flax.linen.LinearLoss`."""
