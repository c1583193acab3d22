"""Draw one target row under three conventions: docs/images/target_rows.svg and .png.

The label is class 1 of K = 4 and ε = 0.3. Run: python examples/target_rows.py [directory]
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from multismooth import conventions

SMOOTHING, CLASSES, LABEL = 0.3, 4, 1
INK, GREY, ON, OFF = "#1f2328", "#57606a", "#1f5fa8", "#9db8d6"
PANELS = (
    ("all classes share ε", "PyTorch, Optax, Keras: ε/K each", conventions["torch"]),
    ("the other classes share ε", "fairseq, tensor2tensor: ε/(K − 1) each", conventions["others"]),
    ("padding gets nothing", "Annotated Transformer: ε/(K − 2) each", replace(conventions["others"], exclude=(0,))),
)


def draw():
    figure = Figure(figsize=(10, 3.1), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.16, h_pad=0.1)
    for axes, (title, subtitle, convention) in zip(figure.subplots(1, 3, sharey=True), PANELS, strict=True):
        row = convention.target_row(SMOOTHING, CLASSES, LABEL)
        bars = axes.bar(range(CLASSES), row, width=0.72, color=[ON if k == LABEL else OFF for k in range(CLASSES)])
        axes.bar_label(bars, [f"{q:.3g}" for q in row], padding=3, color=INK, fontsize=12)
        names = ["padding" if k in convention.exclude else f"class {k}" for k in range(CLASSES)]
        axes.set_xticks(range(CLASSES), names, color=INK, fontsize=11)
        axes.set_title(title, color=INK, fontsize=13, fontweight="bold", pad=26)
        axes.text(0.5, 1.04, subtitle, transform=axes.transAxes, ha="center", color=GREY, fontsize=11)
        axes.set(ylim=(0, 0.96), yticks=[])
        axes.tick_params(length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color("#d0d7de")
    caption = f"one target row: the label is class {LABEL}, ε = {SMOOTHING}, K = {CLASSES}"
    figure.supxlabel(caption, color=GREY, fontsize=11)
    return figure


def main(directory):
    directory.mkdir(parents=True, exist_ok=True)
    figure = draw()
    with matplotlib.rc_context({"svg.hashsalt": "multismooth", "svg.fonttype": "path"}):
        figure.savefig(directory / "target_rows.svg", metadata={"Date": None})
    figure.savefig(directory / "target_rows.png", dpi=200, metadata={"Software": None})
    return figure


if __name__ == "__main__":
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "images"
    figure = main(images)
    sums = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert all(abs(total - 1) < 1e-12 for total in sums), sums
    print(f"Three target rows, each summing to 1: {images / 'target_rows.svg'}")
