"""Evaluation: the evaluation split is read once, from stored targets, for the teacher, the cascade and its controls."""

import itertools
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
from pipeline.flow.cascade import ALONE, ALONE_DOUBLE, CascadePlan, Trained
from pipeline.flow.context import Context
from pipeline.flow.step import Made, Step, content, ensure, files_of
from pipeline.flow.targets import Targets
from pipeline.flow.teacher import Model
from pipeline.flow.videos import Videos, Views

VERSION = 1
METRICS = "metrics.json"


def evaluate(context: Context, videos: Videos, views: Views, plan: CascadePlan) -> Path:
    """The evaluation artefact: metrics.json with one entry per network and the paired comparisons of the student."""
    section = context.recipe.evaluate
    networks = [*plan.networks, *plan.controls]  # TODO replicates
    inputs = {
        "manifest": videos.label_digest(["val", "test"]),
        "groups": digest([videos.groups[row] for row in videos.of("val", "test")]),
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
    tables = {network.name: _Tables(videos, network, networks[0], split) for network in networks}
    entries = [_entry(context, videos, network, tables[network.name], quarantined) for network in networks]
    _flag(networks, entries, tables)
    result = {
        "split": split,
        "classes": list(videos.classes),
        "networks": entries,
        "comparisons": _comparisons(networks, tables),
        "room": _room(entries),
        "quarantined": quarantined,
    }
    (folder / attempt).mkdir()
    (folder / attempt / METRICS).write_text(json.dumps(result, indent=1))
    return files_of(folder, attempt), {
        "split": split,
        "top1": {entry["name"]: entry["metrics"]["top1"] for entry in entries},
    }


class _Tables:
    """One network's stored logits on the evaluation split and on validation, with the teacher's beside them."""

    def __init__(self, videos: Videos, network: Trained, teacher: Trained, split: str) -> None:
        self.split = _table(videos, network, teacher, split)
        self.validation = _table(videos, network, teacher, "val")


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
    context: Context, videos: Videos, network: Trained, tables: _Tables, quarantined: list[dict[str, str]]
) -> dict[str, Any]:
    from pipeline.evaluation.cost import cost
    from pipeline.evaluation.metrics import fit_temperature, video_metrics
    from pipeline.models.weights import load_network

    recipe = context.recipe
    validation = tables.validation
    metrics = video_metrics(
        tables.split,
        videos.classes,
        temperature=fit_temperature(validation) if validation is not None else None,
        quarantined=[entry["video_id"] for entry in quarantined],
        draws=recipe.evaluate.bootstrap,
    )
    shape = (recipe.views.num_frames, *recipe.views.size)
    price = cost(load_network(content(network.model.folder)), shape, repeats=recipe.evaluate.latency_runs)
    return {
        "name": network.name,
        "role": network.role,
        "steps": network.steps,
        "key": network.model.key,
        "metrics": metrics,
        "cost": price.as_dict(),
        "validation_top1": float(validation.correct.mean()) if validation is not None else None,
    }


def _comparisons(networks: list[Trained], tables: dict[str, _Tables]) -> list[dict[str, Any]]:
    """The student against the teacher and each control, on the same videos."""
    from pipeline.evaluation.compare import discordance

    student = next(network.name for network in networks if network.role == "student")
    others = [network.name for network in networks if network.role in ("teacher", "control")]
    mine = tables[student].split.correct
    return [
        {"first": student, "second": name, **discordance(mine, tables[name].split.correct).as_dict()} for name in others
    ]


def _flag(networks: list[Trained], entries: list[dict[str, Any]], tables: dict[str, _Tables]) -> None:
    """Note each assistant that validates worse than the network it teaches by more than one standard error."""
    from pipeline.evaluation.compare import discordance

    for place, (network, following) in enumerate(itertools.pairwise(networks)):
        mine, next_one = tables[network.name].validation, tables[following.name].validation
        if network.role != "assistant" or mine is None or following.role == "control":
            continue
        found = discordance(next_one.correct, mine.correct)
        if found.difference > found.error:
            better = f"{100 * found.difference:.1f} ± {100 * found.error:.1f} points"
            entries[place]["note"] = f"flagged: {following.name} is {better} better on validation"


def _room(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Teacher, student, the student trained alone with its steps and twice of them, the share of the gap recovered."""
    from pipeline.evaluation.metrics import gap_recovered

    top1 = {entry["name"]: entry["metrics"]["top1"] for entry in entries}
    teacher, student, alone = top1["teacher"], top1["student"], top1.get(ALONE)
    recovered = None if alone is None else gap_recovered(teacher, student, alone)
    found = {"teacher": teacher, "student": student, "alone": alone, "alone_double": top1.get(ALONE_DOUBLE)}
    return found | {"gap_recovered": recovered}


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
