"""Export of the student: the files that its users need, checked against the network on real views."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.config.base import identity_fields
from pipeline.flow.cascade import CascadePlan
from pipeline.flow.context import Context
from pipeline.flow.evaluate import read_metrics
from pipeline.flow.gate import gate_line
from pipeline.flow.labels import refinement_report
from pipeline.flow.step import Made, Step, content, ensure, files_of, inside
from pipeline.flow.videos import Videos, Views

VERSION = 2  # the card says what the gate found of the teacher


def export(context: Context, videos: Videos, views: Views, labels: Path, plan: CascadePlan, evaluation: Path) -> Path:
    """The export artefact; its files lie in the folder (or at the address) that the returned path names."""
    inputs = {"student": plan.student.model.key, "evaluation": evaluation.name, "gate": context.keys.get("gate")}
    fields = identity_fields(context.recipe.export)
    step = Step("export", "export", VERSION, fields, inputs, {"manifest": videos.key})
    context.keys["export"] = step.key
    work = lambda folder, attempt: _export(context, videos, views, labels, plan, evaluation, folder, attempt)  # noqa: E731
    folder = ensure(step, context.workspace, work, context.timing("export"))
    return inside(folder)


def _export(
    context: Context,
    videos: Videos,
    views: Views,
    labels: Path,
    plan: CascadePlan,
    evaluation: Path,
    folder: Path,
    attempt: str,
) -> Made:
    from pipeline.export.export import export_student

    section = context.recipe.export
    (folder / attempt).mkdir()
    report = export_student(
        content(plan.student.model.folder),
        folder / attempt,
        some_frames(views, 32),
        _facts(context, videos, labels, plan, evaluation),
        onnx=section.onnx,
        tolerance=section.tolerance,
    )
    return files_of(folder, attempt), {"parity": [parity.max_abs_difference for parity in report.parity]}


def some_frames(views: Views, count: int) -> np.ndarray:
    """The first `count` evaluation rasters, uint8 (n, T, H, W, 3)."""
    dataset = open_dataset(views.folders["eval"], views.digest("eval"))
    parts: list[np.ndarray] = []
    for shard in dataset.shard_ids:
        if sum(map(len, parts)) >= count:
            break
        parts.append(column(dataset.shard(shard, ["frames"]), "frames"))
    return np.ascontiguousarray(np.concatenate(parts)[:count])


def _labels(folder: Path) -> str:
    """What became of the given labels."""
    found = refinement_report(folder)
    if found["choice"] == "none":
        return f"as given ({found['reason']})"
    trusted = "" if found.get("validation_trusted", True) else "; validation labels were not trusted"
    return f"refined with channel {found['choice']}, {found['flips']} of {found['videos']} changed{trusted}"


def _facts(context: Context, videos: Videos, labels: Path, plan: CascadePlan, evaluation: Path) -> Any:
    from pipeline.export.card import CardFacts

    recipe = context.recipe
    evaluated = read_metrics(evaluation)
    entry = next(entry for entry in evaluated["networks"] if entry["role"] == "student")
    counts = {split: len(videos.of(split)) for split in ("train", "val", "test")}
    teacher = plan.networks[0].model
    return CardFacts(
        name=f"{context.name}: student",
        data=recipe.export.data or f"videos of {videos.root.name}",
        videos=counts,
        licence=recipe.export.licence,
        teacher=recipe.teacher.model,
        teacher_digest=teacher.key,
        teacher_check=gate_line(context),
        method=f"staged distillation, schedule {recipe.distill.schedule}, K = {recipe.cascade.K}",
        labels=_labels(labels),
        metrics=entry["replicates"][0]["metrics"] or entry["metrics"],
        cost=entry["cost"],
        evaluated=_beside(evaluated, entry),
    )


def _beside(evaluated: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """What the card says beside the exported network's own figures."""
    metrics, count = entry["metrics"], len(entry["replicates"])
    mean = {"top1": metrics["top1"], "top1_interval": metrics["top1_interval"], "sd": entry["sd"], "replicates": count}
    return {
        **{name: evaluated[name] for name in ("split", "selected", "majority")},
        "train": entry["train"],
        "comparisons": [item for item in evaluated["comparisons"] if item["first"] == entry["name"]],
        "mean": mean if count > 1 else None,
    }
