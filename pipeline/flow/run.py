"""The main job: all steps in order over one driver and one Ray session; what is done is skipped by its key."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.apart import apart
from pipeline.flow.context import Context
from pipeline.flow.demands import preflight
from pipeline.flow.features import reads_features
from pipeline.flow.gate import gate
from pipeline.flow.host import check_memory
from pipeline.flow.labels import given_labels, refined_labels
from pipeline.flow.plans import PlanView, Retry, scan, stored_plans, update_plans
from pipeline.flow.precompute import frames, frames_step, refuse_without_frames, teacher_targets
from pipeline.flow.probe import validation_predictions
from pipeline.flow.record import summarise, told, track
from pipeline.flow.retry import quarantined
from pipeline.flow.seen import check_starts, teacher_saw_labels
from pipeline.flow.step import Timing
from pipeline.flow.targets import Targets, check_classes, check_substages, check_targets, pin_buried, pinned_targets
from pipeline.flow.teacher import Model, fitted_teacher, given_teachers, more_teachers
from pipeline.flow.videos import Videos, Views
from pipeline.manifest.uris import Uris

if TYPE_CHECKING:
    from pipeline.flow.cascade import CascadePlan, Teachers, Trained

LOG = logging.getLogger(__name__)


@dataclass
class Way:
    """The state on the way: each step sets the next field, and reading one that was not reached is a bug of ours."""

    context: Context
    videos: Videos
    plans: dict[str, PlanView]
    views: Views = field(init=False)
    labels: Path = field(init=False)
    teacher: Model = field(init=False)
    cascade: "CascadePlan" = field(init=False)
    evaluation: Path = field(init=False)
    stored: Targets | None = None
    further: list[tuple[Model, Targets]] = field(default_factory=list)

    @property
    def taught(self) -> "Teachers":
        """What every cascade starts from: the teacher with its stored targets, and further ones with their weights."""
        from pipeline.flow.cascade import Teachers, Trained

        assert self.stored is not None
        own = Trained("teacher", "teacher", self.teacher, _teacher_steps(self.context.recipe), self.stored)
        further = tuple(Trained(model.name, "teacher", model, 0, targets) for model, targets in self.further)
        return Teachers(own, further, self._weights([*further, own]) if further else None)

    def _weights(self, teachers: "Sequence[Trained]") -> tuple[float, ...]:
        """Of sum 1: equal, or by how far each teacher's validation accuracy is above chance."""
        equal = (1 / len(teachers),) * len(teachers)
        if self.context.recipe.distill.extra_teachers == "average":
            return equal
        from pipeline.flow.evaluate import validation_top1

        chance = 1 / len(self.videos.classes)
        above = [max(0.0, validation_top1(self.videos, teacher, teachers[-1]) - chance) for teacher in teachers]
        total = sum(above)
        weights = tuple(round(value / total, 6) for value in above) if total else equal
        said = ", ".join(f"{teacher.name} {weight:.2f}" for teacher, weight in zip(teachers, weights, strict=True))
        LOG.info("the teachers count by their validation accuracy above chance: %s", said)
        return weights


def begin(context: Context, retry: Sequence[str] | None = None) -> Way:
    """simulate (where the recipe says so), manifest and plans: seconds, without torch or Ray.

    `retry`: plan quarantined videos again, those of these reasons (none named: all).
    """
    _refuse_early(context)
    check_starts(context.recipe)
    videos, plans = _scan_and_plan(context, retry)
    return Way(context, videos, plans)


def _refuse_early(context: Context) -> None:
    preflight(context.recipe, local=context.local)
    check_targets(context.recipe)


def _scan_and_plan(context: Context, retry: Sequence[str] | None) -> tuple[Videos, dict[str, PlanView]]:
    videos = scan(context)
    again: Retry = lambda plan: () if retry is None else quarantined(context, plan, retry)  # noqa: E731
    return videos, update_plans(context, videos, again)


def to_frames(way: Way) -> Way:
    """Rasters of both plans. A given teacher is taken first, so classes that do not match end a run before Ray starts,
    and labels in the same pass."""
    refuse_without_frames(way.context)
    teachers = _given(way)
    if teachers:
        check_substages(way.context.recipe, _facts(way.teacher)["dims"])
    way.views = frames(way.context, way.plans, teachers)
    if teachers:
        _label(way, teachers)
    check_memory(way.context, way.views)
    return way


def _given(way: Way) -> list[Model]:
    """The recipe's own teacher, where it is given, and the further ones; none while the own one is to be fitted."""
    if way.context.recipe.teacher.fit:
        return []
    teachers = given_teachers(way.context)
    way.teacher = teachers[0]
    class_index(way.context.recipe, way.teacher, way.videos.classes)
    return teachers


def precompute(context: Context, retry: Sequence[str] | None = None) -> Path:
    """All teachers' targets, and frames where they are cached; the folder of the main teacher's training targets.

    With a given teacher nothing else is needed: no label, no other step, and of the manifest only where videos lie, so
    the driver's memory hardly grows with their number. ConfigError where one is to be fitted and no frames are cached.
    `retry` as for `begin`.
    """
    if context.recipe.teacher.fit:
        fitted = to_targets(begin(context, retry)).stored
        assert fitted is not None
        return fitted.folders["train"]
    _refuse_early(context)
    planned = apart(_plan_alone, context, retry)
    context.timings, context.keys = planned.timings, planned.keys
    plans, teachers = stored_plans(context, planned.uris), given_teachers(context)
    class_index(context.recipe, teachers[0], planned.classes)
    targets = teacher_targets(context, plans, teachers)
    stored = [{name: frames_step(context, name) for name in plans}, *targets]
    pin_buried(context, stored, {name: plan.tombstones for name, plan in plans.items()})
    return targets[0]["train"].folder(context.workspace)


@dataclass(frozen=True)
class Planned:
    """What precompute has to know of scan and plans; the rest is in the store."""

    uris: Uris
    classes: tuple[str, ...]
    timings: list[Timing]
    keys: dict[str, str]


def _plan_alone(context: Context, retry: Sequence[str] | None) -> Planned:
    videos, plans = _scan_and_plan(context, retry)
    return Planned(plans["train"].uris, videos.classes, context.timings, context.keys)


def to_labels(way: Way) -> Way:
    """Refined labels, out of fold; or judged by a given teacher that never saw them, which then labels first."""
    judged_by_teacher(way.context.recipe)
    to_frames(way)
    judge = way.stored if judged_by_teacher(way.context.recipe) else None
    teacher = way.teacher.folder if judge is not None else None
    way.labels = refined_labels(way.context, way.videos, way.views, judge, teacher)
    return way


def judged_by_teacher(recipe: Recipe) -> bool:
    """Whether the recipe lets a given teacher judge the labels. ConfigError where it may have seen them."""
    if recipe.labels.cross_fit or recipe.labels.channel == "none":
        return False
    if recipe.teacher.fit or teacher_saw_labels(recipe):
        raise ConfigError(
            "labels.cross_fit: false needs a given teacher that never saw these labels: teacher.fit: false and "
            "teacher.saw_labels: false; a model judges labels that it was fitted on by repeating them"
        )
    return True


def to_teacher(way: Way) -> Way:
    """The teacher."""
    to_labels(way)
    if way.context.recipe.teacher.fit:
        way.teacher = fitted_teacher(way.context, way.videos, way.views, way.labels)
    way.context.keys["teacher"] = way.teacher.key
    return way


def to_targets(way: Way) -> Way:
    """The teacher's stored targets."""
    to_teacher(way)
    if way.stored is None:
        _label(way, [way.teacher, *more_teachers(way.context)])
    return way


def to_gate(way: Way) -> Way:
    """The teacher has shown that there is something to learn from it, or was accepted without. JobError else."""
    to_targets(way)
    assert way.stored is not None
    recipe = way.context.recipe
    probe = validation_predictions if recipe.teacher.fit and reads_features(recipe.teacher) else None
    gate(way.context, way.videos, way.views, way.labels, way.teacher, way.stored, probe)
    return way


def to_cascade(way: Way) -> Way:
    """The cascade that will learn from them: planned, with an open MLflow run for each network to be trained."""
    to_gate(way)
    from pipeline.flow.cascade import CascadePlanner

    way.cascade = CascadePlanner(way.context, way.videos, way.views, way.labels, way.taught).plan()
    return way


def _label(way: Way, teachers: list[Model]) -> None:
    """All teachers' targets; those of further ones are pinned where they count."""
    steps = teacher_targets(way.context, way.plans, teachers)
    recipe, classes = way.context.recipe, way.videos.classes
    tombstones = {plan: view.tombstones for plan, view in way.plans.items()}
    way.stored = pinned_targets(way.context, steps[0], tombstones, class_index(recipe, way.teacher, classes))
    if recipe.distill.extra_teachers != "ignore":
        way.further = [
            (model, pinned_targets(way.context, own, tombstones, _columns(recipe, model, classes)))
            for model, own in zip(teachers[1:], steps[1:], strict=True)
        ]


def class_index(recipe: Recipe, teacher: Model, classes: Sequence[str]) -> tuple[int, ...] | None:
    """Columns of a given teacher's logits in the manifest's class order; a fitted one has that order already."""
    return None if recipe.teacher.fit else _columns(recipe, teacher, classes)


def _columns(recipe: Recipe, teacher: Model, classes: Sequence[str]) -> tuple[int, ...]:
    from pipeline.models.classes import match_classes

    facts, section = _facts(teacher), recipe.classes
    index = match_classes(facts["classes"] or facts["num_classes"], classes, section.map, section.trust_order)
    columns = tuple(int(column) for column in index)
    check_classes(recipe, columns, facts["num_classes"])
    return columns


def _facts(teacher: Model) -> dict[str, Any]:
    """model.json of a given teacher."""
    from pipeline.flow.step import content
    from pipeline.models.facts import read_facts

    return read_facts(content(teacher.folder))


def to_student(way: Way) -> Way:
    """Assistants, student and controls."""
    to_cascade(way)
    from pipeline.flow.host import run_cells, run_tasks

    student, timing = way.cascade.student.model, way.context.timing("distill")
    run_tasks(way.context, "distill", way.cascade.tasks, timing, student.key)
    run_cells(way.context, "distill", way.cascade.cells, timing, student.key)
    way.context.keys["student"] = student.key
    return way


def to_evaluation(way: Way) -> Way:
    """Metrics of the evaluation split."""
    to_student(way)
    from pipeline.flow.evaluate import evaluate

    way.evaluation = evaluate(way.context, way.videos, way.views, way.cascade)
    return way


def export_step(way: Way) -> Path:
    """The exported student."""
    to_evaluation(way)
    from pipeline.flow.export import export

    return export(way.context, way.videos, way.views, way.labels, way.cascade, way.evaluation)


def report_step(way: Way) -> Path:
    """The page."""
    to_evaluation(way)
    from pipeline.flow.report import report

    return report(way.context, way.videos, way.views, way.labels, way.cascade, way.evaluation)


def run(context: Context) -> Path:
    """Everything. Returns the run's folder with recipe.yaml, summary.json, report.html."""
    began = time.monotonic()
    folder = context.workspace.run(context.name)
    way = begin(context)
    exported = export_step(way)
    if context.recipe.sweep is not None:
        from pipeline.flow.sweep import sweep

        sweep(way)
    if told(folder) != context.keys:
        from pipeline.flow.report import report

        report(context, way.videos, way.views, way.labels, way.cascade, way.evaluation)
        track(context, way, exported)
        summarise(context, way, folder, exported, time.monotonic() - began)
    else:
        LOG.info("everything was done before: nothing to do")
    return folder


def _teacher_steps(recipe: Recipe) -> int:
    return recipe.teacher.steps if recipe.teacher.fit else 0


def labels_step(way: Way) -> Path:
    """Refined labels alone, without the frames where the channel is `none`."""
    to_labels(way)
    given_labels(way.context, way.videos)
    return way.labels
