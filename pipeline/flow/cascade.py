"""The cascade as a list of tasks: assistants in order, the student, the controls, each with its labelling pass.

Every key is known before the first step is trained, because a network's key follows from its job and the keys of what
it reads. So one worker group can take the whole list, and a killed one goes on where its markers end.

With `train.replicates` the whole is trained once for each seed. What does not depend on one another (each control, each
further seed's cascade) is a cell: a list of tasks of its own, which may run beside the others.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import write_about
from pipeline.config.base import identity_fields
from pipeline.config.method import KDControl
from pipeline.config.networks import Network
from pipeline.config.networks import Optimiser as OptimiserSection
from pipeline.config.recipe import Recipe
from pipeline.distill.cascade import plan_assistants, sources_of
from pipeline.distill.data import DataSpec, SourceSpec
from pipeline.distill.spec import Augment, Job, Objective
from pipeline.errors import ConfigError
from pipeline.flow.build import fitting_batch, network_fields, network_spec, objective, optimiser, train_device
from pipeline.flow.context import Context
from pipeline.flow.folds import decodable
from pipeline.flow.seen import names_seen, of_weights
from pipeline.flow.step import Step, content, describe, is_done
from pipeline.flow.targets import Targets, network_targets
from pipeline.flow.tasks import LabelTask, StatisticsTask, Task, TrainTask
from pipeline.flow.teacher import Model, extras
from pipeline.flow.validated import every, looked_at, validation_spec
from pipeline.flow.videos import Videos, Views
from pipeline.models.spec import NetworkSpec

VERSION = 2  # labels are not divided by their mean weight
ALONE, ALONE_DOUBLE = "cross-entropy", "cross-entropy, 2× steps"


@dataclass(frozen=True)
class Trained:
    """One network of the cascade with what it was trained on and where its targets are."""

    name: str
    role: str
    model: Model
    steps: int
    targets: Targets
    spec: NetworkSpec | None = None
    replicate: int = 0


@dataclass(frozen=True)
class Teachers:
    """The recipe's own teacher with its stored targets, and further ones whose logits count beside its own, by
    `weights` (of the further ones in order, then of the own one)."""

    own: Trained
    further: tuple[Trained, ...] = ()
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class CascadePlan:
    """The tasks in order and the networks they make; the student is the last of `networks`, controls follow apart.

    `cells`: lists of tasks that need nothing of one another, only `tasks` before them. `replicates`: student and
    controls of the further seeds, under the same names.
    """

    tasks: list[Task]
    networks: list[Trained]
    controls: list[Trained]
    cells: list[list[Task]] = field(default_factory=list)
    replicates: list[Trained] = field(default_factory=list)

    @property
    def student(self) -> Trained:
        return self.networks[-1]


@dataclass(frozen=True)
class _Arm:
    """One network to be trained: what it is called, what it is, what it learns by. `last`: nothing learns from it."""

    name: str
    role: str
    spec: NetworkSpec
    section: Network
    aim: Objective
    optimiser: OptimiserSection
    steps: int
    last: bool = True


class CascadePlanner:
    """Builds the tasks of one cascade; `teachers` carry stored targets (pinned snapshots)."""

    def __init__(self, context: Context, videos: Videos, views: Views, labels: Path, teachers: Teachers) -> None:
        self.context, self.videos, self.views, self.labels = context, videos, views, labels
        self.teachers = teachers
        self._validation = validation_spec(context.recipe.train.select, videos, views)
        self._tasks: list[Task] = []
        self._replicate = 0

    def plan(self, *, controls: bool = True) -> CascadePlan:
        """All tasks: the teacher's statistics, K assistants and the student, then the controls, for each replicate."""
        teacher, replicates = self.teachers.own.targets, self.context.recipe.train.replicates if controls else 1
        folder = str(teacher.folders["train"])
        statistics = StatisticsTask("teacher", folder, str(teacher.statistics), teacher.snapshots["train"])
        networks = self._cascade()
        tasks = [statistics, *self._taken()]
        alone = [(arm, self._train(arm, sources), self._taken()) for arm, sources in self._controls(controls)]
        found = [trained for _, trained, _ in alone]
        cells = [cell for _, _, cell in alone]
        if replicates == 1:
            return CascadePlan([*tasks, *(task for cell in cells for task in cell)], networks, found)
        further: list[Trained] = []
        for self._replicate in range(1, replicates):
            further.append(self._cascade()[-1])
            cells.append(self._taken())
            for arm, sources in self._controls(controls):
                further.append(self._train(arm, sources))
                cells.append(self._taken())
        self._replicate = 0
        return CascadePlan(tasks, networks, found, cells, further)

    def _taken(self) -> list[Task]:
        """The tasks since the last call."""
        taken, self._tasks = self._tasks, []
        return taken

    def _cascade(self) -> list[Trained]:
        """Teacher, assistants and student, whose tasks are added."""
        recipe, networks = self.context.recipe, [self.teachers.own]
        aim = objective(recipe, len(self.videos.classes))
        own, section, train = recipe.assistants, recipe.assistant_network, recipe.train
        arms = [
            _Arm(f"assistant-{n}", "assistant", spec, section, aim, own.optimiser, own.steps or train.steps, False)
            for n, spec in enumerate(self._assistants(), start=1)
        ]
        student = network_spec(recipe.student, self.videos.classes)
        arms.append(_Arm("student", "student", student, recipe.student, aim, train.optimiser, train.steps))
        for position, arm in enumerate(arms, start=1):
            sources = [networks[n] for n in sources_of(position, recipe.cascade.wiring)]
            networks.append(self._train(arm, sources))
        return networks

    def _assistants(self) -> list[NetworkSpec]:
        recipe = self.context.recipe
        if recipe.cascade.K == 0:
            return []
        from pipeline.models.registry import count_parameters
        from pipeline.models.weights import read_facts

        family = network_spec(recipe.assistant_network, self.videos.classes)
        teacher = int(read_facts(content(self.teachers.own.model.folder))["parameters"])
        student = count_parameters(network_spec(recipe.student, self.videos.classes))
        found = plan_assistants(
            teacher, student, recipe.cascade.K, lambda factor: _widened(family, factor), recipe.cascade.sizes
        )
        return [spec for spec, _ in found]

    def _controls(self, wanted: bool) -> list[tuple[_Arm, list[Trained]]]:
        """Cross-entropy at multiples of the student's steps, and the KD controls (with the cascade's total where
        K ≥ 1): the student's network, without staging."""
        recipe = self.context.recipe
        section, train = recipe.distill.controls, recipe.train
        spec = network_spec(recipe.student, self.videos.classes)
        plain, optimiser = Objective(method="supervised"), section.optimiser or train.optimiser
        found: list[tuple[_Arm, list[Trained]]] = []
        for multiple in section.cross_entropy if wanted else ():
            steps = max(1, round(multiple * train.steps))
            name = alone_name(multiple)
            found.append((_Arm(name, "control", spec, recipe.student, plain, optimiser, steps), []))
        total = train.steps + recipe.cascade.K * (recipe.assistants.steps or train.steps)
        for name, control in kd_names(recipe, len(self.videos.classes)) if wanted else ():
            chosen = ("lambda_kd", "lambda_ce", "temperature", "standardize")
            weights = {field: getattr(control, field) for field in chosen}
            aim = objective(recipe, len(self.videos.classes), method="kd", **weights)
            learning = control.optimiser or train.optimiser
            arm = _Arm(name, "control", spec, recipe.student, aim, learning, total)
            found.append((arm, [self.teachers.own]))
        return found

    def _train(self, arm: _Arm, sources: list[Trained]) -> Trained:
        weights = None
        if self.teachers.further and sources and sources[0] is self.teachers.own:
            sources, weights = [*self.teachers.further, *sources], self.teachers.weights
        batch = self._batch(arm, bool(sources))
        step = self._step(arm, sources, weights, batch)
        folder = step.folder(self.context.workspace)
        write_about(folder, describe(step))
        data = DataSpec(
            str(self.views.folders["train"]),
            len(self.videos.classes),
            self.views.digest("train"),
            labels=str(self.labels),
            sources=tuple(self._source(source, arm.aim) for source in sources),
            validation=self._validation,
        )
        called = arm.name if not self._replicate else f"{arm.name}, seed {self._replicate + 1}"
        run_id = "" if is_done(folder) else self.context.track().start_run(called, parent=self.context.parent_run)
        job = self._job(arm, called, step, weights if sources else None, bool(sources), batch)
        self._tasks.append(TrainTask(job, data, str(folder), self._extras(arm, sources), run_id))
        model = Model(called, folder, step.key)
        targets = network_targets(self.context, self.views, model)
        self._label(model, targets, ("eval",) if arm.last else ("train", "eval"))
        return Trained(arm.name, arm.role, model, job.steps, targets, arm.spec, self._replicate)

    def _batch(self, arm: _Arm, taught: bool) -> int:
        """As the recipe says, or all clips where there are fewer: labelled ones alone for who asks no teacher."""
        wanted, rows = self.context.recipe.train.batch_size, self.videos.of("train")
        known = rows if taught else [row for row in rows if self.videos.labels[row] >= 0]
        if not 0 < len(known) < wanted:
            return wanted
        there = set(decodable(self.videos, self.views, "train"))
        return fitting_batch(self.context.recipe, wanted, len(there & set(known)), arm.name)

    def _extras(self, arm: _Arm, sources: list[Trained]) -> dict[str, Any]:
        """Of model.json: the labels that the teachers and the first weights have seen are seen by it, too.

        An assistant that is still to be trained says nothing yet: what it will have seen is what its own first weights
        and the teacher have.
        """
        recipe, asked = self.context.recipe, [*sources, self.teachers.own] if sources else []
        taught = [names_seen(content(source.model.folder)) for source in asked if is_done(source.model.folder)]
        if sources and recipe.cascade.K:
            taught.append(of_weights(recipe.assistant_network.weights))
        return extras(self.context, of_weights(arm.section.weights), *taught)

    def _label(self, model: Model, targets: Targets, plans: tuple[str, ...]) -> None:
        recipe = self.context.recipe
        for plan in plans:
            self._tasks.append(
                LabelTask(
                    name=f"{model.name} labels {plan}",
                    model=str(model.folder),
                    frames=str(self.views.folders[plan]),
                    snapshot=self.views.digest(plan),
                    out=str(targets.folders[plan]),
                    micro_batch=recipe.plan.micro_batch,
                    device=train_device(recipe.train),
                    codec=recipe.precompute.codec.dtype,
                    threads=recipe.train.threads,
                )
            )
        if "train" in plans:
            self._tasks.append(StatisticsTask(model.name, str(targets.folders["train"]), str(targets.statistics)))

    def _source(self, source: Trained, aim: Objective) -> SourceSpec:
        targets = source.targets
        needed = aim.effective.lambda_dist > 0 and targets.statistics is not None
        return SourceSpec(
            str(targets.folders["train"]),
            targets.snapshots.get("train"),
            str(targets.statistics) if needed else None,
            targets.class_index,
        )

    def _step(self, arm: _Arm, sources: list[Trained], weights: tuple[float, ...] | None, batch: int) -> Step:
        recipe = self.context.recipe
        train = recipe.train
        fields: dict[str, Any] = {
            "network": arm.spec.to_json() | network_fields(arm.section),
            "options": dict(arm.spec.options),
            "objective": changed(arm.aim.effective),
            "optimiser": identity_fields(arm.optimiser),
            "steps": arm.steps,
            "batch_size": batch,
            "seed": train.seed + self._replicate,
            "device": train_device(train),
            "dtype": train.dtype,
            "threads": train.threads,
        }
        if arm.aim.effective.method == "staged":
            fields |= {"schedule": recipe.distill.schedule, "share": recipe.distill.share}
        if sources and train.labelled_share is not None:
            fields["labelled_share"] = train.labelled_share
        if identity_fields(train.augment):
            fields["augment"] = identity_fields(train.augment)
        if self._validation is not None:
            fields["select"] = [every(train.validate_every, arm.steps), train.patience]
        chosen = ("ema", "recalibrate_norm")
        fields |= {name: value for name, value in identity_fields(train).items() if name in chosen}
        if weights is not None:
            fields["source_weights"] = list(weights)
        elif len(sources) > 1:
            fields |= {"wiring": recipe.cascade.wiring, "source_dropout": recipe.cascade.source_dropout}
        inputs: dict[str, Any] = {
            "train": self.views.digest("train"),
            "labels": self.labels.name,
            "sources": [[source.targets.identity, list(source.targets.class_index or ())] for source in sources],
        }
        if self._validation is not None:
            inputs["validation"] = looked_at(self._validation)
        return Step("distill", "models", VERSION, fields, inputs, {"name": arm.name, "manifest": self.videos.key})

    def _job(
        self, arm: _Arm, called: str, step: Step, weights: tuple[float, ...] | None, taught: bool, batch: int
    ) -> Job:
        recipe = self.context.recipe
        train = recipe.train
        return Job(
            name=called,
            key=step.key,
            network=arm.spec,
            steps=arm.steps,
            objective=arm.aim,
            optimiser=optimiser(arm.optimiser),
            batch_size=batch,
            seed=train.seed + self._replicate,
            schedule=recipe.distill.schedule,
            share=recipe.distill.share,
            wiring=recipe.cascade.wiring,
            source_dropout=recipe.cascade.source_dropout,
            source_weights=weights,
            labelled_share=train.labelled_share if taught else None,
            augment=Augment(**train.augment.model_dump()),
            select="last" if self._validation is None else "best",
            validate_every=every(train.validate_every, arm.steps),
            patience=train.patience,
            ema=train.ema,
            recalibrate_norm=train.recalibrate_norm,
            checkpoint_every=train.checkpoint_every,
            log_every=train.log_every,
            threads=train.threads,
            device=train_device(train),
            dtype=train.dtype,
        )


def alone_name(multiple: float) -> str:
    """What cross-entropy with that multiple of the student's steps is called in every table."""
    return ALONE if multiple == 1 else f"{ALONE}, {multiple:g}× steps"


def kd_names(recipe: Recipe, classes: int) -> list[tuple[str, KDControl]]:
    """Each KD control with what it is called: what it really is, with its weight where two would be called the same."""
    controls = recipe.distill.controls.kd
    plain = ["KD + standardisation" if c.standardize and classes > 2 else "KD" for c in controls]
    weights = [f"{name}, λ {c.lambda_kd:g}" for name, c in zip(plain, controls, strict=True)]
    named = [name if plain.count(name) == 1 else longer for name, longer in zip(plain, weights, strict=True)]
    full = [
        name if named.count(name) == 1 else f"{name}, τ {c.temperature:g}"
        for name, c in zip(named, controls, strict=True)
    ]
    if len(set(full)) < len(full):
        raise ConfigError("distill.controls.kd lists the same control twice: leave one out")
    return list(zip(full, controls, strict=True))


def changed(value: Any) -> dict[str, Any]:
    """The fields of a spec dataclass that differ from their default."""
    plain = value.to_json()
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    return {name: entry for name, entry in plain.items() if getattr(value, name) != defaults[name]}


def _widened(family: NetworkSpec, factor: float) -> tuple[NetworkSpec, int]:
    from pipeline.models.registry import count_parameters, widen_spec

    spec = widen_spec(family, factor)
    return spec, count_parameters(spec)
