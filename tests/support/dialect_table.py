"""The table of docs/calibration.md: python tests/support/dialect_table.py writes it."""

from dataclasses import replace
from pathlib import Path

from calibration_data import sets, softmax

from multismooth import calibration
from multismooth.calibration import dialects

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"
MODELS = (("digits-mlp", "0.1"), ("cancer-mlp", "0.0"))
START, END = "<!-- dialects -->\n", "<!-- /dialects -->"


def table():
    lines = ["| name | what it computes | whose | digits | two classes |", "| --- | --- | --- | --- | --- |"]
    groups: dict[calibration.ErrorConvention, list[calibration.ErrorConvention]] = {}
    for entry in calibration.conventions.values():
        groups.setdefault(replace(entry, name="", source=""), []).append(entry)
    for convention, entries in groups.items():
        errors = [
            calibration.expected_calibration_error(*sets()[model][2:], convention=convention, bins=15)
            for model in MODELS
        ]
        names, sources = ", ".join(f"`{e.name}`" for e in entries), "; ".join(e.source for e in entries)
        lines.append(_row(names, str(convention), sources, errors))
    for name, other in dialects.OTHERS.items():
        errors = [other.error(softmax(sets()[model][2]), sets()[model][3], 15) for model in MODELS]
        what, _, whose = other.text.rstrip(")").rpartition(" (")
        lines.append(_row(name.replace("_", " "), what, whose, errors))
    return "\n".join(lines) + "\n"


def _row(name, what, whose, errors):
    return f"| {name} | {what} | {whose} | {' | '.join(f'{error:.4f}' for error in errors)} |"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    PAGE.write_text(before + START + table() + END + rest.split(END)[1], encoding="utf-8")
