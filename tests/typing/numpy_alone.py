"""What a user writes who has no other framework: the results are NumPy's all the same."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import multismooth
import multismooth.numpy

logits, labels = np.zeros((2, 3)), np.array([0, 2])
assert_type(multismooth.loss(logits, labels), np.floating[Any])
assert_type(multismooth.loss(logits, labels, reduction="none"), NDArray[np.floating[Any]])
assert_type(multismooth.numpy.loss_and_grad(logits, labels), tuple[np.floating[Any], NDArray[np.floating[Any]]])
