"""The steps of pseudo-label optimisation: given labels as an artefact, fold models in the warm pool, refined labels."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column, labels_schema, tensor_array
from pipeline.artifacts.snapshot import Snapshot
from pipeline.config.base import identity_fields
from pipeline.flow.build import network_fields, network_spec, optimiser, train_device
from pipeline.flow.context import Context
from pipeline.flow.demands import fold_actors
from pipeline.flow.step import TABLE, Made, Step, Timing, ensure, facts_of
from pipeline.flow.videos import Videos

if TYPE_CHECKING:
    from pipeline.flow.fold import FoldTask

LOG = logging.getLogger(__name__)
GIVEN_VERSION = FOLD_VERSION = REFINE_VERSION = 1


@dataclass(frozen=True)
class Views:
    """The committed rasters that later steps read: folder and pinned snapshot per plan, and what was quarantined."""

    folders: dict[str, Path]
    snapshots: dict[str, Snapshot]
    keys: dict[str, str]

    def digest(self, plan: str) -> str:
        return self.snapshots[plan].digest


class Judge(Protocol):
    """Stored targets as `flow.targets.Targets` has them."""

    @property
    def folders(self) -> dict[str, Path]: ...
    @property
    def snapshots(self) -> dict[str, str]: ...
    @property
    def class_index(self) -> tuple[int, ...] | None: ...


def given_labels(context: Context, videos: Videos) -> Path:
    """The labels of the training videos as given: one-hot exactly, weight 0 where there is none."""
    inputs = {"manifest": videos.label_digest(["train"])}
    step = Step("given-labels", "labels", GIVEN_VERSION, {}, inputs, {"manifest": videos.key}, TABLE)
    rows = videos.of("train")
    given = videos.labels[rows]
    q = np.zeros((len(rows), len(videos.classes)), np.float32)
    q[given >= 0, given[given >= 0]] = 1
    weight = (given >= 0).astype(np.float32)
    columns = {"ids": [videos.ids[row] for row in rows], "q": q, "weight": weight}
    return ensure(
        step, context.workspace, lambda folder, attempt: (_write(folder, attempt, columns), {}), Timing("given")
    )


def refined_labels(context: Context, videos: Videos, views: Views, judge: Judge | None = None) -> Path:
    """The labels that the teacher and the student learn from; given labels stay where the channel is `none`.

    `judge`: the stored targets of a given teacher that never saw these labels, in place of fold models.
    """
    section, timing = context.recipe.labels, context.timing("refine-labels")
    fields = identity_fields(section) | {"channel": section.channel}
    inputs: dict[str, Any] = {"manifest": videos.label_digest(["train", "val"]), "groups": _group_digest(videos)}
    if section.channel != "none":
        inputs |= {plan: views.digest(plan) for plan in ("train", "eval")}
        if judge is None:
            fields["labeller"] = _labeller_fields(context)
        else:
            inputs["judge"] = [judge.snapshots["train"], judge.snapshots["eval"], list(judge.class_index or ())]
    step = Step("refine-labels", "labels", REFINE_VERSION, fields, inputs, {"manifest": videos.key}, TABLE)
    context.keys["labels"] = step.key
    return ensure(
        step,
        context.workspace,
        lambda folder, attempt: _refine(context, videos, views, judge, folder, attempt, timing),
        timing,
    )


def refinement_report(folder: Path) -> dict[str, Any]:
    """The report of a refined-labels artefact."""
    return facts_of(folder, TABLE)


def _group_digest(videos: Videos) -> str:
    from pipeline.artifacts.identity import digest

    return digest([videos.groups[row] for row in videos.of("train", "val")])


def _labeller_fields(context: Context) -> dict[str, Any]:
    recipe = context.recipe
    labeller, teacher = recipe.labels.labeller or recipe.teacher, recipe.teacher
    return {
        "network": network_fields(labeller),
        "steps": recipe.labels.steps or teacher.steps,
        "batch_size": teacher.batch_size,
        "optimiser": identity_fields(teacher.optimiser),
        "device": train_device(recipe.train),
        "threads": recipe.train.threads,
    }


def _refine(
    context: Context, videos: Videos, views: Views, judge: Judge | None, folder: Path, attempt: str, timing: Timing
) -> Made:
    from pipeline.labels.folds import assign_folds, protected_videos
    from pipeline.labels.refine import refine
    from pipeline.labels.selftest import Options

    section = context.recipe.labels
    rows = _decodable(videos, views, "train")
    given = videos.labels[rows]
    groups = [videos.groups[row] for row in rows]
    folds = assign_folds(groups, given, folds=section.folds, seed=section.seed)
    logits, validation = None, None
    if section.channel != "none" and judge is not None:
        logits, validation = _judged(context, videos, views, judge, rows)
    elif section.channel != "none" and folds.max() > 0:
        logits, validation = _cross_fitted(context, videos, views, rows, folds, timing)
    clean = videos.clean[rows] if (videos.clean[rows] >= 0).any() else None
    refined = refine(
        logits,
        given,
        num_classes=len(videos.classes),
        channel=section.channel,
        protected=protected_videos(given, folds),
        validation=validation,
        options=Options(draws=section.draws, share=section.mix),
        seed=section.seed,
        clean=clean,
    )
    columns = {"ids": [videos.ids[row] for row in rows], "q": refined.q, "weight": refined.weight}
    columns |= {"flipped": refined.flipped, "predicted": refined.predicted}
    return _write(folder, attempt, columns), refined.report


def _cross_fitted(
    context: Context, videos: Videos, views: Views, rows: list[int], folds: np.ndarray, timing: Timing
) -> tuple[Any, Any]:
    """Out-of-fold logits of the training videos and every fold model's logits on validation."""
    from pipeline.flow.fold import read_logits
    from pipeline.labels.predictions import FoldPrediction, OutOfFold

    tasks = fold_tasks(context, videos, views, rows, folds)
    run_folds(context, tasks, timing)
    parts = [read_logits(task) for task in tasks]
    predictions = [
        FoldPrediction(np.flatnonzero(folds == fold), held_out, np.flatnonzero(folds != fold))
        for fold, (held_out, _) in enumerate(parts)
    ]
    return OutOfFold.gather(predictions, len(rows)), _validation(context, videos, views, [val for _, val in parts])


def _judged(context: Context, videos: Videos, views: Views, judge: Judge, rows: list[int]) -> tuple[Any, Any]:
    """The given teacher's stored logits of the same videos."""
    from pipeline.labels.predictions import OutOfFold

    checked = [row for row in _decodable(videos, views, "val") if videos.labels[row] >= 0]
    found = [
        _stored_logits(judge, plan, [videos.ids[row] for row in chosen])
        for plan, chosen in (("train", rows), ("eval", checked))
    ]
    return OutOfFold.unseen(found[0]), _validation(context, videos, views, [found[1]])


def _stored_logits(judge: Judge, plan: str, ids: list[str]) -> np.ndarray:
    """(videos, views, classes) float32 in the order of `ids`."""
    table = open_dataset(judge.folders[plan], judge.snapshots[plan]).table(["video_id", "clip_id", "view_id", "logits"])
    keys = [tuple(row.values()) for row in table.select(["video_id", "clip_id", "view_id"]).to_pylist()]
    logits = column(table, "logits").astype(np.float32)
    if judge.class_index is not None:
        logits = logits[:, list(judge.class_index)]
    rows: dict[str, list[int]] = {name: [] for name in ids}
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        if keys[row][0] in rows:
            rows[keys[row][0]].append(row)
    return logits[[rows[name] for name in ids]] if ids else np.empty((0, 1, logits.shape[1]), np.float32)


def _validation(context: Context, videos: Videos, views: Views, logits: list[np.ndarray]) -> Any:
    """Validation labels are trusted unless the recipe injects noise into them."""
    from pipeline.labels.predictions import Validation

    rows = [row for row in _decodable(videos, views, "val") if videos.labels[row] >= 0]
    if not rows:
        return None
    noise = context.recipe.manifest.noise
    trusted = noise.kind == "none" or "val" not in noise.splits
    groups = np.array([videos.groups[row] for row in rows])
    return Validation(np.stack(logits), videos.labels[rows], trusted, groups)


def fold_tasks(context: Context, videos: Videos, views: Views, rows: list[int], folds: np.ndarray) -> "list[FoldTask]":
    """One task per fold: train without it, label it and the validation videos."""
    from pipeline.distill.data import DataSpec
    from pipeline.distill.spec import Job, Objective
    from pipeline.flow.fold import FoldTask

    recipe, labels = context.recipe, given_labels(context, videos)
    fields = _labeller_fields(context)
    spec = network_spec(recipe.labels.labeller or recipe.teacher, videos.classes)
    validation = [videos.ids[row] for row in _decodable(videos, views, "val") if videos.labels[row] >= 0]
    tasks = []
    for fold in range(int(folds.max()) + 1):
        keep = tuple(videos.ids[row] for row, own in zip(rows, folds, strict=True) if own != fold)
        inputs = {"labels": videos.label_digest(["train"]), "train": views.digest("train"), "keep": list(keep)}
        step = Step("fold", "models", FOLD_VERSION, {**fields, "seed": recipe.labels.seed}, inputs)
        job = Job(
            name=f"fold-{fold}",
            key=step.key,
            network=spec,
            steps=int(fields["steps"]),
            objective=Objective(method="supervised"),
            optimiser=optimiser(recipe.teacher.optimiser),
            batch_size=recipe.teacher.batch_size,
            seed=recipe.labels.seed,
            checkpoint_every=recipe.train.checkpoint_every,
            log_every=recipe.train.log_every,
            threads=recipe.train.threads,
            device=train_device(recipe.train),
        )
        data = DataSpec(
            str(views.folders["train"]), len(videos.classes), views.digest("train"), labels=str(labels), keep=keep
        )
        held_out = tuple(videos.ids[row] for row, own in zip(rows, folds, strict=True) if own == fold)
        tasks.append(
            FoldTask(
                job,
                data,
                str(step.folder(context.workspace)),
                held_out,
                str(views.folders["eval"]),
                views.digest("eval"),
                tuple(validation),
                recipe.plan.micro_batch,
            )
        )
    return tasks


def run_folds(context: Context, tasks: "list[FoldTask]", timing: Timing) -> None:
    """The folds in the warm pool, or one after another in this process under `--local`."""
    from pipeline.flow.fold import run_fold

    if context.local:
        from pipeline.flow.tasks import Host

        for task in tasks:
            run_fold(task, Host())
        return
    import time

    session, train = context.ray(), context.recipe.train
    began = time.monotonic()
    demands = fold_actors(context.recipe, len(tasks), session.capacity())
    session.require("refine-labels", demands)
    from pipeline.on_ray.pool import WarmPool

    actors = demands[0]
    with WarmPool(actors.count, cpus=actors.cpus, gpus=actors.gpus, threads=train.threads) as pool:
        timing.startup_s += time.monotonic() - began
        pool.map(run_fold, tasks)


def _decodable(videos: Videos, views: Views, split: str) -> list[int]:
    """Positions of the split's videos that have frames (not quarantined), in manifest order."""
    plan = "train" if split == "train" else "eval"
    dataset = open_dataset(views.folders[plan], views.digest(plan))
    there = set(dataset.table(["video_id"]).column("video_id").to_pylist())
    return [row for row in videos.of(split) if videos.ids[row] in there]


def _write(folder: Path, attempt: str, columns: dict[str, Any]) -> list[Any]:
    count, classes = columns["q"].shape
    schema = labels_schema(classes)
    arrays = [
        pa.array(columns["ids"], pa.string()),
        tensor_array(columns["q"].astype(np.float32)),
        pa.array(columns["weight"], pa.float32()),
        pa.array(columns.get("flipped", np.zeros(count, bool)), pa.bool_()),
        pa.array(columns.get("predicted", np.full(count, -1)), pa.int32()),
    ]
    return [write_table(folder, f"labels.{attempt}.parquet", pa.table(arrays, schema=schema))]
