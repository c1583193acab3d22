"""Ports and black boxes: does a loss function compute what its name says, and what does it compute?"""

from multismooth.parity.identification import Identification
from multismooth.parity.identify import identify

__all__ = ["Identification", "identify"]
