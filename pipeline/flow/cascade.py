"""The cascade as a list of tasks: assistants in order, the student, the controls, each with its labelling pass.

Every key is known before the first step is trained, because a network's key follows from its job and the keys of what
it reads. So one worker group can take the whole list, and a killed one goes on where its markers end.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import write_about
from pipeline.config.method import CONTROL_TEMPERATURE
from pipeline.config.networks import Network
from pipeline.distill.cascade import plan_assistants, sources_of
from pipeline.distill.data import DataSpec, SourceSpec
from pipeline.distill.spec import Job, Objective
from pipeline.flow.build import network_fields, network_spec, objective, optimiser, train_device
from pipeline.flow.context import Context
from pipeline.flow.step import Step, content, describe, is_done
from pipeline.flow.targets import Targets, network_targets
from pipeline.flow.tasks import LabelTask, StatisticsTask, Task, TrainTask
from pipeline.flow.teacher import Model, extras
from pipeline.flow.videos import Videos, Views
from pipeline.models.spec import NetworkSpec

VERSION = 1
ALONE, ALONE_DOUBLE = "cross-entropy", "cross-entropy, 2× steps"


@dataclass(frozen=True)
class Trained:
    """One network of the cascade with what it was trained on and where its targets are.

    `replicate` r ≥ 1: the same as its namesake of replicate 0, trained with another seed.
    """

    name: str
    role: str
    model: Model
    steps: int
    targets: Targets
    spec: NetworkSpec | None = None
    replicate: int = 0


@dataclass(frozen=True)
class CascadePlan:
    """The tasks in order and the networks they make; the student is the last of `networks`, controls follow apart."""

    tasks: list[Task]
    networks: list[Trained]
    controls: list[Trained]
    replicates: list[Trained] = dataclasses.field(default_factory=list)

    @property
    def student(self) -> Trained:
        return self.networks[-1]


class CascadePlanner:
    """Builds the tasks of one cascade. `teacher` carries the stored targets of the teacher (pinned snapshots)."""

    def __init__(self, context: Context, videos: Videos, views: Views, labels: Path, teacher: Trained) -> None:
        self.context, self.videos, self.views, self.labels = context, videos, views, labels
        self.networks = [teacher]
        self.tasks: list[Task] = []

    def plan(self, *, controls: bool = True) -> CascadePlan:
        """All tasks: the teacher's statistics, K assistants and the student, then the controls."""
        recipe, teacher = self.context.recipe, self.networks[0].targets
        folder = str(teacher.folders["train"])
        self.tasks.append(StatisticsTask("teacher", folder, str(teacher.statistics), teacher.snapshots["train"]))
        specs = [*self._assistants(), network_spec(recipe.student, self.videos.classes)]
        for position, spec in enumerate(specs, start=1):
            last = position == len(specs)
            name = "student" if last else f"assistant-{position}"
            sources = [self.networks[n] for n in sources_of(position, recipe.cascade.wiring)]
            self.networks.append(
                self._train(name, "student" if last else "assistant", spec, objective(recipe), sources, last)
            )
        return CascadePlan(self.tasks, self.networks, self._controls() if controls else [])

    def _assistants(self) -> list[NetworkSpec]:
        recipe = self.context.recipe
        if recipe.cascade.K == 0:
            return []
        from pipeline.models.registry import count_parameters
        from pipeline.models.weights import read_facts

        family = network_spec(recipe.assistants or recipe.student, self.videos.classes)
        teacher = int(read_facts(content(self.networks[0].model.folder))["parameters"])
        student = count_parameters(network_spec(recipe.student, self.videos.classes))
        found = plan_assistants(
            teacher, student, recipe.cascade.K, lambda factor: _widened(family, factor), recipe.cascade.sizes
        )
        return [spec for spec, _ in found]

    def _controls(self) -> list[Trained]:
        """Cross-entropy and KD + standardisation with the student's steps (KD: the cascade's total where K ≥ 1), and
        cross-entropy with twice the steps, without which nobody can tell room from under-training."""
        recipe, teacher = self.context.recipe, self.networks[0]
        spec = network_spec(recipe.student, self.videos.classes)
        total = recipe.train.steps * max(1, len(self.networks) - 1)
        plain = Objective(method="supervised")
        kd = objective(
            recipe,
            method="kd",
            standardize=True,
            temperature=CONTROL_TEMPERATURE,
            lambda_kd=recipe.distill.control_lambda_kd,
        )
        found = [
            self._train(ALONE, "control", spec, plain, [], True),
            self._train("KD + standardisation", "control", spec, kd, [teacher], True, steps=total),
        ]
        if recipe.distill.room:
            found.append(self._train(ALONE_DOUBLE, "control", spec, plain, [], True, steps=2 * recipe.train.steps))
        return found

    def _train(
        self,
        name: str,
        role: str,
        spec: NetworkSpec,
        aim: Objective,
        sources: list[Trained],
        last: bool,
        *,
        steps: int | None = None,
    ) -> Trained:
        step = self._step(name, spec, aim, sources, steps or self.context.recipe.train.steps)
        folder = step.folder(self.context.workspace)
        write_about(folder, describe(step))
        data = DataSpec(
            str(self.views.folders["train"]),
            len(self.videos.classes),
            self.views.digest("train"),
            labels=str(self.labels),
            sources=tuple(self._source(source, aim) for source in sources),
        )
        run_id = "" if is_done(folder) else self.context.track().start_run(name, parent=self.context.parent_run)
        job = self._job(name, step, spec, aim, steps or self.context.recipe.train.steps)
        self.tasks.append(TrainTask(job, data, str(folder), extras(self.context, saw_labels=True), run_id))
        model = Model(name, folder, step.key)
        targets = network_targets(self.context, self.views, model)
        self._label(model, targets, ("eval",) if last else ("train", "eval"))
        return Trained(name, role, model, job.steps, targets, spec)

    def _label(self, model: Model, targets: Targets, plans: tuple[str, ...]) -> None:
        recipe = self.context.recipe
        for plan in plans:
            self.tasks.append(
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
            self.tasks.append(StatisticsTask(model.name, str(targets.folders["train"]), str(targets.statistics)))

    def _section(self, name: str) -> Network:
        """What describes the network `name` beside its widths."""
        recipe = self.context.recipe
        return (recipe.assistants or recipe.student) if name.startswith("assistant") else recipe.student

    def _source(self, source: Trained, aim: Objective) -> SourceSpec:
        targets = source.targets
        needed = aim.effective.lambda_dist > 0 and targets.statistics is not None
        return SourceSpec(
            str(targets.folders["train"]),
            targets.snapshots.get("train"),
            str(targets.statistics) if needed else None,
            targets.class_index,
        )

    def _step(self, name: str, spec: NetworkSpec, aim: Objective, sources: list[Trained], steps: int) -> Step:
        recipe = self.context.recipe
        train = recipe.train
        fields: dict[str, Any] = {
            "network": spec.to_json() | network_fields(self._section(name)),
            "options": dict(spec.options),
            "objective": changed(aim.effective),
            "optimiser": changed(optimiser(train.optimiser)),
            "steps": steps,
            "batch_size": train.batch_size,
            "seed": train.seed,
            "device": train_device(train),
            "dtype": train.dtype,
            "threads": train.threads,
        }
        if aim.effective.method == "staged":
            fields |= {"schedule": recipe.distill.schedule, "share": recipe.distill.share}
        if len(sources) > 1:
            fields |= {"wiring": recipe.cascade.wiring, "source_dropout": recipe.cascade.source_dropout}
        inputs = {
            "train": self.views.digest("train"),
            "labels": self.labels.name,
            "sources": [[source.targets.identity, list(source.targets.class_index or ())] for source in sources],
        }
        return Step("distill", "models", VERSION, fields, inputs, {"name": name, "manifest": self.videos.key})

    def _job(self, name: str, step: Step, spec: NetworkSpec, aim: Objective, steps: int) -> Job:
        recipe = self.context.recipe
        train = recipe.train
        return Job(
            name=name,
            key=step.key,
            network=spec,
            steps=steps,
            objective=aim,
            optimiser=optimiser(train.optimiser),
            batch_size=train.batch_size,
            seed=train.seed,
            schedule=recipe.distill.schedule,
            share=recipe.distill.share,
            wiring=recipe.cascade.wiring,
            source_dropout=recipe.cascade.source_dropout,
            checkpoint_every=train.checkpoint_every,
            log_every=train.log_every,
            threads=train.threads,
            device=train_device(train),
            dtype=train.dtype,
        )


def changed(value: Any) -> dict[str, Any]:
    """The fields of a spec dataclass that differ from their default."""
    plain = value.to_json()
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    return {name: entry for name, entry in plain.items() if getattr(value, name) != defaults[name]}


def _widened(family: NetworkSpec, factor: float) -> tuple[NetworkSpec, int]:
    from pipeline.models.registry import count_parameters, widen_spec

    spec = widen_spec(family, factor)
    return spec, count_parameters(spec)
