"""What the second value is that a loss returns beside itself, such as the count of its elements."""

import numpy as np

from multismooth.parity.identifying.noise import problem


def notes(box, ignore_index=None):
    """A sentence on the second value, as a tuple; () where there is none."""
    labels, z = problem(box)
    counted = labels != ignore_index if ignore_index is not None else np.ones(labels.shape, bool)
    try:
        answer = box(z, labels)
        if answer.second is None or not answer.second.size:
            return ()
        other, shorter = box(z[:, ::-1] + 1.0, labels), box(z[: len(z) // 3], labels[: len(z) // 3])
    except Exception:
        return ()
    value = answer.second
    if not (np.shape(other.second) == value.shape and np.allclose(other.second, value)):
        return ("it returns a second value, which moves with the logits and is not looked at",)
    if value.size > 1:
        return ("it returns a second value, an array that the logits do not change and that is not looked at",)
    number, counts = float(value), (float(value), float(np.sum(shorter.second)))
    n = (counted.sum(), counted[: len(labels) // 3].sum())
    if counts == n:
        return ("it returns (loss, count): the second value is the number of counted elements, to divide the sum by",)
    if number > 0 and abs(counts[0] / counts[1] - n[0] / n[1]) < 1e-9:
        return (f"its second value is {number / n[0]:.6g} times the number of elements",)
    return (f"its second value is {number:.6g}, which the logits do not change: a sum of weights, or a count",)
