"""The teacher: fitted on the refined labels in a worker group, or taken as given."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.identity import digest
from pipeline.config.base import identity_fields
from pipeline.config.networks import GivenTeacher, Network
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import (
    fitting_batch,
    manifest_name,
    network_fields,
    network_spec,
    optimiser,
    read_classes,
    testing,
    train_device,
)
from pipeline.flow.context import Context
from pipeline.flow.features import features_version, fit_inputs
from pipeline.flow.host import run_here, run_tasks
from pipeline.flow.seen import of_weights, passed_on, teacher_saw_labels
from pipeline.flow.step import Made, Step, Timing, content, ensure, files_of, is_done
from pipeline.flow.videos import Videos, Views

if TYPE_CHECKING:
    from pipeline.distill.data import DataSpec, ValidationSpec

LOG = logging.getLogger(__name__)
GIVEN_VERSION = 1
FIT_VERSION = 2  # labels are not divided by their mean weight
OWN = "teacher"  # the recipe's own; further ones are teacher-2, …


@dataclass(frozen=True)
class Model:
    """A trained network: its models folder and key."""

    name: str
    folder: Path
    key: str


def fitted_teacher(context: Context, videos: Videos, views: Views, labels: Path) -> Model:
    """The teacher of a recipe with `teacher.fit: true`, trained on the labels artefact `labels`."""
    timing = context.timing("fit-teacher")
    step = fit_step(context, videos, views, labels.name)
    folder = step.folder(context.workspace)
    if is_done(folder):  # known before torch is imported
        timing.skipped = True
        LOG.info("%s: done before (%s)", timing.step, step.key[:8])
    else:
        _fit(context, videos, views, labels, step, timing)
    return Model(OWN, folder, step.key)


def _fit(context: Context, videos: Videos, views: Views, labels: Path, step: Step, timing: Timing) -> None:
    from pipeline.distill.data import DataSpec
    from pipeline.flow.tasks import TrainTask

    folder, section = step.folder(context.workspace), context.recipe.teacher
    fitted_on = (views.folders["train"], views.digest("train"))
    inputs = fit_inputs(context, section, videos.classes, *fitted_on, timing)
    data = DataSpec(str(inputs.folder), len(videos.classes), inputs.snapshot, labels=str(labels), column=inputs.column)
    judged = _validation(context.recipe, videos, views)
    if judged is not None:
        held = fit_inputs(context, section, videos.classes, views.folders["eval"], judged.snapshot, timing)
        judged = replace(judged, frames=str(held.folder), snapshot=held.snapshot, column=held.column)
        data = replace(data, validation=judged)
    run_id = context.track().start_run("teacher", parent=context.parent_run)
    known = extras(context, of_weights(section.weights))
    task = TrainTask(_job(context, videos, step, data), data, str(folder), known, run_id, groups_of(videos))
    _about(step, folder)
    if fits_without_steps(section):  # seconds: less than a worker group takes to start
        run_here(context, task, timing)
    else:
        run_tasks(context, "fit-teacher", [task], timing, step.key)


def fits_without_steps(section: Network) -> bool:
    """Whether the network's head is fitted on stored features in seconds (`head: probe` or `auto`)."""
    return section.model == "frame" and section.options.get("head") in ("probe", "auto")


def groups_of(videos: Videos) -> tuple[tuple[str, str], ...]:
    """(video_id, group) of the training videos, for cross-validation that keeps groups whole."""
    return tuple((videos.ids[row], videos.groups[row]) for row in videos.of("train"))


def fit_step(context: Context, videos: Videos, views: Views, labels_key: str) -> Step:
    """The step of a fitted teacher."""
    inputs: dict[str, Any] = {"labels": labels_key, "train": views.digest("train")}
    if fits_without_steps(context.recipe.teacher):
        inputs["groups"] = digest([list(pair) for pair in groups_of(videos)])
    judged = _validation(context.recipe, videos, views)
    if judged is not None:
        from pipeline.flow.validated import every, looked_at

        inputs["validation"] = [every(None, context.recipe.teacher.steps), *looked_at(judged)]
    about = {"manifest": videos.key, "name": OWN}
    fields = fit_fields(context.recipe) | {"batch_size": teacher_batch(context.recipe, videos)}
    return Step("fit-teacher", "models", FIT_VERSION, fields, inputs, about)


def _validation(recipe: Recipe, videos: Videos, views: Views) -> "ValidationSpec | None":
    """What selects the teacher's best step. ConfigError where it has no steps, or there is nothing to judge by."""
    section = recipe.teacher
    if section.select == "last":
        return None
    if fits_without_steps(section):
        if section.select == "auto":
            return None
        raise ConfigError("teacher.select is best, but its head is fitted without steps: set teacher.select: last")
    from pipeline.flow.validated import validation_spec

    return validation_spec(section.select, videos, views, "teacher.select")


def teacher_batch(recipe: Recipe, videos: Videos) -> int:
    """As the recipe says, or all labelled training videos where there are fewer."""
    labelled = sum(int(videos.labels[row]) >= 0 for row in videos.of("train"))
    if fits_without_steps(recipe.teacher):
        return recipe.teacher.batch_size
    return fitting_batch(recipe, recipe.teacher.batch_size, labelled, "teacher")


def fit_fields(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe decides a fitted teacher, beside what it is fitted on."""
    section, train = recipe.teacher, recipe.train
    return {
        "network": network_fields(section),
        "steps": section.steps,
        "batch_size": section.batch_size,
        "label_smoothing": section.label_smoothing,
        "optimiser": identity_fields(section.optimiser),
        "seed": section.seed,
        **features_version(section),
        "device": train_device(train),
        "dtype": train.dtype,
        "threads": train.threads,
    }


def _job(context: Context, videos: Videos, step: Step, data: "DataSpec") -> Any:
    from pipeline.distill.spec import Job, Objective
    from pipeline.flow.validated import every

    section, train = context.recipe.teacher, context.recipe.train
    return Job(
        name="teacher",
        key=step.key,
        network=network_spec(section, videos.classes),
        steps=section.steps,
        objective=Objective(method="supervised", label_smoothing=section.label_smoothing),
        optimiser=optimiser(section.optimiser),
        batch_size=teacher_batch(context.recipe, videos),
        seed=section.seed,
        select="last" if data.validation is None else "best",
        validate_every=every(None, section.steps),
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        threads=train.threads,
        device=train_device(train),
        dtype=train.dtype,
        batch_field="teacher.batch_size",
    )


def given_step(recipe: Recipe) -> Step:
    """The step of a given teacher: known before anything runs."""
    if recipe.teacher.weights is None and not recipe.teacher.labeler:
        raise ConfigError("teacher.fit is false, so teacher.weights must name the teacher's weights")
    return _given_step(recipe.teacher, OWN, saw_labels=teacher_saw_labels(recipe))


def more_steps(recipe: Recipe) -> list[Step]:
    """The steps of precompute.more_teachers. ConfigError where one names no weights, or two are the same network."""
    steps = []
    for number, section in enumerate(recipe.precompute.more_teachers):
        if section.weights is None and not section.labeler:
            where = f"precompute.more_teachers[{number}]"
            raise ConfigError(f"{where}.weights must name its weights: further teachers are taken as they are")
        steps.append(_given_step(section, more_name(number), saw_labels=True))
    own = [given_step(recipe)] if steps and not recipe.teacher.fit else []
    keys = [step.key for step in own + steps]
    if len(set(keys)) < len(keys):
        raise ConfigError("precompute.more_teachers names a teacher twice (or the recipe's own): leave one out")
    return steps


def more_name(number: int) -> str:
    """`teacher-2` for the first of precompute.more_teachers: the recipe's own is the first teacher."""
    return f"teacher-{number + 2}"


def _given_step(section: GivenTeacher, name: str, *, saw_labels: bool) -> Step:
    fields = {"network": network_fields(section), "classes": list(read_named(section)), "saw_labels": saw_labels}
    fields |= {"labeler": True} if section.labeler else {}
    return Step("given-teacher", "models", GIVEN_VERSION, fields, {}, {"name": name})


def read_named(section: GivenTeacher) -> tuple[str, ...]:
    """The class names of the section's own file, () where it names none."""
    return read_classes(section.classes) if section.classes else ()


def given_teacher(context: Context) -> Model:
    """The teacher of a recipe with `teacher.fit: false`, saved among the models."""
    section = context.recipe.teacher
    return _taken(context, section, given_step(context.recipe), seed=section.seed)


def more_teachers(context: Context) -> list[Model]:
    """precompute.more_teachers, saved among the models: they label in the same decoding pass as the recipe's own."""
    sections = context.recipe.precompute.more_teachers
    return [_taken(context, section, step) for section, step in zip(sections, more_steps(context.recipe), strict=True)]


def given_teachers(context: Context) -> list[Model]:
    """All teachers that are taken as they are: with `teacher.fit: false` the recipe's own first, then the further."""
    own = [] if context.recipe.teacher.fit else [given_teacher(context)]
    return [*own, *more_teachers(context)]


def _taken(context: Context, section: GivenTeacher, step: Step, seed: int = 0) -> Model:
    work = lambda out, attempt: _save_given(section, step, seed, out, attempt)  # noqa: E731
    name = str(step.about["name"])
    folder = ensure(step, context.workspace, work, context.timing(name))
    if section.model == "exported":
        _check_program(context.recipe, folder)
    return Model(name, folder, step.key)


def _check_program(recipe: Recipe, folder: Path) -> None:
    """An exported program takes clips of one shape, and often so many at once: ConfigError before any decoding."""
    from pipeline.models.facts import read_facts
    from pipeline.models.program import check_clip

    spec, views = read_facts(content(folder))["spec"], recipe.views
    program, frames = spec["options"]["program"], views.num_frames
    given = (program["sizes"][1], frames, *(spec["transform"]["size"] or views.size))
    check_clip((recipe.plan.micro_batch, *((frames, *views.size, 3) if program["raster"] else given)), program)


def _save_given(section: GivenTeacher, step: Step, seed: int, folder: Path, attempt: str) -> Made:
    (folder / attempt).mkdir(parents=True, exist_ok=True)
    # No raster: it is the recipe's, and the same weights serve recipes with others.
    said: dict[str, Any] = {"saw_labels": step.fields["saw_labels"]}
    inherited = of_weights(section.weights)
    said |= {"labels_seen": list(inherited)} if inherited else {}
    if section.labeler:
        from pipeline.models.plain import save_plain

        save_plain(folder / attempt, section.model, section.options, said)
        return files_of(folder, attempt), {"name": step.about["name"]}
    from pipeline.models.registry import build_network
    from pipeline.models.weights import save_network

    save_network(folder / attempt, build_network(network_spec(section, read_named(section)), seed=seed), said)
    return files_of(folder, attempt), {"name": step.about["name"]}


def extras(context: Context, *inherited: Iterable[str]) -> dict[str, Any]:
    """What model.json says beside a network that is trained: its raster, and whose labels it has seen, with what its
    teachers and first weights had (`inherited`)."""
    views = context.recipe.views
    raster = {"size": list(views.size), "num_frames": views.num_frames, "frame_stride": views.frame_stride}
    raster |= {"overflow": views.overflow, "clips_per_video": views.eval.clips_per_video}
    return {"raster": raster | testing(context.recipe), **passed_on(manifest_name(context.recipe), *inherited)}


def _about(step: Step, folder: Path) -> None:
    from pipeline.artifacts.layout import write_about
    from pipeline.flow.step import describe

    write_about(folder, describe(step))
