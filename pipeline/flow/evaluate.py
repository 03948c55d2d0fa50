"""Evaluation: the evaluation split is read once, from stored targets, for the teacher, the cascade and its controls."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.dataset import Artefact, open_dataset
from pipeline.artifacts.identity import digest
from pipeline.artifacts.schemas import column
from pipeline.artifacts.snapshot import load as load_snapshot
from pipeline.config.base import identity_fields
from pipeline.errors import InputError
from pipeline.flow.cascade import CascadePlan, Trained
from pipeline.flow.context import Context
from pipeline.flow.methods import Method, by_name, chosen_note, comparisons, majority, note_weak_assistants, room
from pipeline.flow.step import Made, Step, content, ensure, files_of
from pipeline.flow.targets import Targets
from pipeline.flow.teacher import Model
from pipeline.flow.train_accuracy import TrainAccuracy
from pipeline.flow.videos import Videos, Views

VERSION = 3  # the step that was kept
METRICS = "metrics.json"
SELECTED = (
    "These figures are of the validation split: settings and checkpoints are chosen on it, so they are selected, not a "
    "test."
)


def evaluate(context: Context, videos: Videos, views: Views, plan: CascadePlan) -> Path:
    """The evaluation artefact: metrics.json with one entry per network, over its replicates, and paired comparisons."""
    section = context.recipe.evaluate
    networks = [*plan.networks, *plan.controls, *plan.replicates]
    inputs = {
        "manifest": videos.label_digest(["train", "val", "test"]),
        "groups": digest([videos.groups[row] for row in videos.of("train", "val", "test")]),
        "train": views.digest("train"),
        "eval": views.digest("eval"),
        "networks": [[network.name, network.model.key] for network in networks],
    }
    step = Step("evaluate", "evaluation", VERSION, identity_fields(section), inputs, {"manifest": videos.key})
    context.keys["evaluation"] = step.key
    work = lambda folder, attempt: _evaluate(context, videos, views, networks, folder, attempt)  # noqa: E731
    return ensure(step, context.workspace, work, context.timing("evaluate"))


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a finished evaluation."""
    return dict(json.loads((content(folder) / METRICS).read_text()))


def _evaluate(
    context: Context, videos: Videos, views: Views, networks: list[Trained], folder: Path, attempt: str
) -> Made:
    split = context.recipe.evaluate.split
    rows = [row for row in videos.of(split) if videos.labels[row] >= 0]
    if not rows:
        raise InputError(
            f"the {split} split of {videos.root} holds no labelled video: set evaluate.split, or manifest.split"
        )
    quarantined = _quarantined(views, {videos.ids[row] for row in rows})
    methods = [_method(videos, runs, networks[0], split) for runs in by_name(networks)]
    look = context.recipe.views
    measure = TrainAccuracy(videos, views, look.num_frames * look.size[0] * look.size[1] * 3)
    entries = [_entry(context, videos, method, networks[0], quarantined, measure) for method in methods]
    note_weak_assistants(methods, entries)
    result = {
        "split": split,
        "selected": SELECTED if split == "val" else "",
        "classes": list(videos.classes),
        "majority": majority(videos, methods[0].tables[0]),
        "networks": entries,
        "comparisons": comparisons(methods),
        "room": room(methods),
        "quarantined": quarantined,
    }
    (folder / attempt).mkdir()
    (folder / attempt / METRICS).write_text(json.dumps(result, indent=1))
    return files_of(folder, attempt), {
        "split": split,
        "top1": {entry["name"]: entry["metrics"]["top1"] for entry in entries},
    }


def _method(videos: Videos, runs: list[Trained], teacher: Trained, split: str) -> Method:
    """A network's stored logits on the evaluation split and on validation, with the teacher's beside them."""
    validation = [_table(videos, run, teacher, "val") for run in runs]
    tables = [_table(videos, run, teacher, split) for run in runs]
    if any(table is None for table in tables):
        raise InputError(f"no labelled video of the {split} split could be decoded: see `stagedkd verify`")
    return Method(runs, tables, [table for table in validation if table is not None])


def _table(videos: Videos, network: Trained, teacher: Trained, split: str) -> Any:
    from pipeline.evaluation.metrics import video_table

    chosen = {videos.ids[row]: row for row in videos.of(split)}
    names, logits = _logits(network, set(chosen))
    if not any(videos.labels[chosen[name]] >= 0 for name in names):
        return None
    _, of_teacher = _logits(teacher, set(chosen))
    return video_table(
        names,
        logits,
        {name: int(videos.labels[row]) for name, row in chosen.items()},
        groups={name: videos.groups[row] for name, row in chosen.items()},
        teacher_logits=of_teacher,
    )


def _logits(network: Trained, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    """Views of the wanted videos sorted by (clip, view), so that all networks' rows pair."""
    targets = network.targets
    table = open_dataset(targets.folders["eval"], targets.snapshots.get("eval")).table(
        ["video_id", "clip_id", "view_id", "logits"]
    )
    names = table.column("video_id").to_pylist()
    keys = list(zip(table.column("clip_id").to_pylist(), table.column("view_id").to_pylist(), strict=True))
    rows = sorted((row for row, name in enumerate(names) if name in wanted), key=lambda row: keys[row])
    logits = column(table, "logits")[rows].astype(np.float32)
    if targets.class_index is not None:
        logits = logits[:, list(targets.class_index)]
    return [names[row] for row in rows], logits


def _entry(
    context: Context,
    videos: Videos,
    method: Method,
    teacher: Trained,
    quarantined: list[dict[str, str]],
    measure: TrainAccuracy,
) -> dict[str, Any]:
    from pipeline.evaluation.cost import cost
    from pipeline.evaluation.intervals import accuracy_interval
    from pipeline.evaluation.metrics import mean_metrics
    from pipeline.models.weights import load_network

    recipe, table = context.recipe, method.tables[0]
    found = [_metrics(context, videos, method, place, quarantined) for place in range(len(method.runs))]
    interval = accuracy_interval(method.correct, table.labels, table.groups, draws=recipe.evaluate.bootstrap)
    shape = (recipe.views.num_frames, *recipe.views.size)
    price = cost(load_network(content(method.runs[0].model.folder)), shape, repeats=recipe.evaluate.latency_runs)
    stored = "train" in recipe.views.eval.splits
    seen = [_table(videos, run, teacher, "train") for run in method.runs] if stored else []
    validated = [float(table.correct.mean()) for table in method.validation]
    top1 = [one["top1"] for one in found]
    return {
        "name": method.name,
        "role": method.role,
        "steps": method.runs[0].steps,
        "key": method.runs[0].model.key,
        "metrics": mean_metrics(found) | {"top1_interval": interval.as_dict()},
        "sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
        "replicates": [_replicate(run, one, found) for run, one in zip(method.runs, found, strict=True)],
        "cost": price.as_dict(),
        "validation_top1": float(np.mean(validated)) if validated else None,
        "train": measure.of(method.runs, [] if any(table is None for table in seen) else seen),
        "note": chosen_note([_chosen_step(run) for run in method.runs], method.runs[0].steps),
    }


def _chosen_step(run: Trained) -> float | None:
    """The step that validation selected; None where the last was kept, or the network was not trained here."""
    said = content(run.model.folder) / METRICS
    if not said.is_file():
        return None
    found = json.loads(said.read_text())["final"].get("chosen_step")
    return None if found is None else float(found)


def _metrics(
    context: Context, videos: Videos, method: Method, place: int, quarantined: list[dict[str, str]]
) -> dict[str, Any]:
    """One run's metrics; scaled ones only on another split than that on which the temperature is fitted."""
    from pipeline.evaluation.metrics import fit_temperature, video_metrics

    section = context.recipe.evaluate
    scalable = section.split != "val" and bool(method.validation)
    return video_metrics(
        method.tables[place],
        videos.classes,
        temperature=fit_temperature(method.validation[place]) if scalable else None,
        quarantined=[entry["video_id"] for entry in quarantined],
        draws=section.bootstrap,
    )


def _replicate(run: Trained, metrics: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of one replicate; its metrics where there are several, without the large parts."""
    large = ("classes", "confusion")
    own = {name: value for name, value in metrics.items() if name not in large} if len(runs) > 1 else None
    return {"replicate": run.replicate, "key": run.model.key, "top1": metrics["top1"], "metrics": own}


def quarantine_rows(views: Views) -> list[dict[str, str]]:
    """Every quarantined video of the pinned frames, once, tombstoned ones left out."""
    found: dict[str, dict[str, str]] = {}
    for plan, folder in views.folders.items():
        rows = Artefact(load_snapshot(folder, views.digest(plan))).quarantine().to_pylist()
        found = {row["video_id"]: row for row in rows} | found
    return [found[name] for name in sorted(found)]


def _quarantined(views: Views, wanted: set[str]) -> list[dict[str, str]]:
    rows = [row for row in quarantine_rows(views) if row["video_id"] in wanted]
    return [{name: str(row[name]) for name in ("video_id", "reason", "message")} for row in rows]


def validation_table(videos: Videos, model: Model, targets: Targets) -> Any:
    """The labelled validation videos as a network sees them (`evaluation.metrics.VideoTable`), None without any."""
    network = Trained(model.name, "teacher", model, 0, targets)
    return _table(videos, network, network, "val")


def validation_top1(videos: Videos, network: Trained, teacher: Trained) -> float:
    """Video top-1 on the validation split, the only one that a search may look at."""
    table = _table(videos, network, teacher, "val")
    if table is None:
        raise InputError(f"{videos.root} has no labelled validation video to score trials on: set manifest.split.val")
    return float(table.correct.mean())
