"""Ports and black boxes: does a loss function compute what its name says, and what does it compute?"""

from multismooth.parity.checking.check import check, compare
from multismooth.parity.checking.report import Outcome, Report
from multismooth.parity.identification import Identification
from multismooth.parity.identifying.search import identify

__all__ = ["Identification", "Outcome", "Report", "check", "compare", "identify"]
