"""Pages: one self-contained HTML file, of one style, for light and dark, wide and narrow screens."""

from __future__ import annotations

import re
from html import escape

from multismooth.pages.drawing import DARK, LIGHT, Panel

STYLE = """
:root { color-scheme: light dark; --good: #15803d; --bad: #b91c1c; %(light)s }
@media (prefers-color-scheme: dark) { :root { --good: #4ade80; --bad: #f87171; %(dark)s } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem;
       background: var(--paper); color: var(--ink);
       font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, "Liberation Serif", serif }
p, h1, h2 { max-width: 40rem }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .4rem; color: var(--soft) }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3.5rem 0 .5rem }
.verdict { font-size: clamp(1.5rem, 4.2vw, 2.15rem); line-height: 1.25; margin: 0 0 1rem; max-width: 46rem;
           text-wrap: balance }
.verdict b { color: var(--good); font-weight: 600 }
.verdict.bad b { color: var(--bad) }
.digits { display: block; width: 100%%; max-width: 46rem; height: auto; margin: 1.5rem 0;
          image-rendering: pixelated }
@media (prefers-color-scheme: dark) { .digits { filter: invert(1) } }
.panels { display: grid; gap: 1rem 1.5rem; margin: 1.25rem 0; --least: 19rem;
          grid-template-columns: repeat(auto-fill, minmax(min(100%%, var(--least)), 1fr)) }
.panels.wide { --least: 26rem }
.panels svg { display: block; width: 100%%; height: auto }
.scroll { overflow-x: auto; margin: 1.25rem 0 }
table { border-collapse: collapse; font: .9rem/1.4 ui-sans-serif, system-ui, "Liberation Sans", sans-serif;
        font-variant-numeric: tabular-nums }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--rule) }
th { font-weight: 500; color: var(--soft); vertical-align: bottom }
td.name, th.name { text-align: left }
td.words { text-align: left; white-space: normal; overflow-wrap: anywhere }
td.words small { display: block; color: var(--soft) }
.number { white-space: nowrap }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
.note, footer { color: var(--soft); font-size: .95rem }
footer { margin-top: 4rem; border-top: 1px solid var(--rule) }
"""


def document(title: str, parts: list[str]) -> str:
    """A whole page of these sections. It fetches nothing."""
    variables = {
        name: " ".join(f"--{key}: {colour};" for key, colour in palette.items())
        for name, palette in (("light", LIGHT), ("dark", DARK))
    }
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>{STYLE % variables}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def scientific(value: float) -> str:
    """7.9e-14, and 1e-9 for 1e-09, 0 for 0: two digits, no filling zeros."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if exponent and value else digits.removesuffix(".0")


def prose(text: str) -> str:
    """Text as HTML that has no line break inside a number such as 1e-15."""
    return re.sub(r"[\d.]+e-\d+", r'<span class="number">\g<0></span>', escape(text))


def number(value: float) -> str:
    return prose(scientific(value))


def panels_of(panels: list[Panel], kind: str = "") -> str:
    """Drawings side by side, as many as fit."""
    drawings = "\n".join(panel.svg for panel in panels)
    return f'<div class="panels {kind}">\n{drawings}\n</div>'


def table(columns: list[str], rows: list[str]) -> str:
    """A table that scrolls where it does not fit. Rows are HTML cells."""
    head = "".join(f"<th{' class=name' if i == 0 else ''}>{escape(text)}</th>" for i, text in enumerate(columns))
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
