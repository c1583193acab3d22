"""Panels: small drawings in one style, which a page shows side by side in the colours of its theme.

A panel is drawn once, in the light palette. In its SVG the colours become CSS variables, so that one drawing fits the
light and the dark page. Its PNG keeps the light palette.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = {
    "paper": "#fcfcfa",
    "ink": "#1b1f24",
    "soft": "#5f6670",
    "rule": "#dfe2e6",
    "torch": "#c2410c",
    "flax": "#0f766e",
    "all": "#2563eb",
    "others": "#b45309",
    "e0": "#7b8494",
    "e1": "#0891b2",
    "e2": "#2f6df0",
    "e3": "#7c3aed",
    "e4": "#be185d",
}
DARK = {
    "paper": "#16181c",
    "ink": "#e8e6e1",
    "soft": "#a0a7b1",
    "rule": "#383d45",
    "torch": "#fb923c",
    "flax": "#2dd4bf",
    "all": "#60a5fa",
    "others": "#fbbf24",
    "e0": "#98a1b0",
    "e1": "#22d3ee",
    "e2": "#6ea0ff",
    "e3": "#a78bfa",
    "e4": "#f472b6",
}
PAPER, INK, SOFT, RULE = (LIGHT[name] for name in ("paper", "ink", "soft", "rule"))
NARROW, WIDE = (3.5, 2.7), (4.7, 3.1)

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Panel:
    """A finished drawing: a name for its file, a description in words, and the drawing as SVG."""

    name: str
    description: str
    svg: str
    figure: Figure

    def png(self) -> bytes:
        """The same as PNG, which takes as long to draw."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        with rc_context(STYLE):
            self.figure.savefig(buffer, format="png", dpi=200, facecolor=LIGHT["paper"])
        return buffer.getvalue()


@contextmanager
def drawn(panels: list[Panel], name: str, description: str, size: tuple[float, float] = NARROW) -> Iterator[Axes]:
    """Axes to draw on. On exit, the finished panel is appended to `panels`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.add_subplot()
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # with any, even "none", each file is drawn twice
        panels.append(Panel(name, description, _svg(figure, name, description), figure))


def _svg(figure: Figure, name: str, description: str) -> str:
    """SVG for inclusion in a page: of fluid width, in theme colours, with identifiers that no other panel has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    accessible = f'role="img" aria-label="{escape(description)}"'
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', accessible, text, count=1)
    for key, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{key})")
    for reference in ('id="', 'href="#', "url(#"):
        text = text.replace(reference, f"{reference}{name}-")
    return text
