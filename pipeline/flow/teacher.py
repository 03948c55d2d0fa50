"""The teacher: fitted on the refined labels in a worker group, or taken as given."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.base import identity_fields
from pipeline.errors import ConfigError
from pipeline.flow.build import network_fields, network_spec, optimiser, read_classes, train_device
from pipeline.flow.context import Context
from pipeline.flow.host import run_tasks
from pipeline.flow.labels import Views
from pipeline.flow.step import Made, Step, ensure, files_of
from pipeline.flow.videos import Videos

LOG = logging.getLogger(__name__)
FIT_VERSION = GIVEN_VERSION = 1


@dataclass(frozen=True)
class Model:
    """A trained network: its models folder and key."""

    name: str
    folder: Path
    key: str


def teacher(context: Context, videos: Videos, views: Views, labels: Path | None) -> Model:
    """The teacher of the recipe. `labels` None means that only a given teacher can be meant (`teacher.fit: false`)."""
    model = _fit(context, videos, views, labels) if context.recipe.teacher.fit else _given(context, videos)
    context.keys["teacher"] = model.key
    return model


def _fit(context: Context, videos: Videos, views: Views, labels: Path | None) -> Model:
    from pipeline.distill.data import DataSpec
    from pipeline.flow.tasks import TrainTask

    assert labels is not None
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


def _given(context: Context, videos: Videos) -> Model:
    section = context.recipe.teacher
    if section.weights is None:
        raise ConfigError("teacher.fit is false, so teacher.weights must name the teacher's weights")
    classes = read_classes(section.classes) if section.classes else ()
    fields = {"network": network_fields(section), "classes": list(classes), "saw_labels": section.saw_labels}
    step = Step("given-teacher", "models", GIVEN_VERSION, fields, {}, {"name": "teacher"})
    folder = ensure(
        step,
        context.workspace,
        lambda out, attempt: _save_given(context, classes, out, attempt),
        context.timing("teacher"),
    )
    return Model("teacher", folder, step.key)


def _save_given(context: Context, classes: tuple[str, ...], folder: Path, attempt: str) -> Made:
    from pipeline.models.registry import build_network
    from pipeline.models.weights import save_network

    section = context.recipe.teacher
    network = build_network(network_spec(section, classes), seed=section.seed)
    (folder / attempt).mkdir()
    save_network(folder / attempt, network, extras(context, saw_labels=section.saw_labels))
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
