"""Records which operations a function makes, and replays them without the function.

The checks of values, `plan`, `reduction` and the kernels are written for every convention and every combination of
arguments. For one kind of call (its shapes, dtypes and settings are known) all that remains of them is a few dozen
operations on arrays. They are recorded once, on NumPy arrays, and written down as one Python function. What two of them
compute is computed once, and what nobody uses is left out.

The recorded function may not look at values: `if array > 0` raises `ValueSeen`. Two questions are allowed.
`stop_unless` ends the replay, which then returns None. `ask` has the function recorded twice, once for each answer.
Shapes, dtypes and plain numbers become part of the recording; arrays stay arguments.
"""

from multismooth.recording.arrays import Recorded, ValueSeen
from multismooth.recording.plans import plan_program, recorded_plan
from multismooth.recording.recorder import Recording, example

__all__ = ["Recorded", "Recording", "ValueSeen", "example", "plan_program", "recorded_plan"]
