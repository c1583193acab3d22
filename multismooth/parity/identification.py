"""Identification: what `identify` found, as an object, text, HTML and JSON."""

from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any

import numpy as np

from multismooth.convention import Convention
from multismooth.errors import complain
from multismooth.parity.calling.forms import Form
from multismooth.parity.reading import Reading, call_text, denominator_text, formula, ignored_text, settings_text

WRAPPED = "overflow-wrap:anywhere"  # long calls stay inside a narrow notebook


def html_table(rows, heads=(), headed=False):
    """A table of texts for a notebook. headed: the first cell of each row is its head."""
    style = 'style="text-align:left;vertical-align:top'
    lines = ["".join(f'<th {style}">{escape(head)}</th>' for head in heads)] if heads else []
    for first, *more, last in rows:
        cells = [
            f'<th {style};white-space:nowrap">{escape(first)}</th>' if headed else f'<td {style}">{escape(first)}</td>'
        ]
        cells += [f'<td {style}">{escape(text)}</td>' for text in more]
        lines.append("".join([*cells, f'<td {style};{WRAPPED}">{escape(last)}</td>']))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


@dataclass(frozen=True, eq=False)
class Identification:
    """What a black box computes: readings of it as a Convention with arguments, or the reason why there is none.

    `convention`, `label_smoothing`, `reduction`, `ignore_index`, `weight`, `prior`, `z_loss` and `normalizer` are those
    of the first reading; under them `multismooth.loss` computes what fn computes. They are None when nothing fits.

    Attributes:
        readings: every reading that gives fn's answers, the simplest first.
        names: the registry's names that give fn's answers; names with this ε and this ignored label come first.
        smoothing: the ε of each name.
        residual: the largest relative difference of loss and gradient on a problem that was not used to find this.
        why: why nothing fits; "" when something does.
        notes: what else was observed.
        asked: how fn was called.
        family: the name of a loss that is no convention, such as a focal loss, with its parameters; else "".
        call: the call of this library that computes what fn computes, to paste; "" where there is none.
        fixed_mass: whether it is −Σ A·log softmax(z) with an A that the logits do not change, if of no convention.
        by_layout: what each layout has, where no reading fits in all that fn takes.
        form: layout, form of the targets, order and kind of the scores in which fn was called.
    """

    readings: tuple[Reading, ...] = ()
    names: tuple[str, ...] = ()
    smoothing: dict[str, float] | None = None
    residual: float = float("inf")
    why: str = ""
    notes: tuple[str, ...] = ()
    asked: dict[str, Any] | None = None
    family: str = ""
    call: str = ""
    form: Form | None = None
    by_layout: dict[str, "Identification"] | None = None
    fixed_mass: bool = False

    def __bool__(self):
        return bool(self.readings)

    @property
    def convention(self) -> Convention | None:
        """The Convention of the first reading."""
        return self.readings[0].convention if self.readings else None

    @property
    def label_smoothing(self) -> float | None:
        """ε of the first reading."""
        return self.readings[0].label_smoothing if self.readings else None

    @property
    def reduction(self) -> str | None:
        """ "mean", "sum" or "none"."""
        return self.readings[0].reduction if self.readings else None

    @property
    def ignore_index(self) -> int | None:
        """The label that fn ignores; None also where it ignores no label."""
        return self.readings[0].ignore_index if self.readings else None

    @property
    def weight(self) -> np.ndarray | None:
        """(K,) class weights; None where fn has none."""
        return self.readings[0].weight if self.readings else None

    @property
    def prior(self) -> np.ndarray | None:
        """(K,) distribution of the smoothed mass; None where it is uniform."""
        return self.readings[0].prior if self.readings else None

    @property
    def z_loss(self) -> float | None:
        """The factor of lse²; 0 where there is no z-loss."""
        return self.readings[0].z_loss if self.readings else None

    @property
    def normalizer(self) -> float | str | None:
        """The number that fn divides by, or "sentences": the length of the first axis. None where it counts itself."""
        return self.readings[0].normalizer if self.readings else None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `multismooth.loss` (normalizer="sentences": pass the length of the first axis)."""
        if not self.readings:
            raise complain("settings", "a function that was identified", "none", f"Why: {self.why}.")
        return self.readings[0].settings()

    def __str__(self):
        return "\n".join(f"{head:<12}{text}".rstrip() for head, text in self._lines())

    __repr__ = __str__

    def _repr_html_(self):
        return html_table(self._lines(), headed=True)

    def _lines(self):
        if self.readings:
            yield from self._lines_of_the_readings()
        else:
            yield "computes", self.family or "no convention of this family"
            if self.why:
                yield "because", self.why
        for note in self.notes:
            yield "note", note
        if self.asked:
            yield "asked", ", ".join(f"{name} {value}" for name, value in self.asked.items())
        if call := self.call or self._call():
            yield "call", call

    def _lines_of_the_readings(self):
        first = self.readings[0]
        yield "computes", formula(first)
        yield "settings", settings_text(first)
        yield "divides by", denominator_text(first)
        yield "ignores", ignored_text(first)
        more = f" and {len(self.names) - 12} more" if len(self.names) > 12 else ""
        yield "names", ", ".join(map(self._name_text, self.names[:12])) + more or "none in the registry"
        for other in self.readings[1:5]:
            yield "or", settings_text(other) + " (the same on every problem tried)"
        if len(self.readings) > 5:
            yield "or", f"{len(self.readings) - 5} more that are the same on every problem tried: see .readings"
        yield "residual", f"{self.residual:.1e} on a problem not used to find this"

    def _call(self):
        """The first reading as a call to paste, under its first name; "" without a reading."""
        if not self.readings:
            return ""
        name = self.names[0] if self.names else ""
        return call_text(self.readings[0], self.form, name, (self.smoothing or {}).get(name))

    def _name_text(self, name):
        eps = (self.smoothing or {}).get(name)
        return name if eps is None or eps == self.label_smoothing else f"{name} (ε = {eps:.6g})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "readings": [_as_json(reading) for reading in self.readings],
            "names": list(self.names),
            "smoothing": self.smoothing or {},
            "residual": self.residual if self.readings else None,
            "why": self.why,
            "family": self.family,
            "call": self.call or self._call(),
            "notes": list(self.notes),
            "asked": self.asked or {},
        }


def _as_json(reading):
    values = {f.name: getattr(reading, f.name) for f in fields(Reading)}
    for name in ("weight", "prior"):
        values[name] = None if values[name] is None else values[name].tolist()
    convention = asdict(reading.convention)
    return values | {"convention": convention | {"exclude": list(convention["exclude"])}}
