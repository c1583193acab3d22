"""Pages: one self-contained HTML file, of one style, for light and dark, wide and narrow screens (`templates/`)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from multismooth.pages.drawing import DARK, LIGHT


@cache
def _environment():
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("multismooth.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"prose": prose, "number": number}
    templates.globals |= {"light": LIGHT, "dark": DARK}
    return templates


def write(path: Path, template: str, **values: Any) -> None:
    """Write the page that the template makes of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_environment().get_template(template).render(values), encoding="utf-8")


def scientific(value: float) -> str:
    """7.9e-14, and 1e-9 for 1e-09, 0 for 0: two digits, no filling zeros."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if exponent and value else digits.removesuffix(".0")


def prose(text: str):
    """Text as HTML that has no line break inside a number such as 1e-15."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"[\d.]+e-\d+", r'<span class="number">\g<0></span>', str(escape(text))))


def number(value: float):
    return prose(scientific(value))
