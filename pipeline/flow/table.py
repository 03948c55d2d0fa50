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
    split = f"top-1 {summary['split']}"
    head = f"{'network':<30} {split:>11}  {'95 % interval':>15} {'parameters':>11} {'MFLOPs':>9} {'steps':>6}"
    rows = [_line(row) for row in summary["networks"]]
    recovered = summary["room"]["gap_recovered"]
    said = (
        [] if recovered is None else [f"share of the gap between cross-entropy and teacher recovered: {recovered:.0%}"]
    )
    return [head, "-" * len(head), *rows, *said]


def _line(row: dict[str, Any]) -> str:
    interval = f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"
    return (
        f"{row['name']:<30} {100 * row['top1']:>9.1f} %  {interval:>15} {row['params']:>11,} "
        f"{row['flops'] / 1e6:>9.2f} {row['steps'] or '–':>6}"
    )


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
