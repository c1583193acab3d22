"""Sweep: train with several ε and seeds, and see what smoothing does to accuracy, likelihood and calibration.

import multismooth
from multismooth.sweeping.digits import train

print(multismooth.sweep(train, seeds=3, processes=2, out="multismooth-sweep").table())
"""

from multismooth.sweeping.results import Sweep
from multismooth.sweeping.running import sweep

__all__ = ["Sweep", "sweep"]
