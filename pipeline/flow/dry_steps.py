"""The steps of a run as a dry run sees them: keys where configuration alone decides them, and what is still to do."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.layout import Workspace, check_version, read_json
from pipeline.artifacts.places import place
from pipeline.config.networks import GivenTeacher
from pipeline.config.recipe import Recipe
from pipeline.flow.build import PLANS, manifest_root, planned_splits
from pipeline.flow.context import Context
from pipeline.flow.dry_data import Data
from pipeline.flow.dry_sizes import Answers, PlanSize, coded_bytes, size
from pipeline.flow.plans import manifest_step, plan_step, refuse_other_root
from pipeline.flow.precompute import frames_step
from pipeline.flow.run import judged_by_teacher
from pipeline.flow.step import Step, is_done
from pipeline.flow.targets import teacher_steps
from pipeline.flow.teacher import OWN, given_step, more_steps
from pipeline.manifest.plan import difference, read_plan
from pipeline.manifest.table import read_manifest

NO_NAME = "known with manifest.root"
AFTER_FRAMES, AFTER_LABELS, AFTER_TEACHER = "known after frames", "known after labels", "known after the teacher"
AFTER_TARGETS, AFTER_STUDENT = "known after precompute", "known after distill"


@dataclass(frozen=True)
class Row:
    """`key`: eight digits, or what must be known first. `state`: done or to do, and how much."""

    step: str
    key: str
    state: str


@dataclass(frozen=True)
class Open:
    """What is still to do of one plan: `shards` that stand planned, `fresh` ones to be planned."""

    shards: tuple[str, ...]
    fresh: int
    videos: int
    buried: int

    def left(self, done: Collection[str]) -> frozenset[str]:
        """Names of the shards that are not done; fresh ones have none yet."""
        fresh = {f"fresh-{number}" for number in range(self.fresh)}
        return frozenset(shard for shard in self.shards if shard not in done) | fresh

    @property
    def total(self) -> int:
        return len(self.shards) + self.fresh


class Survey:
    """Reads plan and markers of the workspace, where there is one; writes nothing."""

    def __init__(self, recipe: Recipe, data: Data, sizes: Mapping[str, PlanSize]) -> None:
        root = Path(recipe.workspace).absolute()
        self.recipe, self.data, self.sizes = recipe, data, sizes
        elsewhere = place(recipe.storage.root) if recipe.storage.root else None
        self.context = Context(recipe, Workspace(root, elsewhere), "dry-run")
        self.named = bool(recipe.manifest.name or recipe.manifest.root or recipe.simulate)
        self.there = (root / "workspace.json").is_file()
        if self.there:
            found = read_json(root / "workspace.json") or {}
            check_version(found.get("schema"), f"workspace {root}")

    def rows(self, teachers: Sequence[Answers] | None = None) -> list[Row]:
        """All steps in their order. `teachers`: what each gives, where that is known."""
        growing = self._growing() if self.named else self._nameless()
        return [*self._simulate(), *growing, *self._behind(teachers)]

    @cached_property
    def given(self) -> list[Step]:
        """The steps of teachers that are taken as they are, in their order; their weights are digested for it."""
        own = [given_step(self.recipe)] if self._taken else []
        return own + more_steps(self.recipe)

    @property
    def _taken(self) -> bool:
        """Whether the recipe's own teacher is given, and named: the demo's is named on the command line."""
        teacher = self.recipe.teacher
        return not teacher.fit and (teacher.weights is not None or teacher.labeler)

    @cached_property
    def frames(self) -> dict[str, Step]:
        """Per plan."""
        return {plan: frames_step(self.context, plan) for plan in PLANS}

    @cached_property
    def opened(self) -> dict[str, Open]:
        """Per plan."""
        return {plan: self._open(plan) for plan in PLANS}

    def targets(self, plan: str, teacher: Step) -> Step:
        """What `teacher` says of a plan's views."""
        return teacher_steps(self.context, {plan: self.frames[plan].key}, teacher.key)[plan]

    def _simulate(self) -> list[Row]:
        recipe = self.recipe
        if recipe.simulate is None or recipe.manifest.root:
            return []
        state = "to do" if self.data.found is None else "done"
        return [Row("simulate", "-", f"{state}: {sum(self.data.videos.values()):,} videos")]

    def _nameless(self) -> list[Row]:
        steps = ["manifest", *(f"plan {plan}" for plan in PLANS), *(f"frames {plan}" for plan in PLANS)]
        return [Row(step, NO_NAME, "to do") for step in steps]

    def _growing(self) -> list[Row]:
        opened, frames = self.opened, self.frames
        rows = [self._manifest()]
        rows += [Row(f"plan {p}", short(plan_step(self.recipe, p)), self._planned(p, opened[p])) for p in PLANS]
        if not self.recipe.teacher.fit and not self._taken:
            rows.append(Row("teacher (given)", "known with teacher.weights", "to do: name its weights"))
        rows += [Row(f"frames {p}", short(frames[p]), self._shards(frames[p], opened[p])) for p in PLANS]
        for teacher, section in zip(self.given, self._sections(), strict=True):
            done = is_done(teacher.folder(self.context.workspace))
            state = "done" if done else f"to do: take {_taken(section)}"
            rows.append(Row(f"{teacher.about['name']} (given)", short(teacher), state))
        for plan in PLANS:
            for teacher in self.given:
                name, step = teacher.about["name"], self.targets(plan, teacher)
                whose = "" if name == OWN else f" {name}"
                rows.append(Row(f"precompute {plan}{whose}", short(step), self._shards(step, opened[plan])))
        return rows

    def _sections(self) -> list[GivenTeacher]:
        """Of the given teachers, in their order."""
        own: list[GivenTeacher] = [self.recipe.teacher] if self._taken else []
        return [*own, *self.recipe.precompute.more_teachers]

    def _manifest(self) -> Row:
        step = manifest_step(self.recipe)
        folder = step.folder(self.context.workspace)
        if self.data.found is not None:
            refuse_other_root(folder, manifest_root(self.recipe), step)
        before = read_manifest(folder)
        now = _merged(self.data)
        if before is None:
            return Row("manifest", short(step), f"to do: {sum(self.data.videos.values()):,} videos")
        if now is None:
            return Row("manifest", short(step), f"version {before.version} with {before.table.num_rows} videos stands")
        rows = before.table.select(["video_id", "bytes", "etag"]).to_pylist()
        old = {row["video_id"]: f"{row['bytes']}:{row['etag']}" for row in rows}
        new, gone = now.keys() - old.keys(), old.keys() - now.keys()
        changed = [name for name in now.keys() & old.keys() if now[name] != old[name]]
        said = f"{len(new)} new, {len(changed)} changed, {len(gone)} removed videos"
        done = not (new or changed or gone)
        return Row("manifest", short(step), f"done: {len(now)} videos" if done else f"to do: {said}")

    def _open(self, plan: str) -> Open:
        stands = read_plan(plan_step(self.recipe, plan).folder(self.context.workspace))
        if self.data.found is None:
            fresh = 0 if stands.shards else self.sizes[plan].videos
            return Open(tuple(stands.shards), self.sizes[plan].shards_of(fresh), fresh, 0)
        splits = planned_splits(self.recipe, plan)
        sources = {name: source for split in splits for name, source in self.data.found[split].items()}
        new, buried = difference(stands, sources)
        return Open(tuple(stands.shards), self.sizes[plan].shards_of(len(new)), len(new), len(buried))

    def _planned(self, plan: str, opened: Open) -> str:
        views = opened.videos * self.sizes[plan].per_video
        if not opened.videos and not opened.buried:
            return f"done: {opened.total} shards"
        buried = f", {opened.buried} tombstones" if opened.buried else ""
        return f"to do: {opened.videos:,} videos, {views:,} views in {opened.fresh} new shards{buried}"

    def _shards(self, step: Step, opened: Open) -> str:
        done = read_markers(step.folder(self.context.workspace))
        left = len(opened.left(done))
        lost = sum(marker.quarantine.rows for marker in done.values() if marker.quarantine)
        quarantine = f", {lost} videos in quarantine" if lost else ""
        said = f"to do: {left} of {opened.total} shards" if left else f"done: {opened.total} shards"
        return said + quarantine

    def _behind(self, teachers: Sequence[Answers] | None) -> list[Row]:
        """What depends on content: the rasters' digests, then one step on the other."""
        recipe = self.recipe
        teacher = recipe.teacher
        fitted = [
            Row("fit-teacher", AFTER_LABELS, f"{teacher.model}, {teacher.steps} steps of {teacher.batch_size}"),
            Row("precompute", AFTER_TEACHER, _targets_line(recipe, self.sizes, teachers)),
        ]
        rows = [Row("refine-labels", AFTER_FRAMES, _labels_line(recipe)), *(fitted if teacher.fit else [])]
        rows.append(Row("gate", AFTER_TARGETS, _gate_line(recipe, self.data)))
        rows.append(Row("distill", AFTER_TARGETS, _distill_line(recipe)))
        rows.append(Row("evaluate", AFTER_STUDENT, f"{self.data.videos.get(recipe.evaluate.split, 0):,} videos"))
        rows += [Row("export", AFTER_STUDENT, "safetensors, torch.export, model card")]
        if recipe.sweep is not None:
            rows.append(Row("sweep", AFTER_TARGETS, f"{recipe.sweep.trials} trials"))
        return [*rows, Row("report", AFTER_STUDENT, "one HTML page")]


def short(step: Step) -> str:
    return step.key[:8]


def _merged(data: Data) -> dict[str, str] | None:
    if data.found is None:
        return None
    return {name: source for videos in data.found.values() for name, source in videos.items()}


def _taken(section: GivenTeacher) -> str:
    return f"{section.weights} of {section.model}" if section.weights else section.model


def _targets_line(recipe: Recipe, sizes: Mapping[str, PlanSize], teachers: Sequence[Answers] | None) -> str:
    """Of the recipe's own teacher; the further ones have rows of their own."""
    total = sum(plan.shards_of(plan.videos) for plan in sizes.values())
    own = [plan.views * coded_bytes(recipe, teachers[0], plan.name) for plan in sizes.values()] if teachers else []
    return f"{total} shards" + (f", {size(sum(own))} before compression" if own else "")


def _gate_line(recipe: Recipe, data: Data) -> str:
    count = data.videos.get("val", 0) if "val" in recipe.views.eval.splits else 0
    if not count:
        return "cannot look at the teacher: no validation video is planned"
    weak = "goes on" if recipe.teacher.accept_weak else "ends here"
    return f"teacher against majority class on {count:,} validation videos; a run with a weak one {weak}"


def _labels_line(recipe: Recipe) -> str:
    section = recipe.labels
    if section.channel == "none":
        return "the given labels stay (labels.channel: none)"
    if judged_by_teacher(recipe):
        return f"judged by the given teacher, then channel {section.channel}"
    steps = section.steps or recipe.teacher.steps
    return f"{section.folds} fold models of {steps} steps, then channel {section.channel}"


def _distill_line(recipe: Recipe) -> str:
    """Assistants and student; cross-entropy at its multiples and KD with the cascade's total, for each seed."""
    K, controls, train = recipe.cascade.K, recipe.distill.controls, recipe.train
    networks = f"{K} assistant{'s' * (K > 1)}, student" if K else "student"
    cascade = train.steps + K * (recipe.assistants.steps or train.steps)
    alone = sum(max(1, round(multiple * train.steps)) for multiple in controls.cross_entropy)
    total = train.replicates * (cascade * (1 + len(controls.kd)) + alone)
    seeds = f", each with {train.replicates} seeds" if train.replicates > 1 else ""
    return f"{networks} and {len(controls.cross_entropy) + len(controls.kd)} controls{seeds}, {total:,} steps in all"
