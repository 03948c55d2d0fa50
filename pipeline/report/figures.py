"""Accuracy against cost: in the report, and as the picture for the README."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pipeline.report.canvas import COLOURS, SOFT, canvas, svg
from pipeline.report.facts import NetworkRow, ReportFacts
from pipeline.report.words import count, short

MARKS = {"teacher": "s", "assistant": "D", "student": "o", "control": "^"}


def accuracy_against_cost(networks: Sequence[NetworkRow]) -> str | None:
    """SVG of top-1 against FLOPs with names; None without a network that has both."""
    shown = _with_cost(networks)
    if not shown:
        return None
    with canvas(8.2, 4.3) as (figure, axes):
        _draw_cost(axes, shown)
        return svg(figure)


def main_figure(path_png: Path, facts: ReportFacts) -> bool:
    """Write accuracy against FLOPs with names as a PNG (for the README); False and no file without such a network."""
    shown = _with_cost(facts.networks)
    if not shown:
        return False
    with canvas(8.2, 4.3) as (figure, axes):
        _draw_cost(axes, shown)
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
    axes.set_ylabel("top-1 per video, test")


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
        f"{short(row.name, 26)}  {row.top1:.1%}",
        xy=(at, row.top1),
        xytext=label,
        va="center",
        ha=align,
        color=colour,
        fontweight="bold" if row.role == "student" else "normal",
        arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
    )
