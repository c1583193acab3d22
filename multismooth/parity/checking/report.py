"""What `check` and `compare` found, as text, HTML and JSON."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from math import isfinite
from typing import Any

from multismooth.parity.identification import WRAPPED, Identification, html_table

MARKS = {"pass": "✓", "fail": "✗", "remark": "!", "skip": "–"}


@dataclass(frozen=True)
class Outcome:
    """The result of one trial on one case. `difference` is relative and may be as large as `tolerance`."""

    trial: str
    case: str
    status: str  # "pass", "fail", "remark" or "skip"
    message: str = ""
    difference: float | None = None
    tolerance: float | None = None
    dtype: str = "float64"

    def __str__(self):
        return f"{self.trial} ({self.case}): {self.message}" if self.message else f"{self.trial} ({self.case})"


@dataclass(frozen=True, eq=False)
class Report:
    """Whether two losses agree, and if not, where they first differ and what would make them agree.

    Attributes:
        subject, against: what was compared with what.
        outcomes: every trial on every case; `first` is the first that failed.
        advice: what differs, and what to pass so that nothing does.
        code: the smallest failing case that was found, as Python to paste; "" when nothing failed.
        identified: the losses as `parity.identify` reads them, if something failed.
    """

    subject: str
    against: str
    outcomes: tuple[Outcome, ...]
    advice: tuple[str, ...] = ()
    code: str = ""
    identified: tuple[Identification, ...] = ()

    def __bool__(self):
        return self.first is None

    @property
    def first(self) -> Outcome | None:
        """The first outcome that failed, or None."""
        return next((outcome for outcome in self.outcomes if outcome.status == "fail"), None)

    def raise_if_failed(self) -> None:
        """Raise AssertionError with this report as its text, if anything failed."""
        if not self:
            raise AssertionError(f"\n{self}")

    def __str__(self):
        lines = [f"{self.subject} {'agrees' if self else 'does not agree'} with {self.against}: {self._counts()}"]
        if self.first:
            lines.append(f"first    {self.first}")
        lines += [f"because  {text}" for text in self.advice]
        lines += [f"remark   {outcome}" for outcome in self._with_status("remark")]
        lines += [f"skipped  {text}" for text in self._skips()]
        if self.code:
            lines += ["", "The smallest failing case:", "", *(f"    {line}".rstrip() for line in self.code.split("\n"))]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self):
        head, *more = str(self).split("\n\n")[0].split("\n")
        text = "".join(f"<br><b>{escape(line[:8].strip())}</b> {escape(line[8:].strip())}" for line in more)
        code = f'<pre style="{WRAPPED};white-space:pre-wrap">{escape(self.code)}</pre>' if self.code else ""
        everything = f"<details><summary>every case</summary>{_html_table(self.outcomes)}</details>"
        return f'<p style="{WRAPPED}"><b>{escape(head)}</b>{text}</p>{_html_summary(self.outcomes)}{code}{everything}'

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; a difference that is not finite is the text "inf"."""
        return {
            "passed": bool(self),
            "subject": self.subject,
            "against": self.against,
            "outcomes": [{name: _as_json(value) for name, value in asdict(o).items()} for o in self.outcomes],
            "first": None if self.first is None else str(self.first),
            "advice": list(self.advice),
            "code": self.code,
            "identified": [found.to_dict() for found in self.identified],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def _with_status(self, status):
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def _counts(self):
        counts = Counter(outcome.status for outcome in self.outcomes)
        remarks = "remark" if counts["remark"] == 1 else "remarks"
        texts = {"pass": "passed", "fail": "failed", "remark": remarks, "skip": "skipped"}
        return ", ".join(f"{counts[status]} {text}" for status, text in texts.items() if counts[status])

    def _skips(self):
        """One line per trial that was skipped, however many cases it has."""
        return list({o.trial: f"{o.trial}: {o.message}" for o in self._with_status("skip")}.values())


def _html_summary(outcomes):
    """One row for each trial: how many cases ended how, the largest difference, and the first failure or remark."""
    rows = []
    for trial in dict.fromkeys(outcome.trial for outcome in outcomes):
        of_trial = [outcome for outcome in outcomes if outcome.trial == trial]
        worst = min(of_trial, key=lambda outcome: ["fail", "remark", "pass", "skip"].index(outcome.status))
        passed = sum(outcome.status == "pass" for outcome in of_trial)
        differences = [outcome.difference for outcome in of_trial if outcome.difference is not None]
        largest = f"{max(differences):.1e}" if differences else ""
        rows.append((MARKS[worst.status], trial, f"{passed} of {len(of_trial)}", largest, worst.message))
    return html_table(rows, ("", "trial", "passed", "largest difference", "first"))


def _html_table(outcomes):
    rows = [
        (MARKS[o.status], o.trial, o.case, "" if o.difference is None else f"{o.difference:.1e}", o.message)
        for o in outcomes
    ]
    return html_table(rows, ("", "trial", "case", "difference", "message"))


def _as_json(value):
    return "inf" if isinstance(value, float) and not isfinite(value) else value
