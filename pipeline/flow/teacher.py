"""The teacher: fitted on the refined labels in a worker group, or taken as given."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.base import identity_fields
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import network_fields, network_spec, optimiser, read_classes, train_device
from pipeline.flow.context import Context
from pipeline.flow.host import run_tasks
from pipeline.flow.step import Made, Step, ensure, files_of
from pipeline.flow.videos import Videos, Views

LOG = logging.getLogger(__name__)
FIT_VERSION = GIVEN_VERSION = 1


@dataclass(frozen=True)
class Model:
    """A trained network: its models folder and key."""

    name: str
    folder: Path
    key: str


def fitted_teacher(context: Context, videos: Videos, views: Views, labels: Path) -> Model:
    """The teacher of a recipe with `teacher.fit: true`, trained on the labels artefact `labels`."""
    from pipeline.distill.data import DataSpec
    from pipeline.flow.tasks import TrainTask

    timing = context.timing("fit-teacher")
    step = fit_step(context, videos, views, labels.name)
    folder = step.folder(context.workspace)
    data = DataSpec(str(views.folders["train"]), len(videos.classes), views.digest("train"), labels=str(labels))
    run_id = (
        context.track().start_run("teacher", parent=context.parent_run) if not (folder / "done.json").is_file() else ""
    )
    task = TrainTask(_job(context, videos, step), data, str(folder), extras(context, saw_labels=True), run_id)
    _about(step, folder)
    run_tasks(context, "fit-teacher", [task], timing, step.key)
    return Model("teacher", folder, step.key)


def fit_step(context: Context, videos: Videos, views: Views, labels_key: str) -> Step:
    """The step of a fitted teacher."""
    section, train = context.recipe.teacher, context.recipe.train
    fields = {
        "network": network_fields(section),
        "steps": section.steps,
        "batch_size": section.batch_size,
        "label_smoothing": section.label_smoothing,
        "optimiser": identity_fields(section.optimiser),
        "seed": section.seed,
        "device": train_device(train),
        "dtype": train.dtype,
        "threads": train.threads,
    }
    inputs = {"labels": labels_key, "train": views.digest("train")}
    return Step("fit-teacher", "models", FIT_VERSION, fields, inputs, {"manifest": videos.key, "name": "teacher"})


def _job(context: Context, videos: Videos, step: Step) -> Any:
    from pipeline.distill.spec import Job, Objective

    section, train = context.recipe.teacher, context.recipe.train
    return Job(
        name="teacher",
        key=step.key,
        network=network_spec(section, videos.classes),
        steps=section.steps,
        objective=Objective(method="supervised", label_smoothing=section.label_smoothing),
        optimiser=optimiser(section.optimiser),
        batch_size=section.batch_size,
        seed=section.seed,
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        threads=train.threads,
        device=train_device(train),
        dtype=train.dtype,
    )


def given_step(recipe: Recipe) -> Step:
    """The step of a given teacher: known before anything runs."""
    section = recipe.teacher
    if section.weights is None:
        raise ConfigError("teacher.fit is false, so teacher.weights must name the teacher's weights")
    fields = {"network": network_fields(section), "classes": list(_named(recipe)), "saw_labels": section.saw_labels}
    return Step("given-teacher", "models", GIVEN_VERSION, fields, {}, {"name": "teacher"})


def _named(recipe: Recipe) -> tuple[str, ...]:
    return read_classes(recipe.teacher.classes) if recipe.teacher.classes else ()


def given_teacher(context: Context) -> Model:
    """The teacher of a recipe with `teacher.fit: false`, saved among the models."""
    step, classes = given_step(context.recipe), _named(context.recipe)
    work = lambda out, attempt: _save_given(context, classes, out, attempt)  # noqa: E731
    return Model("teacher", ensure(step, context.workspace, work, context.timing("teacher")), step.key)


def _save_given(context: Context, classes: tuple[str, ...], folder: Path, attempt: str) -> Made:
    from pipeline.models.registry import build_network
    from pipeline.models.weights import save_network

    section = context.recipe.teacher
    network = build_network(network_spec(section, classes), seed=section.seed)
    (folder / attempt).mkdir()
    # No raster: it is the recipe's, and the same weights serve recipes with others.
    save_network(folder / attempt, network, {"saw_labels": section.saw_labels})
    return files_of(folder, attempt), {"name": "teacher"}


def extras(context: Context, *, saw_labels: bool) -> dict[str, Any]:
    """What model.json says beside the network: the raster it was trained on, and whether it ever saw the labels."""
    views = context.recipe.views
    raster = {"size": list(views.size), "num_frames": views.num_frames, "frame_stride": views.frame_stride}
    raster |= {"overflow": views.overflow, "clips_per_video": views.eval.clips_per_video}
    return {"raster": raster, "saw_labels": saw_labels}


def _about(step: Step, folder: Path) -> None:
    from pipeline.artifacts.layout import write_about
    from pipeline.flow.step import describe

    write_about(folder, describe(step))
