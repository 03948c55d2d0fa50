"""The report of a run: facts from artefacts and metrics files, one HTML page and the main figure."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.flow.cascade import ALONE, CascadePlan, Trained
from pipeline.flow.context import Context
from pipeline.flow.evaluate import quarantine_rows, read_metrics
from pipeline.flow.gate import gate_facts
from pipeline.flow.labels import refinement_report
from pipeline.flow.step import content
from pipeline.flow.videos import Videos, Views
from pipeline.report.facts import (
    Comparison,
    Confusion,
    Curves,
    FlippedLabel,
    Majority,
    NetworkRow,
    PhaseSpan,
    QuarantinedVideo,
    Refinement,
    ReportFacts,
    Room,
    StepTime,
    Table,
)
from pipeline.report.figures import main_figure
from pipeline.report.page import write_report


def report(context: Context, videos: Videos, views: Views, labels: Path, plan: CascadePlan, evaluation: Path) -> Path:
    """Write runs/<name>/report.html and figure.png; returns the page."""
    folder = context.workspace.run(context.name)
    folder.mkdir(parents=True, exist_ok=True)
    facts = gather(context, videos, views, labels, plan, evaluation)
    main_figure(folder / "figure.png", facts)
    return write_report(folder / "report.html", facts)


def gather(
    context: Context, videos: Videos, views: Views, labels: Path, plan: CascadePlan, evaluation: Path
) -> ReportFacts:
    """All facts of the page."""
    recipe, metrics = context.recipe, read_metrics(evaluation)
    student = next(entry for entry in metrics["networks"] if entry["role"] == "student")
    quarantined = quarantine_rows(views)
    room = metrics["room"]
    return ReportFacts(
        title=recipe.report.title or f"Staged distillation: {context.name}",
        run=context.name,
        created=time.strftime("%Y-%m-%d %H:%M"),
        data=_data(videos, metrics),
        networks=[_network(entry) for entry in metrics["networks"]],
        split=metrics["split"],
        selected=metrics["selected"],
        gap_recovered=room["gap_recovered"],
        gap_reason=room["gap_reason"],
        majority=_majority(metrics["majority"]),
        room=_room(metrics, labels),
        gate=gate_facts(context),
        comparisons=[_comparison(entry) for entry in metrics["comparisons"]],
        curves=[_curves(network) for network in [*plan.networks, *plan.controls] if _has_history(network)],
        confusion=[Confusion("student", metrics["classes"], np.array(student["metrics"]["confusion"]))],
        refinement=_refinement(labels, videos),
        flipped=_flipped(context, videos, views, labels),
        quarantined=[_quarantined(row, videos) for row in quarantined[: recipe.report.gallery]],
        quarantined_total=len(quarantined),
        timings=[StepTime(t.step, t.startup_s, t.work_s, t.skipped) for t in context.timings],
        configuration=recipe.model_dump(mode="json"),
        keys=context.keys,
        environment=_environment(),
    )


def _room(metrics: dict[str, Any], labels: Path) -> Room:
    """The teacher against each student trained alone, and what the labeller knew where the clean labels are known."""
    found = refinement_report(labels)
    scores = found.get("labels") or {}
    labeller = (found.get("self_test") or {}).get("accuracy")
    alone = [
        entry for entry in metrics["comparisons"] if entry["first"] == "teacher" and not is_taught(entry["second"])
    ]
    steps = {entry["name"]: entry["steps"] for entry in metrics["networks"]}
    doubled = any(steps[entry["second"]] >= 2 * steps["student"] for entry in alone)
    return Room(
        metrics["room"]["teacher"],
        [_comparison(entry) for entry in alone],
        doubled,
        scores.get("accuracy_before"),
        labeller,
    )


def is_taught(name: str) -> bool:
    """Whether the control of this name learns from the teacher: those that do not are named for cross-entropy."""
    return not name.startswith(ALONE)


def _majority(found: dict[str, Any] | None) -> Majority | None:
    if found is None:
        return None
    interval = found["top1_interval"]
    return Majority(found["class"], found["top1"], interval["low"], interval["high"])


def _data(videos: Videos, metrics: dict[str, Any]) -> dict[str, Any]:
    counts = {f"{split} videos": len(videos.of(split)) for split in ("train", "val", "test")}
    return {
        "videos of": videos.root.name,
        "classes": len(videos.classes),
        **counts,
        "evaluated split": metrics["split"],
    }


def _network(entry: dict[str, Any]) -> NetworkRow:
    return NetworkRow.from_metrics(
        entry["name"],
        entry["role"],
        entry["metrics"],
        entry["cost"],
        train_steps=entry["steps"] or None,
        note=entry.get("note", ""),
        train=entry["train"],
        sd=entry["sd"],
        replicates=[one["top1"] for one in entry["replicates"]],
        taught=entry["role"] != "control" or is_taught(entry["name"]),
    )


def _comparison(entry: dict[str, Any]) -> Comparison:
    names = ("first", "second", "difference", "low", "high", "word", "method", "n", "replicates")
    return Comparison(**{name: entry[name] for name in names})


def _has_history(network: Trained) -> bool:
    return (content(network.model.folder) / "metrics.json").is_file()


def _curves(network: Trained) -> Curves:
    stored = json.loads((content(network.model.folder) / "metrics.json").read_text())
    phases = [PhaseSpan(f"phase {number}", *span) for number, span in enumerate(stored["phases"], start=1)]
    return Curves.from_records(network.name, stored["history"], phases)


def _refinement(labels: Path, videos: Videos) -> Refinement | None:
    found = refinement_report(labels)
    if not found:
        return None
    scores = found.get("labels") or {}
    test = (found.get("self_test") or {}).get("table") or []
    columns = ["candidate", "shape of noise", "gain (points)", "s.e.", "95 % lower limit"]
    rows = [[t["candidate"], t["shape"], 100 * t["d"], 100 * t["se"], 100 * t["lower"]] for t in test]
    flips = found.get("flips_per_class") or {}
    return Refinement(
        channel=found["choice"],
        reason=found["reason"],
        videos=found.get("videos"),
        flipped=found.get("flips"),
        rate=found.get("rate"),
        temperature=found.get("temperature"),
        accuracy_before=scores.get("accuracy_before"),
        accuracy_after=scores.get("accuracy_after"),
        precision=scores.get("precision"),
        recall=scores.get("recall"),
        validation_trusted=found.get("validation_trusted"),
        self_test=Table("Self-test", columns, rows) if rows else None,
        per_class=_per_class(flips, videos.classes),
    )


def _per_class(flips: Any, classes: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    away, to = flips.get("from", []), flips.get("to", [])
    return {name: (int(a), int(b)) for name, a, b in zip(classes, away, to, strict=False) if a or b}


def _flipped(context: Context, videos: Videos, views: Views, labels: Path) -> list[FlippedLabel]:
    """The flipped labels that the refinement is surest of, with their first stored view."""
    table = open_dataset(labels).table(["video_id", "q", "flipped"])
    flipped = np.flatnonzero(column(table, "flipped").astype(bool))
    q, names = column(table, "q"), table.column("video_id").to_pylist()
    chosen = sorted(flipped, key=lambda row: -q[row].max())[: context.recipe.report.gallery]
    frames = _first_views(views, {names[row] for row in chosen})
    position = videos.position()
    return [_flip(videos, position[names[row]], q[row], frames.get(names[row])) for row in chosen]


def _flip(videos: Videos, row: int, q: np.ndarray, frames: np.ndarray | None) -> FlippedLabel:
    clean = int(videos.clean[row])
    return FlippedLabel(
        video_id=videos.ids[row],
        given=videos.classes[int(videos.labels[row])],
        refined=videos.classes[int(q.argmax())],
        confidence=float(q.max()),
        truth=videos.classes[clean] if clean >= 0 else None,
        frames=frames,
    )


def _first_views(views: Views, wanted: set[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    dataset = open_dataset(views.folders["train"], views.digest("train"))
    for shard in dataset.shard_ids:
        names = dataset.shard(shard, ["video_id"]).column("video_id").to_pylist()
        rows = {name: row for row, name in reversed(list(enumerate(names))) if name in wanted - found.keys()}
        if rows:
            frames = column(dataset.shard(shard, ["frames"]), "frames")
            found |= {name: frames[row] for name, row in rows.items()}
    return found


def _quarantined(row: dict[str, Any], videos: Videos) -> QuarantinedVideo:
    position = videos.position().get(row["video_id"])
    split = videos.splits[position] if position is not None else ""
    return QuarantinedVideo(row["video_id"], row["reason"], row["message"], split)


def _environment() -> dict[str, str]:
    from importlib.metadata import version

    return {
        name: version(name) for name in ("stagedkd", "torch", "torchvision", "ray", "av", "decord", "mlflow", "pyarrow")
    }
