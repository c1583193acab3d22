"""Ports and black boxes: does a loss function compute what its name says, and what does it compute?"""

from multismooth.parity.check import check, compare
from multismooth.parity.identification import Identification
from multismooth.parity.identify import identify
from multismooth.parity.report import Outcome, Report

__all__ = ["Identification", "Outcome", "Report", "check", "compare", "identify"]
