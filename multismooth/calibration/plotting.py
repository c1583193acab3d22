"""Pictures of calibration by matplotlib, which is imported when one is drawn."""

import numpy as np

from multismooth.errors import require

FEWEST = 5
"""A bin with fewer predictions than this is drawn hollow, because its height is mostly chance."""


def axes_or_current(ax):
    """The caller's Axes, or matplotlib's current ones."""
    require("matplotlib", "plot")
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.gca()


def reliability_diagram(curve, ax=None, *, colour="C0", soft="0.5", rule="0.87", paper="white"):
    """Accuracy against confidence with exact intervals; grey bars are the share of predictions in each bin."""
    ax = axes_or_current(ax)
    filled = curve.count > 0
    share = curve.count / max(1, curve.count.sum())
    width = np.diff(curve.edges)
    ax.bar(curve.edges[:-1] + width / 2, share, width=0.9 * width, color=rule)
    ax.plot([0, 1], [0, 1], color=soft, linewidth=0.9, linestyle=(0, (3, 2)))
    confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
    if np.isfinite(curve.low[filled]).any():
        ax.vlines(confidence, curve.low[filled], curve.high[filled], color=colour, linewidth=1)
    else:
        ax.vlines(confidence, confidence, accuracy, color=colour, linewidth=1)
    faces = [colour if count >= FEWEST else paper for count in curve.count[filled]]
    ax.scatter(confidence, accuracy, s=14 + 110 * share[filled], c=faces, edgecolors=colour, zorder=3, clip_on=False)
    ax.set(xlabel="confidence", ylabel="share correct", xlim=(0, 1), ylim=(0, 1.02))
    return ax


def confidence_histogram(curve, ax=None, *, colour="C0", soft="0.5"):
    """The share of predictions in each bin of confidence, with the mean confidence and the accuracy as lines."""
    ax = axes_or_current(ax)
    share, width = curve.count / max(1, curve.count.sum()), np.diff(curve.edges)
    ax.bar(curve.edges[:-1] + width / 2, share, width=0.9 * width, color=colour)
    filled = curve.count > 0
    accuracy = np.average(curve.accuracy[filled], weights=curve.count[filled]) if filled.any() else np.nan
    ax.axvline(curve.mean_confidence, color=colour, linewidth=1.2, linestyle=(0, (1, 1.5)), label="mean confidence")
    ax.axvline(accuracy, color=soft, linewidth=1.2, linestyle=(0, (4, 2)), label="accuracy")
    ax.set(xlabel="confidence", ylabel="share of predictions", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(loc="upper left")
    return ax


def risk_coverage_curve(found, ax=None, *, colour="C0", soft="0.5"):
    """The risk among the predictions of the highest scores, against their share; dashed: all errors last."""
    ax = axes_or_current(ax)
    n = len(found.risk)
    ax.plot(found.coverage, found.risk, color=colour)
    if n:
        k = np.arange(1, n + 1)
        best = np.maximum(0, k - n * (1 - found.risk[-1])) / k
        ax.plot(found.coverage, best, color=soft, linewidth=0.9, linestyle=(0, (3, 2)))
    ax.set(xlabel="coverage", ylabel="risk", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    return ax
