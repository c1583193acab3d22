"""Sweep: train with several ε and seeds, and see what smoothing does to accuracy, likelihood and calibration.

from multismooth.sweep import sweep
from multismooth.sweep.digits import train

print(sweep(train, seeds=3, processes=2, out="multismooth-sweep").table())
"""

from multismooth.sweep.results import Sweep
from multismooth.sweep.running import sweep

__all__ = ["Sweep", "sweep"]
