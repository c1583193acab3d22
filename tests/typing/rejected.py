"""Lines that a type checker must reject, each. `tests/test_typing.py` finds an error in every line that says so."""

import numpy as np
import torch
from flax import nnx

import multismooth
import multismooth.flax
import multismooth.jax
import multismooth.numpy
import multismooth.torch
from multismooth import Convention, calibration

t, y, a, b = torch.zeros(2, 3), torch.tensor([0, 2]), np.zeros((2, 3)), np.array([0, 2])

multismooth.loss(t, y, reduction="avg")  # rejected
multismooth.torch.loss(t, y, reduction="avg")  # rejected
multismooth.numpy.loss(a, b, reduction="avg")  # rejected
multismooth.loss(t, y, labelsmoothing=0.1)  # rejected
multismooth.torch.loss(t, y, labelsmoothing=0.1)  # rejected
multismooth.jax.loss(a, b, labelsmoothing=0.1)  # rejected
multismooth.loss("a", "b")  # rejected
multismooth.torch.loss("a", "b")  # rejected
multismooth.jax.loss("a", "b")  # rejected
multismooth.numpy.loss("a", "b")  # rejected
multismooth.torch.loss(t, y, 0.1)  # rejected
multismooth.torch.loss(t)  # rejected
multismooth.torch.loss(t, y, weight="balanced")  # rejected
multismooth.torch.terms(t, y, reduction="sum")  # rejected
multismooth.torch.binary_loss(t, t, prior=t)  # rejected
multismooth.torch.distillation_loss(t, t)  # rejected
multismooth.torch.focal_loss(t, y, modulation="row")  # rejected
multismooth.torch.linear_loss(t, t, y, accumulate="float64")  # rejected
multismooth.torch.loss(t, y, out=t)  # rejected
multismooth.numpy.loss(a, b, group=None)  # rejected
multismooth.torch.loss(t, y, axis_name="data")  # rejected
multismooth.torch.LinearLoss(4, 3, labelsmoothing=0.1)  # rejected
multismooth.torch.LinearLoss(4, 3, reduction="avg")  # rejected
multismooth.flax.nnx.LinearLoss(4, 3, rngs=nnx.Rngs(0), labelsmoothing=0.1)  # rejected
multismooth.flax.nnx.Loss(labelsmoothing=0.1)  # rejected
multismooth.flax.linen.LinearLoss(3, labelsmoothing=0.1)  # rejected
multismooth.torch.Loss(labelsmoothing=0.1)  # rejected
multismooth.torch.Loss(convention=3)  # rejected
multismooth.torch.Loss()(t, y, reduction="avg")  # rejected
Convention(spread="foo")  # rejected
Convention(denominator="tokens")  # rejected
Convention(spreading="all")  # rejected
calibration.expected_calibration_error(a, b, norm="l3")  # rejected
calibration.expected_calibration_error(a, b, bin=15)  # rejected
calibration.ErrorConvention(binning="equal")  # rejected
calibration.risk_coverage(a, b, score="entropy")  # rejected
