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
    from pipeline.tracking import Tracker


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
        "comparisons": metrics["comparisons"],
        "room": metrics["room"],
        "majority": metrics["majority"],
        "split": metrics["split"],
        "selected": metrics["selected"],
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
    interval, train = metrics["top1_interval"], entry["train"] or {}
    return {
        "name": entry["name"],
        "role": entry["role"],
        "top1": metrics["top1"],
        "low": interval["low"],
        "high": interval["high"],
        "interval": interval["method"],
        "sd": entry["sd"],
        "replicates": [one["top1"] for one in entry["replicates"]],
        "train_top1": train.get("top1"),
        "train_interval": train.get("top1_interval"),
        "train_videos": train.get("videos"),
        "params": cost["params"],
        "flops": cost["flops"],
        "steps": entry["steps"],
    }


def log_figures(tracker: "Tracker", run_id: str, metrics: dict[str, Any]) -> None:
    """Figures of each network and each paired difference as metrics, the word of each difference as a tag."""
    values: dict[str, float] = {}
    for entry in metrics["networks"]:
        values |= _figures(entry)
    for item in metrics["comparisons"]:
        values |= _difference(item)
    tracker.log(run_id, values)
    words = {
        f"{_plain(item['first'])} against {_plain(item['second'])}": item["word"] for item in metrics["comparisons"]
    }
    tracker.tags(run_id, words)


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    """One network's figures by MLflow name, those that there are."""
    metrics, train, name = entry["metrics"], entry["train"] or {}, _plain(entry["name"])
    interval = metrics["top1_interval"]
    found = {
        "top1": metrics["top1"],
        "top1_low": interval["low"],
        "top1_high": interval["high"],
        "top1_sd": entry["sd"],
        "train_top1": train.get("top1"),
        "nll": metrics["nll"],
    }
    return {f"{name}/{key}": value for key, value in found.items() if value is not None}


def _difference(item: dict[str, Any]) -> dict[str, float]:
    """A paired difference and its bounds by MLflow name."""
    name = f"{_plain(item['first'])}-minus-{_plain(item['second'])}"
    keys = ("difference", "low", "high")
    return {f"{name}/{key}": item[key] for key in keys if item[key] is not None}


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w.-]+", "-", name.replace("×", "x"), flags=re.ASCII)


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
    log_figures(tracker, run_id, read_metrics(way.evaluation))
    tracker.artefact(run_id, context.workspace.run(context.name) / "report.html")
    files = content(exported)
    tracker.artefact(run_id, files, "export")
    tracker.model(run_id, files, "student")
