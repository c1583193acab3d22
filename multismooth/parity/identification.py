"""What `identify` found, as text, HTML and JSON."""

from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any

from multismooth.convention import DIVIDES_BY, Convention
from multismooth.errors import complain
from multismooth.parity.identifying.probes import Reading


@dataclass(frozen=True, eq=False)
class Identification:
    """What a black box computes: a reading of it as a Convention with arguments, or None and the reason.

    Attributes:
        convention, label_smoothing, reduction, ignore_index, weight, prior, z_loss, normalizer: under these,
            `multismooth.loss` is fn; `settings()` has them as keyword arguments. All None when nothing fits.
        names: the registry's names that do the same, those with this ε and this ignored label first.
        readings: every reading that answers alike, this one first; `smoothing` has the ε of each name.
        residual: the largest relative difference of loss and gradient on a problem that was not used to find this.
        why: why nothing fits; "" when something does. notes: what else was seen.
        asked: how fn was called.
    """

    readings: tuple[Reading, ...] = ()
    names: tuple[str, ...] = ()
    smoothing: dict[str, float] | None = None
    residual: float = float("inf")
    why: str = ""
    notes: tuple[str, ...] = ()
    asked: dict[str, Any] | None = None

    def __bool__(self):
        return bool(self.readings)

    def __getattr__(self, name):
        if name not in _OF_THE_READING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.readings[0], name) if self.readings else None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `multismooth.loss` (normalizer="sentences": pass the length of the first axis)."""
        if not self.readings:
            raise complain("settings", "a function that was identified", "none", f"Why: {self.why}.")
        return self.readings[0].settings("sentences")

    def __str__(self):
        return "\n".join(f"{head:<12}{text}".rstrip() for head, text in self._lines())

    __repr__ = __str__

    def _repr_html_(self):
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(head)}</th><td style="text-align:left">{escape(text)}</td></tr>'
            for head, text in self._lines()
        )
        return f"<table>{rows}</table>"

    def _lines(self):
        if self.readings:
            best = self.readings[0]
            yield "computes", formula(best)
            yield "settings", settings_text(best)
            yield "divides by", divisor_text(best)
            yield "ignores", "no label" if best.ignore_index is None else f"{best.ignore_index}{_scope(best)}"
            more = f" and {len(self.names) - 12} more" if len(self.names) > 12 else ""
            yield "names", ", ".join(map(self._named, self.names[:12])) + more or "none in the registry"
            for other in self.readings[1:5]:
                yield "or", settings_text(other) + " (the same on every problem tried)"
            if len(self.readings) > 5:
                yield "or", f"{len(self.readings) - 5} more that are the same on every problem tried: see .readings"
            yield "residual", f"{self.residual:.1e} on a problem not used to find this"
        else:
            yield "computes", "no convention of this family"
            yield "because", self.why
        for note in self.notes:
            yield "note", note
        if self.asked:
            yield "asked", ", ".join(f"{name} {value}" for name, value in self.asked.items())

    def _named(self, name):
        eps = (self.smoothing or {}).get(name)
        return name if eps is None or eps == self.label_smoothing else f"{name} (ε = {eps:.6g})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "readings": [_plain(reading) for reading in self.readings],
            "names": list(self.names),
            "smoothing": self.smoothing or {},
            "residual": self.residual if self.readings else None,
            "why": self.why,
            "notes": list(self.notes),
            "asked": self.asked or {},
        }


_OF_THE_READING = tuple(f.name for f in fields(Reading))


def _plain(reading):
    values = {name: getattr(reading, name) for name in _OF_THE_READING}
    for name in ("weight", "prior"):
        values[name] = None if values[name] is None else values[name].tolist()
    convention = asdict(reading.convention)
    return values | {"convention": convention | {"exclude": list(convention["exclude"])}}


def formula(reading):
    """The loss of one element, as text."""
    convention, eps = reading.convention, f"{reading.label_smoothing:.6g}"
    mass = f"{eps}/(1 + {eps})" if convention.smoothing_map == "classy" else eps
    where = "1/K" if reading.prior is None else "prior"
    if convention.exclude:
        where += f" (none on {', '.join(map(str, convention.exclude))})"
    mass += "·K/(K − 1)" if convention.spread == "others" else ""
    weighted = "" if reading.weight is None else {"per_term": " w"}.get(convention.class_weights, " (w)")
    entropy = f" + Σ{weighted} q log q" if convention.objective == "kl" else ""
    lse = f" + {reading.z_loss:.6g}·lse²" if reading.z_loss else ""
    scale = f"{convention.scale:.6g} × (" if convention.scale != 1 else ""
    return (
        f"{scale}−Σ{weighted} q log p{entropy}{lse}{')' if scale else ''},  "
        f"q = (1 − ε′)·onehot + ε′·{where},  ε′ = {mass}"
    )


def divisor_text(reading):
    """What the reduction divides by."""
    convention = reading.convention
    if reading.reduction != "mean":
        return {"sum": "nothing: the sum", "none": "nothing: one loss per element"}[reading.reduction]
    text = DIVIDES_BY[convention.denominator]
    if reading.normalizer is not None:
        text = "the sentences" if reading.normalizer == "sentences" else f"{reading.normalizer:.6g}"
    if convention.smooth_denominator:
        text += f"; the smoothing term by {DIVIDES_BY[convention.smooth_denominator]}"
    if convention.z_loss_denominator:
        text += f"; lse² by {DIVIDES_BY[convention.z_loss_denominator]}"
    if convention.denominator_add:
        text += f"; plus {convention.denominator_add:.6g}"
    return text if convention.denominator_floor is None else f"{text}; at least {convention.denominator_floor:.6g}"


def changed(convention):
    """{field: value} of what a convention means that a plain Convention does not."""
    meant = {f.name: f.default for f in fields(Convention) if f.compare}
    return {name: getattr(convention, name) for name in meant if getattr(convention, name) != meant[name]}


def settings_text(reading):
    """The reading as arguments, leaving out what a plain Convention has anyway."""
    own = ", ".join(f"{name}={_short(value)}" for name, value in changed(reading.convention).items())
    settings = reading.settings("sentences") | {"convention": f"Convention({own})"}
    return ", ".join(
        f"{name}={value if name == 'convention' else _short(value)}"
        for name, value in settings.items()
        if not (name == "ignore_index" and value is None)
    )


def _short(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    if getattr(value, "ndim", 0):
        shown = ", ".join(f"{x:.4g}" for x in value[:8])
        return f"[{shown}{', …' if len(value) > 8 else ''}]"
    return repr(value)


def _scope(reading):
    return " in the label's term only" if reading.convention.ignore_scope == "nll_only" else ""
