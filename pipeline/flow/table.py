"""What a run prints at its end: the table of networks, and the lines to type next."""

import json
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import Workspace
from pipeline.artifacts.places import is_remote


def closing_lines(workspace: Workspace, name: str) -> str:
    """The table of a finished run with where things are."""
    folder = workspace.run(name)
    summary = json.loads((folder / "summary.json").read_text())
    return "\n".join([*_table(summary), "", *_seconds(summary), "", *_next(workspace, folder, summary)])


def _table(summary: dict[str, Any]) -> list[str]:
    networks = summary["networks"]
    wide = max(30, *(len(row["name"]) for row in networks))
    split = f"top-1 {summary['split']}"
    columns = f"{'95 % interval':>15} {'train':>8} {'parameters':>11} {'MFLOPs':>9} {'steps':>6}"
    head = f"{'network':<{wide}} {split:>13}  {columns}"
    rows = [_line(row, wide) for row in networks]
    return [head, "-" * len(head), *rows, *_majority(summary, wide), "", *_said(summary)]


def _line(row: dict[str, Any], wide: int) -> str:
    spread = "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"
    top1 = f"{100 * row['top1']:.1f}{spread} %"
    train = "–" if row["train_top1"] is None else f"{100 * row['train_top1']:.1f} %"
    return (
        f"{row['name']:<{wide}} {top1:>13}  {_bounds(row['low'], row['high']):>15} {train:>8} {row['params']:>11,} "
        f"{row['flops'] / 1e6:>9.2f} {row['steps'] or '–':>6}"
    )


def _majority(summary: dict[str, Any], wide: int) -> list[str]:
    found = summary["majority"]
    if found is None:
        return []
    interval, share = found["top1_interval"], f"{100 * found['top1']:.1f} %"
    return [f"{'largest training class':<{wide}} {share:>13}  {_bounds(interval['low'], interval['high']):>15}"]


def _bounds(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"


def _said(summary: dict[str, Any]) -> list[str]:
    """The student's differences with their words, the room, and what the figures are not."""
    mine = [item for item in summary["comparisons"] if item["first"] == "student"]
    seeds = max(len(row["replicates"]) for row in summary["networks"])
    spread = f"±: s.d. over {seeds} seeds; intervals cover seeds and videos" if seeds > 1 else ""
    missing = sorted({row["interval"] for row in summary["networks"] if row["low"] is None})
    return [*map(_difference, mine), _gap(summary["room"]), *filter(None, [spread, *missing, summary["selected"]])]


def _gap(room: dict[str, Any]) -> str:
    share = room["gap_recovered"]
    if share is None:
        return str(room["gap_reason"])
    return f"share of the gap between cross-entropy and teacher recovered: {share:.0%}"


def _difference(item: dict[str, Any]) -> str:
    size = f"{100 * item['difference']:+.1f} points"
    if item["low"] is not None:
        size += f" ({100 * item['low']:+.1f} to {100 * item['high']:+.1f})"
    return f"{item['first']} against {item['second']}: {item['word']}, {size}"


def _seconds(summary: dict[str, Any]) -> list[str]:
    seconds = summary["seconds"]
    parts = f"{seconds['startup']:.0f} s start-up of Ray and workers, {seconds['work']:.0f} s work"
    return [f"{seconds['total']:.0f} s in all: {parts}"]


def _next(workspace: Workspace, folder: Path, summary: dict[str, Any]) -> list[str]:
    return [
        f"report:        {folder / 'report.html'}",
        f"MLflow:        .venv/bin/mlflow server --backend-store-uri {workspace.tracking_uri} --port 5000 --workers 1",
        f"try it:        .venv/bin/stagedkd predict {summary['sample']} --model {_export(workspace, summary)}",
        "your videos:   .venv/bin/stagedkd run jobs/recipes/videos.yaml --set manifest.root=DIR",
    ]


def _export(workspace: Workspace, summary: dict[str, Any]) -> str:
    shown = str(summary["export"])
    return shown if is_remote(shown) else str(workspace.root / shown)
