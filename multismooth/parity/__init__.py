"""Compares losses as black boxes: what does a loss compute (`identify`), and is it what it should be (`check`)?"""

from multismooth.parity.checking.check import check, compare
from multismooth.parity.checking.report import Outcome, Report
from multismooth.parity.identification import Identification
from multismooth.parity.identifying.identify import identify

__all__ = ["Identification", "Outcome", "Report", "check", "compare", "identify"]
