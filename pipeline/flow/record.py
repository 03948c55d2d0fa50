"""What a finished run leaves behind: recipe.yaml and summary.json in its folder, figures and files in MLflow."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.files import replace
from pipeline.artifacts.layout import read_json
from pipeline.artifacts.places import is_remote
from pipeline.config.load import recipe_yaml
from pipeline.flow.context import Context
from pipeline.flow.gate import gate_summary

if TYPE_CHECKING:
    from pipeline.flow.run import Way


def told(folder: Path) -> dict[str, str] | None:
    """The keys that the run's summary was written for, None without one."""
    found = read_json(folder / "summary.json")
    return None if found is None else dict(found["keys"])


def summarise(context: Context, way: "Way", folder: Path, exported: Path, seconds: float) -> None:
    """recipe.yaml and summary.json, in the run's folder; `seconds` that the run took in all."""
    from pipeline.flow.evaluate import read_metrics

    metrics = read_metrics(way.evaluation)
    startup = sum(timing.startup_s for timing in context.timings)
    summary = {
        "run": context.name,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "seconds": {"total": seconds, "startup": startup, "work": seconds - startup},
        "steps": [asdict(timing) for timing in context.timings],
        "keys": context.keys,
        "export": _shown(exported, context.workspace.root),
        "networks": [_row(entry) for entry in metrics["networks"]],
        "room": metrics["room"],
        "split": metrics["split"],
        "sample": _sample(way),
        "gate": gate_summary(context),
    }
    replace(folder / "recipe.yaml", recipe_yaml(context.recipe).encode())
    replace(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())


def _shown(path: Path, root: Path) -> str:
    """Below the workspace relative to it, so that the workspace may move."""
    return path.relative_to(root).as_posix() if not is_remote(path) and path.is_relative_to(root) else str(path)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    metrics, cost = entry["metrics"], entry["cost"]
    interval = metrics["top1_interval"]
    return {
        "name": entry["name"],
        "role": entry["role"],
        "top1": metrics["top1"],
        "low": interval["low"],
        "high": interval["high"],
        "params": cost["params"],
        "flops": cost["flops"],
        "steps": entry["steps"],
    }


def _sample(way: "Way") -> str:
    """One readable test video, for the line that shows `predict`."""
    from pipeline.flow.evaluate import quarantine_rows

    lost = {row["video_id"] for row in quarantine_rows(way.views)}
    rows = [*way.videos.of("test"), *way.videos.of("val"), *way.videos.of("train")]
    row = next(row for row in rows if way.videos.ids[row] not in lost)
    return str(way.videos.root / way.videos.uris[row])


def track(context: Context, way: "Way", exported: Path) -> None:
    """Figures of each network, the report and the exported student, in the run's MLflow run."""
    from pipeline.flow.evaluate import read_metrics
    from pipeline.flow.step import content

    tracker, run_id = context.track(), context.parent_run
    for entry in read_metrics(way.evaluation)["networks"]:
        name = re.sub(r"[^\w.-]+", "-", entry["name"].replace("×", "x"), flags=re.ASCII)
        tracker.log(run_id, {f"{name}/top1": entry["metrics"]["top1"], f"{name}/nll": entry["metrics"]["nll"]})
    tracker.artefact(run_id, context.workspace.run(context.name) / "report.html")
    files = content(exported)
    tracker.artefact(run_id, files, "export")
    tracker.model(run_id, files, "student")
