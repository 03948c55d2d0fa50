"""What each network reaches (the picture for the README), and accuracy against cost."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.report.answers import answers
from pipeline.report.canvas import COLOURS, SOFT, canvas, svg
from pipeline.report.facts import NetworkRow, ReportFacts
from pipeline.report.words import count, interval, percent, short

MARKS = {"teacher": "s", "assistant": "D", "student": "o", "control": "^"}


def accuracy_against_cost(networks: Sequence[NetworkRow]) -> str | None:
    """SVG of top-1 against FLOPs with names; None without a network that has both."""
    shown = _with_cost(networks)
    if not shown:
        return None
    with canvas(8.2, 4.3) as (figure, axes):
        _draw_cost(axes, shown)
        return svg(figure)


def accuracy_by_method(facts: ReportFacts) -> str | None:
    """SVG of `main_figure`; None without an evaluated network."""
    rows = _scored(facts)
    if not rows:
        return None
    with canvas(8.2, _height(facts)) as (figure, axes):
        _draw_methods(figure, axes, rows, facts)
        return svg(figure)


def main_figure(path_png: Path, facts: ReportFacts) -> bool:
    """Write top-1 of each network with its interval as a PNG (for the README); False and no file without a network.

    Controls without the teacher, controls with it, the student, the teacher from top to bottom; below, what the teacher
    buys and what staging adds, in the words of their paired differences.
    """
    rows = _scored(facts)
    if not rows:
        return False
    with canvas(8.2, _height(facts)) as (figure, axes):
        _draw_methods(figure, axes, rows, facts)
        axes.set_title(facts.run or facts.title, loc="left", fontsize=10, color=SOFT)
        figure.savefig(path_png, format="png", dpi=160, metadata={"Software": None})
    return True


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart to at least `gap`, order kept, each cluster centred on where its members wanted to be."""
    order = np.argsort(positions, kind="stable")
    clusters: list[list[float]] = []  # [sum of (wanted - own offset), members]
    for index in order:
        clusters.append([float(positions[index]), 1])
        while len(clusters) > 1 and _top(clusters[-2], gap) > clusters[-1][0] / clusters[-1][1]:
            total, members = clusters.pop()
            clusters[-1] = [clusters[-1][0] + total - gap * clusters[-1][1] * members, clusters[-1][1] + members]
    placed = [
        start + gap * k for start, members in ((c[0] / c[1], int(c[1])) for c in clusters) for k in range(members)
    ]
    result = np.empty(len(order))
    result[order] = placed
    return result.tolist()


def round_values(log_low: float, log_high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two decimal logarithms; powers alone over more than three decades."""
    leading = (1, 2, 5) if log_high - log_low <= 3 else (1,)
    powers = range(math.floor(log_low), math.ceil(log_high) + 1)
    values = [digit * 10.0**power for power in powers for digit in leading]
    return [value for value in values if log_low <= math.log10(value) <= log_high]


def _scored(facts: ReportFacts) -> list[NetworkRow]:
    """Networks with a top-1 in the order of the figure, each kind by accuracy."""
    kinds = {"control": 1, "assistant": 2, "student": 3, "teacher": 4}
    scored = [row for row in facts.networks if row.top1 is not None]
    return sorted(scored, key=lambda row: (kinds[row.role] - (row.role == "control" and not row.taught), row.top1 or 0))


def _height(facts: ReportFacts) -> float:
    return 1.5 + 0.38 * len(_scored(facts)) + 0.2 * len(answers(facts))


def _draw_methods(figure: Figure, axes: Axes, rows: Sequence[NetworkRow], facts: ReportFacts) -> None:
    for place, row in enumerate(rows):
        _method(axes, row, float(len(rows) - 1 - place))
    if facts.majority is not None:
        axes.axvline(facts.majority.top1, color=SOFT, linewidth=0.9, linestyle=":", zorder=1)
        bounds = interval(facts.majority.low, facts.majority.high) or "no interval"
        label = f"always the largest class {percent(facts.majority.top1)} ({bounds})"
        axes.text(facts.majority.top1, len(rows) - 0.45, label, fontsize=7.5, color=SOFT, ha="left", va="bottom")
    axes.set_yticks([])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.68 * (high - low), high + 0.08 * (high - low))
    axes.set_xticks([value for value in axes.get_xticks() if max(low, 0.0) <= value <= 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    said = "\n".join(answers(facts))
    axes.set_xlabel(f"top-1 per video, {facts.split} split, with 95 % intervals" + (f"\n\n{said}" if said else ""))


def _method(axes: Axes, row: NetworkRow, height: float) -> None:
    assert row.top1 is not None
    colour = COLOURS[row.role]
    if row.low is not None and row.high is not None:
        axes.hlines(height, row.low, row.high, color=colour, linewidth=2.2, alpha=0.6)
    if len(row.replicates) > 1:
        axes.scatter(row.replicates, [height] * len(row.replicates), s=9, color=colour, alpha=0.8, zorder=4)
    axes.scatter([row.top1], [height], s=62, marker=MARKS[row.role], color=colour, edgecolor="white", zorder=3)
    axes.annotate(
        f"{short(row.name, 34)}  {percent(row.top1)} ({interval(row.low, row.high) or 'no interval'})",
        xy=(0.01, height),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        color=colour,
        fontweight="bold" if row.role == "student" else "normal",
    )


def _top(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] + gap * cluster[1]


def _with_cost(networks: Sequence[NetworkRow]) -> list[NetworkRow]:
    return [row for row in networks if row.top1 is not None and row.flops]


def _draw_cost(axes: Axes, rows: Sequence[NetworkRow]) -> None:
    log_flops = np.log10([float(row.flops or 1) for row in rows])
    width = max(float(np.ptp(log_flops)), 1.0)
    _cost_axes(axes, rows, log_flops, width)
    shifted = log_flops + _side_by_side(log_flops, width)
    labels = _label_heights(axes, rows, log_flops, width)
    # the cheapest networks (the student and its controls) are named to their left, where nothing else stands
    left = log_flops == log_flops.min()
    for index, row in enumerate(rows):
        column = shifted[log_flops == log_flops[index]]
        label_x = column.min() - 0.03 * width if left[index] else column.max() + 0.03 * width
        _point(axes, row, shifted[index], (label_x, labels[index]), "right" if left[index] else "left")


def _cost_axes(axes: Axes, rows: Sequence[NetworkRow], log_flops: np.ndarray, width: float) -> None:
    bounds = [value for row in rows for value in (row.top1, row.low, row.high) if value is not None]
    half = max(max(bounds) - min(bounds), 0.05) / 2
    middle = (max(bounds) + min(bounds)) / 2
    axes.set_ylim(middle - 1.24 * half, min(middle + 1.24 * half, 1.02))
    axes.set_xlim(log_flops.min() - 0.7 * width, log_flops.max() + 0.6 * width)
    ticks = round_values(*axes.get_xlim())
    axes.set_xticks(np.log10(ticks), [count(value).replace(".00 ", " ").replace(".0 ", " ") for value in ticks])
    axes.set_yticks([value for value in axes.get_yticks() if axes.get_ylim()[0] <= value <= 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("FLOPs per clip (logarithmic)")
    axes.set_ylabel("top-1 per video")


def _side_by_side(log_flops: np.ndarray, width: float) -> np.ndarray:
    """Small shifts so that error bars of equal cost do not lie on each other."""
    shifts = np.zeros(len(log_flops))
    for value in np.unique(log_flops):
        same = np.flatnonzero(log_flops == value)
        step = min(0.014, 0.08 / len(same)) * width
        shifts[same] = step * (np.arange(len(same)) - (len(same) - 1) / 2)
    return shifts


def _label_heights(axes: Axes, rows: Sequence[NetworkRow], log_flops: np.ndarray, width: float) -> np.ndarray:
    """Where the names stand: those whose columns are closer than a name is wide are spread together."""
    low, high = axes.get_ylim()
    heights = np.array([row.top1 or 0.0 for row in rows])
    columns = np.unique(log_flops)
    far = np.diff(columns) > 0.5 * width
    far[:1] = True  # the cheapest column is named on its other side
    cluster_of = dict(zip(columns.tolist(), np.concatenate([[0], np.cumsum(far)]).tolist(), strict=True))
    clusters = np.array([cluster_of[value] for value in log_flops.tolist()])
    for cluster in np.unique(clusters):
        same = np.flatnonzero(clusters == cluster)
        heights[same] = spread(heights[same].tolist(), 0.062 * (high - low))
    return heights


def _point(axes: Axes, row: NetworkRow, at: float, label: tuple[float, float], align: str) -> None:
    assert row.top1 is not None
    colour = COLOURS[row.role]
    if row.low is not None and row.high is not None:
        axes.vlines(at, row.low, row.high, color=colour, linewidth=1.4, alpha=0.65)
    size = 70 if row.role == "student" else 48
    axes.scatter([at], [row.top1], s=size, marker=MARKS[row.role], color=colour, edgecolor="white", zorder=3)
    axes.annotate(
        f"{short(row.name, 26)}  {percent(row.top1)}",
        xy=(at, row.top1),
        xytext=label,
        va="center",
        ha=align,
        color=colour,
        fontweight="bold" if row.role == "student" else "normal",
        arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
    )
