"""Compares losses as black boxes: what does a loss compute (`identify`), and is it what it should be (`check`)?"""

from multismooth.parity.calling.program import Program
from multismooth.parity.checking.check import check, compare
from multismooth.parity.checking.report import Outcome, Report
from multismooth.parity.checking.vectors import vectors
from multismooth.parity.identification import Identification
from multismooth.parity.identifying.identify import identify
from multismooth.parity.identifying.numbers import Candidate, Candidates, identify_value

__all__ = [
    "Candidate",
    "Candidates",
    "Identification",
    "Outcome",
    "Program",
    "Report",
    "check",
    "compare",
    "identify",
    "identify_value",
    "vectors",
]


def __dir__():
    return __all__
