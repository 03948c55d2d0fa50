"""The sweep: trials over dotted recipe paths, scored on validation, sharing every artefact that has the same key.

A trial is a cascade without controls, trained from the stored targets. It scores the student's video top-1 on the
validation split; the test split is never read.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import read_if_present, replace
from pipeline.config.base import Section, identity_fields
from pipeline.config.load import build_recipe, known_paths, recipe_yaml
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import network_fields, train_device
from pipeline.flow.cascade import CascadePlan, CascadePlanner, Teachers
from pipeline.flow.context import Context
from pipeline.flow.demands import sweep_demands
from pipeline.flow.host import group_work
from pipeline.flow.step import Made, Step, content, ensure, files_of, inside
from pipeline.flow.tasks import Host, execute

LOG = logging.getLogger(__name__)
VERSION = 2  # labels are not divided by their mean weight
RESULTS = "results.json"
SEARCHABLE = ("distill.", "cascade.", "train.", "student.")  # a trial takes teacher and labels as they stand


def sweep(way: Any) -> Path:
    """The sweep artefact; its attempt's folder holds results.json and winner.yaml. `way` has stored targets."""
    context: Context = way.context
    section = context.recipe.sweep
    if section is None:
        raise ConfigError("the recipe has no sweep section: add one (sweep: {trials: 4}) to search")
    _check_space(context.recipe)
    base = trial_recipe(context.recipe, {})
    teachers: Teachers = way.taught
    inputs = {
        "teacher": teachers.own.targets.identity,
        "further": [[each.targets.identity, list(teachers.weights or ())] for each in teachers.further],
        "labels": way.labels.name,
        "eval": way.views.digest("eval"),
        "base": _of_trials(base.distill, "controls")
        | identity_fields(base.cascade)
        | {"train": _of_trials(base.train, "replicates")},
        "student": network_fields(base.student),
        "assistants": network_fields(base.assistant_network) | identity_fields(base.assistants),
    }
    step = Step("sweep", "sweep", VERSION, identity_fields(section), inputs, {"manifest": way.videos.key})
    context.keys["sweep"] = step.key
    timing = context.timing("sweep")
    folder = ensure(step, context.workspace, lambda out, attempt: _sweep(way, teachers, out, attempt, timing), timing)
    _publish(context, content(folder))
    return inside(folder)


def _of_trials(section: Section, without: str) -> dict[str, Any]:
    """The identity fields of a section that a trial reads: trials train no control, and one seed."""
    return {name: value for name, value in identity_fields(section).items() if name != without}


def trial_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe of one trial: the sweep's steps, the trial's values, no sweep inside."""
    plain = recipe.model_dump(mode="json")
    section = plain.pop("sweep") or {}
    if section.get("steps"):
        plain["train"]["steps"] = section["steps"]
    for path, value in values.items():
        *parents, last = path.split(".")
        place = plain
        for parent in parents:
            place = place[parent]
        place[last] = value
    return build_recipe(plain, origin="sweep trial")


def _check_space(recipe: Recipe) -> None:
    """Only what is behind the stored targets may be searched; the targets stay those of the run."""
    assert recipe.sweep is not None
    for path in recipe.sweep.space:
        if not path.startswith(SEARCHABLE) or path not in known_paths():
            raise ConfigError(
                f"sweep.space.{path}: name a known path under one of {', '.join(p + '*' for p in SEARCHABLE)}; what "
                "comes before the stored targets is not searched"
            )


def _sweep(way: Any, teachers: Teachers, folder: Path, attempt: str, timing: Any) -> Made:
    context: Context = way.context
    section = context.recipe.sweep
    assert section is not None
    began = time.monotonic()
    session = context.ray()  # before anything imports ray, which reads its authentication then
    demands = sweep_demands(context.recipe, session.capacity())
    session.require("sweep", demands)
    from pipeline.on_ray.tune import Axis, Plan, search

    nested = min(section.nested_trials, section.trials)
    plan = Plan(
        section.trials - nested,
        nested,
        section.searcher,
        section.seed,
        demands[0].count,
        float(train_device(context.recipe.train) == "cuda"),
    )
    tracker = context.track()
    parent = tracker.start_run("sweep", parent=context.parent_run)
    trial = Trial(
        context.recipe, str(context.workspace.root), way.videos, way.views, way.labels, teachers, tracker, parent
    )
    space = {path: Axis(*_axis(axis)) for path, axis in section.space.items()}
    timing.startup_s += time.monotonic() - began
    outcomes = search(trial.own, trial.nested, space, plan)
    tracker.finish(parent)
    results = [_row(outcome) for outcome in outcomes]
    winner = max((row for row in results if row["score"] is not None), key=lambda row: row["score"])
    made = folder / attempt
    made.mkdir()
    (made / RESULTS).write_text(json.dumps({"trials": results, "winner": winner}, indent=1))
    (made / "winner.yaml").write_text(recipe_yaml(_winner(context.recipe, winner["values"])))
    return files_of(folder, attempt), {"score": winner["score"], "values": winner["values"]}


def _axis(axis: Any) -> tuple[str, tuple[Any, ...]]:
    kind = next(name for name in ("choice", "uniform", "loguniform") if getattr(axis, name) is not None)
    return kind, tuple(getattr(axis, kind))


def _winner(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The winner at full length: the recipe's own steps, without the sweep."""
    assert recipe.sweep is not None
    whole = recipe.model_copy(update={"sweep": recipe.sweep.model_copy(update={"steps": None})})
    return trial_recipe(whole, values)


def _row(outcome: Any) -> dict[str, Any]:
    return {
        "values": outcome.values,
        "score": outcome.score,
        "nested": outcome.nested,
        "student": outcome.result.get("student", ""),
        "error": outcome.error,
        "seconds": outcome.seconds,
    }


def _publish(context: Context, found: Path) -> None:
    """Copies for the eye: runs/<name>/sweep.json and winner.yaml."""
    folder = context.workspace.run(context.name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, copy in ((RESULTS, "sweep.json"), ("winner.yaml", "winner.yaml")):
        data = (found / name).read_bytes()
        if read_if_present(folder / copy) != data:
            replace(folder / copy, data)


class Trial:
    """What both kinds of trials share; travels to the trial's process."""

    def __init__(
        self,
        recipe: Recipe,
        workspace: str,
        videos: Any,
        views: Any,
        labels: Path,
        teachers: Teachers,
        tracker: Any,
        parent: str,
    ) -> None:
        self.recipe, self.workspace = recipe, workspace
        self.videos, self.views, self.labels, self.teachers = videos, views, labels, teachers
        self.tracker, self.parent = tracker, parent

    def own(self, values: Mapping[str, Any], report: Callable[[Mapping[str, float]], None]) -> dict[str, Any]:
        """Train in this process."""
        context, plan = self._plan(values)
        execute(plan.tasks, Host(tracker=self.tracker))
        return self._result(context, plan)

    def nested(self, values: Mapping[str, Any], report: Callable[[Mapping[str, float]], None]) -> dict[str, Any]:
        """Train in a worker group of its own; this process only drives it."""
        from pipeline.on_ray.train import Group, run_group

        context, plan = self._plan(values)
        train = context.recipe.train
        group = Group(train.num_workers, train.cpus_per_worker, train_device(train) == "cuda", train.max_failures)
        run_group(group_work, {"tasks": plan.tasks, "tracker": self.tracker}, name="nested-trial", group=group)
        return self._result(context, plan)

    def _plan(self, values: Mapping[str, Any]) -> tuple[Context, CascadePlan]:
        import torch

        recipe = trial_recipe(self.recipe, values)
        torch.set_num_threads(recipe.train.threads)
        context = Context.open(recipe, "trial")
        name = "trial " + " ".join(f"{path.split('.')[-1]}={_short(value)}" for path, value in sorted(values.items()))
        context.tracker = self.tracker
        context.parent_run = self.tracker.start_run(name, dict(values), self.parent)
        planner = CascadePlanner(context, self.videos, self.views, self.labels, self.teachers)
        return context, planner.plan(controls=False)

    def _result(self, context: Context, plan: CascadePlan) -> dict[str, Any]:
        from pipeline.flow.evaluate import validation_top1

        score = validation_top1(self.videos, plan.student, self.teachers.own)
        self.tracker.log(context.parent_run, {"score": score})
        self.tracker.finish(context.parent_run)
        return {"score": score, "student": plan.student.model.key}


def _short(value: Any) -> str:
    return re.sub(r"(\.\d{3})\d+", r"\1", str(value))
