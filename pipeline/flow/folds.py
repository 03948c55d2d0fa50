"""Who judges the labels: fold models in the warm pool, each for the videos that it did not see, or a given teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.identity import digest
from pipeline.artifacts.schemas import column
from pipeline.config.base import identity_fields
from pipeline.config.recipe import Recipe
from pipeline.flow.build import (
    fitting_batch,
    manifest_name,
    network_fields,
    network_spec,
    optimiser,
    train_device,
    validation_trusted,
)
from pipeline.flow.check_views import CheckViews, check_views
from pipeline.flow.context import Context
from pipeline.flow.demands import warm_actors
from pipeline.flow.features import Inputs, features_version, fit_inputs
from pipeline.flow.seen import of_weights, passed_on
from pipeline.flow.step import Step, Timing
from pipeline.flow.teacher import fits_without_steps
from pipeline.flow.videos import Videos, Views

if TYPE_CHECKING:
    from pipeline.flow.fold import FoldTask


FOLD_VERSION = 1


class Judge(Protocol):
    """Stored targets as `flow.targets.Targets` has them."""

    @property
    def folders(self) -> dict[str, Path]: ...
    @property
    def snapshots(self) -> dict[str, str]: ...
    @property
    def class_index(self) -> tuple[int, ...] | None: ...


def labeller_fields(context: Context) -> dict[str, Any]:
    recipe = context.recipe
    labeller, teacher = recipe.labels.labeller or recipe.teacher, recipe.teacher
    return {
        "network": network_fields(labeller),
        **features_version(labeller),
        "steps": recipe.labels.steps or teacher.steps,
        "batch_size": teacher.batch_size,
        "optimiser": identity_fields(teacher.optimiser),
        "device": train_device(recipe.train),
        "threads": recipe.train.threads,
    }


def cross_fitted(
    context: Context, videos: Videos, views: Views, labels: Path, rows: list[int], folds: np.ndarray, timing: Timing
) -> tuple[Any, Any]:
    """Out-of-fold logits of the training videos and every fold model's logits on validation; `labels`: as given."""
    from pipeline.flow.fold import read_logits
    from pipeline.labels.predictions import FoldPrediction, OutOfFold

    check = trusted_views(context, videos, views, timing)
    labeller = context.recipe.labels.labeller or context.recipe.teacher
    seen = (context, labeller, videos.classes)
    inputs = fit_inputs(*seen, views.folders["train"], views.digest("train"), timing)
    judged_on = None if check is None else fit_inputs(*seen, check.folder, check.snapshot, timing)
    tasks = fold_tasks(context, videos, views, labels, rows, folds, inputs, check, judged_on)
    run_folds(context, tasks, timing)
    parts = [read_logits(task) for task in tasks]
    predictions = [
        FoldPrediction(np.flatnonzero(folds == fold), held_out, np.flatnonzero(folds != fold))
        for fold, (held_out, _) in enumerate(parts)
    ]
    return OutOfFold.gather(predictions, len(rows)), _validation(videos, check, [val for _, val in parts])


def judged(
    context: Context, videos: Videos, views: Views, judge: Judge, teacher: Path, rows: list[int], timing: Timing
) -> tuple[Any, Any]:
    """The given teacher's stored logits of the training videos; of validation what it says of training views."""
    from pipeline.labels.predictions import OutOfFold

    logits = _stored_logits(judge, [videos.ids[row] for row in rows])
    check = trusted_views(context, videos, views, timing)
    said = [] if check is None else [_asked(context, teacher, judge, check, videos)]
    return OutOfFold.unseen(logits), _validation(videos, check, said)


def _asked(context: Context, teacher: Path, judge: Judge, check: CheckViews, videos: Videos) -> np.ndarray:
    """(videos, views, classes) float32: the teacher in `teacher` on the views of `check`."""
    from pipeline.flow.fold import by_video
    from pipeline.flow.targets import teacher_jobs
    from pipeline.flow.teacher import Model
    from pipeline.flow.teacher_stage import build_labeler

    (job,) = teacher_jobs(context.recipe, [Model("teacher", teacher, teacher.name)])
    ids = tuple(videos.ids[row] for row in check.rows)
    logits = by_video(build_labeler(job), str(check.folder), check.snapshot, ids, job.batch)
    return logits if judge.class_index is None else logits[:, :, list(judge.class_index)]


def trusted_views(context: Context, videos: Videos, views: Views, timing: Timing) -> CheckViews | None:
    """Training views of the labelled validation videos; None where there are none, or their labels are not trusted."""
    rows = [row for row in decodable(videos, views, "val") if videos.labels[row] >= 0]
    if not rows or not validation_trusted(context.recipe):
        return None
    return check_views(context, videos, rows, timing)


def _stored_logits(judge: Judge, ids: list[str]) -> np.ndarray:
    """(videos, views, classes) float32 of the training views, in the order of `ids`."""
    folder, snapshot = judge.folders["train"], judge.snapshots["train"]
    table = open_dataset(folder, snapshot).table(["video_id", "clip_id", "view_id", "logits"])
    keys = [tuple(row.values()) for row in table.select(["video_id", "clip_id", "view_id"]).to_pylist()]
    logits = column(table, "logits").astype(np.float32)
    if judge.class_index is not None:
        logits = logits[:, list(judge.class_index)]
    rows: dict[str, list[int]] = {name: [] for name in ids}
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        if keys[row][0] in rows:
            rows[keys[row][0]].append(row)
    return logits[[rows[name] for name in ids]] if ids else np.empty((0, 1, logits.shape[1]), np.float32)


def _validation(videos: Videos, check: CheckViews | None, logits: list[np.ndarray]) -> Any:
    """Logits of each labeller on the views of `check`, with labels and groups; None where nothing is trusted."""
    from pipeline.labels.predictions import Validation

    if check is None or not check.rows:
        return None
    groups = np.array([videos.groups[row] for row in check.rows])
    return Validation(np.stack(logits), videos.labels[check.rows], True, groups)


def fold_tasks(
    context: Context,
    videos: Videos,
    views: Views,
    labels: Path,
    rows: list[int],
    folds: np.ndarray,
    inputs: Inputs,
    check: CheckViews | None,
    judged_on: Inputs | None,
) -> "list[FoldTask]":
    """One task per fold: train without it, label it and the validation videos of `check` (which lie in `judged_on`),
    both in training views."""
    from pipeline.distill.data import DataSpec
    from pipeline.flow.fold import FoldTask

    recipe = context.recipe
    fields = labeller_fields(context)
    spec = network_spec(recipe.labels.labeller or recipe.teacher, videos.classes)
    validation = [] if check is None else [videos.ids[row] for row in check.rows]
    tasks = []
    for fold in range(int(folds.max()) + 1):
        keep = tuple(videos.ids[row] for row, own in zip(rows, folds, strict=True) if own != fold)
        read = {"labels": videos.label_digest(["train"]), "train": views.digest("train"), "keep": list(keep)}
        groups = tuple((videos.ids[row], videos.groups[row]) for row in rows)
        if fits_without_steps(recipe.labels.labeller or recipe.teacher):
            read["groups"] = digest([list(pair) for pair in groups])
        labelled = sum(int(videos.labels[row]) >= 0 for row, own in zip(rows, folds, strict=True) if own != fold)
        batch = recipe.teacher.batch_size
        if not fits_without_steps(recipe.labels.labeller or recipe.teacher):
            batch = fitting_batch(recipe, batch, labelled, f"fold-{fold}")
        known = {**fields, "batch_size": batch, "seed": recipe.labels.seed}
        step = Step("fold", "models", FOLD_VERSION, known, read)
        job = _fold_job(recipe, spec, step, int(fields["steps"]), fold, batch)
        data = DataSpec(
            str(inputs.folder),
            len(videos.classes),
            inputs.snapshot,
            labels=str(labels),
            keep=keep,
            column=inputs.column,
        )
        held_out = tuple(videos.ids[row] for row, own in zip(rows, folds, strict=True) if own == fold)
        tasks.append(
            FoldTask(
                job,
                data,
                str(step.folder(context.workspace)),
                held_out,
                "" if judged_on is None else str(judged_on.folder),
                "" if judged_on is None else judged_on.snapshot,
                tuple(validation),
                recipe.plan.micro_batch,
                groups,
                passed_on(manifest_name(recipe), of_weights((recipe.labels.labeller or recipe.teacher).weights)),
            )
        )
    return tasks


def _fold_job(recipe: Recipe, spec: Any, step: Step, steps: int, fold: int, batch: int) -> Any:
    """Cross-entropy on the other folds' labelled videos, with the teacher's optimiser."""
    from pipeline.distill.spec import Job, Objective

    return Job(
        name=f"fold-{fold}",
        key=step.key,
        network=spec,
        steps=steps,
        objective=Objective(method="supervised"),
        optimiser=optimiser(recipe.teacher.optimiser),
        batch_size=batch,
        seed=recipe.labels.seed,
        checkpoint_every=recipe.train.checkpoint_every,
        log_every=recipe.train.log_every,
        threads=recipe.train.threads,
        device=train_device(recipe.train),
        batch_field="teacher.batch_size (of the fold models; labels.folds decides what is left to each)",
    )


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
    demands = warm_actors(context.recipe, "fold models", len(tasks), session.capacity())
    session.require("refine-labels", demands)
    from pipeline.on_ray.pool import WarmPool

    actors = demands[0]
    with WarmPool(actors.count, cpus=actors.cpus, gpus=actors.gpus, threads=train.threads) as pool:
        timing.startup_s += time.monotonic() - began
        pool.map(run_fold, tasks)


def decodable(videos: Videos, views: Views, split: str) -> list[int]:
    """Positions of the split's videos that have frames (not quarantined), in manifest order."""
    plan = "train" if split == "train" else "eval"
    dataset = open_dataset(views.folders[plan], views.digest(plan))
    there = set(dataset.table(["video_id"]).column("video_id").to_pylist())
    return [row for row in videos.of(split) if videos.ids[row] in there]
