"""The plan of a kind of call, recorded."""

import numpy as np

from multismooth.problem import Problem
from multismooth.recording.arrays import ValueSeen
from multismooth.recording.recorder import Recording, example
from multismooth.reduction import reduced_plan

NOT_FOR_KERNELS = {
    "label_weight": 1.0,
    "denominator_share": 1.0,
    "smooth_denominator_share": None,
    "z_loss_denominator_share": None,
}


def recorded_plan(shape, wide, values, settings, recording):
    """`reduced_plan` of recorded values: a Problem's fields as NumPy sees them, without the logits.

    wide: logits of this shape are float64.
    """
    logits = np.broadcast_to(np.zeros((), np.float64 if wide else np.float32), shape)
    return reduced_plan(Problem(logits, *values), settings, recording)._replace(**NOT_FOR_KERNELS)


def plan_program(shape, wide, values, settings):
    """`reduced_plan` for calls like this one, as a function of a Problem's fields as NumPy sees them.

    None for a single element, whose plan is all numbers, and if the plan depends on values in a way that cannot be
    recorded. `values`: the fields in this call. `wide`: logits of this shape are float64.
    """
    if len(shape) < 2:
        return None

    def plan(recording, _, *names):
        arguments = [
            recording.argument(given.name, example(value.shape, value.dtype) if isinstance(value, np.ndarray) else 1.0)
            if isinstance(value, np.ndarray) or (name == "normalizer" and value is not None)
            else value
            for name, given, value in zip(Problem._fields[1:], names, values[1:], strict=True)
        ]
        return recorded_plan(shape, wide, arguments, settings, recording)

    try:
        return Recording().program(plan, Problem._fields)
    except ValueSeen:
        return None
