"""The report's smaller figures as SVG data URIs: curves, confusion, moved labels, times."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pipeline.report.canvas import INK, LINES, SOFT, canvas, svg
from pipeline.report.facts import Confusion, PhaseSpan, StepTime
from pipeline.report.words import short

MANY_POINTS = 80
CLASSES_WITH_NAMES, CLASSES_WITH_COUNTS = 32, 12


def curve_panel(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], phases: Sequence[PhaseSpan], *, title: str
) -> str:
    """SVG of some curves over steps, phases as shaded bands; long ones get a running mean over the faint raw line."""
    with canvas(5.2, 3.3) as (figure, axes):
        for index, (name, (steps, values)) in enumerate(lines.items()):
            _draw_curve(axes, np.asarray(steps, float), np.asarray(values, float), name, LINES[index % len(LINES)])
        _shade(axes, phases)
        axes.set_title(title, loc="left", fontsize=10, pad=14 if phases else 6)
        axes.set_xlabel("step")
        axes.margins(x=0)
        axes.legend(fontsize=7.5, frameon=False, ncols=2 if len(lines) > 4 else 1)
        return svg(figure)


def confusion_matrix(confusion: Confusion) -> str:
    """SVG of the row-normalised matrix; names up to 32 classes, counts up to 12."""
    counts = np.asarray(confusion.counts, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(2.2 + 0.26 * len(counts), 4.2, 8.6))
    with canvas(size + 0.9, size) as (figure, axes):
        image = axes.imshow(shares, cmap="Greens", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.grid(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("given label")
        _class_ticks(axes, confusion.classes)
        if len(counts) <= CLASSES_WITH_COUNTS:
            _cell_counts(axes, counts, shares)
        figure.colorbar(
            image, ax=axes, shrink=0.7, format=PercentFormatter(1.0), label="share of the row (square-root colours)"
        )
        return svg(figure)


def flips_per_class(per_class: Mapping[str, tuple[int, int]], *, most: int = 24) -> str | None:
    """SVG bars: labels moved away from each class (left) and to it (right), the `most` moved classes."""
    moved = sorted(((sum(pair), name, pair) for name, pair in per_class.items() if sum(pair)), reverse=True)[:most]
    if not moved:
        return None
    places = np.arange(len(moved))[::-1]
    with canvas(6.4, 1.0 + 0.24 * len(moved)) as (figure, axes):
        axes.barh(places, [-pair[0] for _, _, pair in moved], color="#d98324", label="moved away")
        axes.barh(places, [pair[1] for _, _, pair in moved], color="#0f9d78", label="moved here")
        axes.axvline(0, color="#9aa5b1", linewidth=0.8)
        axes.set_yticks(places, [short(name, 28) for _, name, _ in moved])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
        axes.set_xlabel("videos")
        axes.grid(axis="y", visible=False)
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return svg(figure)


def timing_bars(timings: Sequence[StepTime]) -> str | None:
    """SVG bars of start-up and work seconds per step, steps found by their key left out."""
    done = [step for step in timings if not step.skipped and step.startup_s + step.work_s > 0]
    if not done:
        return None
    places = np.arange(len(done))[::-1]
    startup = np.array([step.startup_s for step in done])
    with canvas(7.4, 1.0 + 0.28 * len(done)) as (figure, axes):
        axes.barh(places, startup, color="#c3ccd6", label="start-up")
        axes.barh(places, [step.work_s for step in done], left=startup, color="#3b7fc4", label="work")
        axes.set_yticks(places, [short(step.step, 32) for step in done])
        axes.set_xlabel("seconds")
        axes.grid(axis="y", visible=False)
        axes.legend(fontsize=8, frameon=False, loc="best")
        return svg(figure)


def running_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over `half` points to each side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    if len(steps) < MANY_POINTS:
        axes.plot(steps, values, color=colour, linewidth=1.4, label=name, marker="o" if len(steps) == 1 else None)
        return
    axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.25)
    axes.plot(steps, running_mean(values, max(len(values) // 40, 2)), color=colour, linewidth=1.5, label=name)


def _shade(axes: Axes, phases: Sequence[PhaseSpan]) -> None:
    total = max((phase.stop for phase in phases), default=0)
    for index, phase in enumerate(phases):
        axes.axvspan(phase.first_step, phase.stop, color="#f5f8fb" if index % 2 else "#e2eaf2", zorder=0, linewidth=0)
        middle = (phase.first_step + phase.stop) / 2
        wide = (phase.stop - phase.first_step) > 0.2 * total
        text = phase.name if wide else phase.name.split()[-1]
        axes.text(middle, 1.01, text, transform=axes.get_xaxis_transform(), ha="center", fontsize=7, color=SOFT)


def _class_ticks(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) > CLASSES_WITH_NAMES:
        return
    names = [short(name, 22) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)


def _cell_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.3 else INK
        axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", fontsize=7.5, color=colour)
