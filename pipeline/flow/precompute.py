"""The precompute steps: frames of both plans and the teachers' targets, through one graph, committed by shard.

    a given teacher    one pass: every video is decoded once, cached and labelled by all teachers
    a fitted teacher   frames first; the targets, once it is fitted, read them back

What is done is read from plan and markers before torch or Ray is imported; only open shards enter the graph.
"""

import contextlib
import functools
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any

from pipeline.artifacts.files import replace
from pipeline.artifacts.layout import read_json, write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.snapshot import pin
from pipeline.config.base import identity_fields
from pipeline.errors import ConfigError
from pipeline.flow.build import PLANS, device, frames_job
from pipeline.flow.complete import check_complete
from pipeline.flow.context import Context
from pipeline.flow.demands import frame_demands, labels_in_turn, target_demands, teachers_compute
from pipeline.flow.estimate import expected
from pipeline.flow.kept import kept_of
from pipeline.flow.meter import Meter, summary_path, table
from pipeline.flow.open_plan import OpenPlan
from pipeline.flow.plans import PlanView, plan_step
from pipeline.flow.step import Step, Timing, describe, owner
from pipeline.flow.targets import codec_of, teacher_jobs, teacher_steps
from pipeline.flow.teacher import Model
from pipeline.flow.together import Together
from pipeline.flow.videos import Views
from pipeline.targets.committer import ShardCommitter, TeacherTargets
from pipeline.targets.share import BadShare

LOG = logging.getLogger(__name__)
FRAMES_VERSION = 1


@dataclass(frozen=True)
class Work:
    """What one pass makes: the plans with their open shards, and the steps whose artefacts they write."""

    opened: tuple[OpenPlan, ...]
    frames: dict[str, Step]
    teachers: tuple[Model, ...]
    targets: tuple[dict[str, Step], ...]

    @property
    def shards(self) -> int:
        return sum(len(plan.todo) for plan in self.opened)

    @property
    def labels(self) -> bool:
        """Whether any open shard is to be labelled."""
        return any(plan.teachers(shard) for plan in self.opened for shard in plan.todo)

    def again(self) -> "Work":
        """The same, read anew: others may have committed something while their leases were watched."""
        return replace_fields(self, opened=tuple(replace_fields(plan) for plan in self.opened))

    def written(self, plan: OpenPlan) -> list[Step]:
        """The steps whose artefacts this pass writes to."""
        lacking = {number for shard in plan.todo for number in plan.teachers(shard)}
        frames = plan.cached and not set(plan.todo) <= plan.frames_done
        return [*([self.frames[plan.name]] if frames else []), *(self.targets[n][plan.name] for n in sorted(lacking))]


def frames_step(context: Context, plan: str) -> Step:
    """The (growing) raster cache of one plan. Without a cache the pixels are those of a raw one."""
    section = context.recipe.precompute
    stored = identity_fields(section) if section.frames == "jpeg" else {}
    fields = {"reader": section.reader} | {name: stored[name] for name in ("frames", "jpeg_quality") if name in stored}
    inputs = {"plan": plan_step(context.recipe, plan).key}
    return Step("frames", "frames", FRAMES_VERSION, fields, inputs, {"plan": plan})


def frames(context: Context, plans: dict[str, PlanView], teachers: Sequence[Model] = ()) -> Views:
    """Decode what is planned and not cached yet, and label it by `teachers` on the way; returns the pinned rasters.

    ConfigError where the recipe caches no frames: nothing can be trained or evaluated then.
    """
    refuse_without_frames(context)
    work = open_plans(context, plans, teachers)
    _run(context, "precompute" if teachers else "frames", work)
    folders = {plan.name: plan.frames for plan in work.opened}
    snapshots = {plan: pin(folders[plan], tombstones=plans[plan].tombstones) for plan in PLANS}
    keys = {plan: work.frames[plan].key for plan in PLANS}
    context.keys |= {f"frames-{plan}": key for plan, key in keys.items()}
    return Views(folders, snapshots, keys)


def teacher_targets(
    context: Context, plans: dict[str, PlanView], teachers: Sequence[Model]
) -> tuple[dict[str, Step], ...]:
    """The teachers' targets of every view of both plans; returns their steps, per teacher and plan."""
    work = open_plans(context, plans, teachers)
    _run(context, "precompute", work)
    for number, steps in enumerate(work.targets):
        name = f"targets-{number + 1}" if number else "targets"
        context.keys |= {f"{name}-{plan}": steps[plan].key for plan in PLANS}
    return work.targets


def refuse_without_frames(context: Context) -> None:
    """ConfigError where the recipe keeps targets alone."""
    if context.recipe.precompute.frames == "none":
        raise ConfigError(
            "precompute.frames is none: targets alone are stored, by a given teacher (teacher.fit: false) and with "
            "`stagedkd precompute`; training and evaluation read frames. Set precompute.frames to raw or jpeg"
        )


def open_plans(context: Context, plans: dict[str, PlanView], teachers: Sequence[Model]) -> Work:
    """What is to do, from plan and markers alone."""
    steps = {plan: frames_step(context, plan) for plan in PLANS}
    keys = {plan: step.key for plan, step in steps.items()}
    targets = tuple(teacher_steps(context, keys, teacher.key) for teacher in teachers)
    cached = context.recipe.precompute.frames != "none"
    opened = tuple(
        OpenPlan(
            plan,
            plans[plan],
            steps[plan].folder(context.workspace),
            cached,
            tuple(each[plan].folder(context.workspace) for each in targets),
        )
        for plan in PLANS
    )
    return Work(opened, steps, tuple(teachers), targets)


def _run(context: Context, name: str, work: Work) -> None:
    timing = context.timing(name)
    planned = sum(len(plan.view.shards) for plan in work.opened)
    if not work.shards:
        timing.skipped = True
        LOG.info("%s: done before, %d shards", name, planned)
        return
    with contextlib.ExitStack() as stack:
        checks = _leases(context, work, stack)
        work = work.again()
        views = sum(plan.open_views for plan in work.opened)
        LOG.info("%s: %d of %d shards to do, %d views", name, work.shards, planned, views)
        if not work.shards:
            return
        share = BadShare(context.recipe.precompute.max_bad_share)
        committers = {
            plan.name: _committer(context, plan, work, checks[plan.name], share) for plan in work.opened if plan.todo
        }
        tallies = [committer.tally for committer in committers.values()]
        meter = stack.enter_context(Meter(name, views, tallies, expected(context.recipe, work.opened, work.teachers)))
        for row in _stream(context, name, work, committers, timing, meter):
            committer = committers[row["plan"]]
            if shard := committer.add(row):
                LOG.debug("%s: committed %s of the %s plan", name, shard, row["plan"])
            meter.note(row, len(json.loads(row["slots"])), sum(each.open_shards for each in committers.values()))
        check_complete(work.opened)
        _summarise(context, name, meter.finish() | _kept(context, work))


def _kept(context: Context, work: Work) -> dict[str, Any]:
    """Of a pass that labelled: what the teachers' top-k targets keep of the dense KL."""
    whole = next(plan for plan in work.opened if plan.name == "eval")
    names = [teacher.name for teacher in work.teachers]
    found = kept_of(context.recipe, names, whole.targets) if work.teachers else []
    return {"top_k": found} if found else {}


def _summarise(context: Context, name: str, numbers: dict[str, Any]) -> None:
    """Into the run's record, onto stderr and to MLflow."""
    path = summary_path(context.workspace.run(context.name))
    whole = (read_json(path) or {}) | {name: numbers}
    replace(path, (json.dumps(whole, indent=1) + "\n").encode())
    LOG.info("%s: done\n%s", name, table(numbers))
    if context.recipe.tracking.enabled:
        flat = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
        context.track().log(context.parent_run, {f"{name}/{key}": value for key, value in flat.items()})


def _leases(context: Context, work: Work, stack: contextlib.ExitStack) -> dict[str, Callable[[], None]]:
    """Holds the lease of every artefact that is written; per plan a check that asks all of its own.

    Whoever holds one is watched for half a minute: all of them at the same time, and then they are taken in order.
    """
    leases = {plan.name: [_lease(context, step) for step in work.written(plan)] for plan in work.opened}
    every = [lease for each in leases.values() for lease in each]
    with ThreadPoolExecutor(max(1, len(every))) as threads:
        list(threads.map(Lease.look, every))
    for lease in every:
        stack.enter_context(lease)
    return {plan: functools.partial(_check_all, each) for plan, each in leases.items()}


def _lease(context: Context, step: Step) -> Lease:
    folder = step.folder(context.workspace)
    write_about(folder, describe(step))
    return Lease(folder, owner())


def _check_all(leases: list[Lease]) -> None:
    for lease in leases:
        lease.check()


def _committer(
    context: Context, plan: OpenPlan, work: Work, check: Callable[[], None], share: BadShare
) -> ShardCommitter:
    recipe, root = context.recipe, f"{plan.view.root}/"
    facts = {"device": device(recipe.precompute.device)}
    return ShardCommitter(
        parts={},
        frames=plan.frames if plan.cached else None,
        teachers=tuple(TeacherTargets(folder, codec_of(recipe, plan.name), facts) for folder in plan.targets),
        check=check,
        known=plan.known,
        facts={"micro_batch": recipe.plan.micro_batch},
        uri_of=lambda path: path.removeprefix(root),
        share=share,
    )


def _stream(
    context: Context,
    name: str,
    work: Work,
    committers: dict[str, ShardCommitter],
    timing: Timing,
    meter: Meter,
) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    pools = _pools(context, name, work.labels)
    from pipeline.on_ray.precompute import stream

    build_frames, build_teacher = _stages(context, work)
    timing.startup_s += time.monotonic() - began
    began = time.monotonic()
    meter.begin(pools)
    tables = itertools.chain.from_iterable(_issued(plan, committers) for plan in work.opened)
    yield from stream(tables, build_frames, build_teacher, pools, open_shards=context.recipe.precompute.open_shards)
    timing.work_s += time.monotonic() - began


def _issued(plan: OpenPlan, committers: dict[str, ShardCommitter]) -> Iterator[Any]:
    """The rows of a plan's open shards; the committer learns how many there are of each."""
    for shard, rows in zip(plan.todo, plan.rows(), strict=True):
        committers[plan.name].parts[shard] = rows.num_rows
        yield rows


def _pools(context: Context, name: str, labels: bool) -> Any:
    """As many decode actors as fit beside the teacher's, or actors that do both, once the cluster has them free."""
    recipe, session = context.recipe, context.ray()
    capacity = session.capacity()
    demands = target_demands(recipe, capacity) if labels else frame_demands(recipe, capacity)
    session.require(name, demands)
    from pipeline.on_ray.precompute import Pools

    _, decode, *rest = demands
    together = labels and labels_in_turn(recipe)
    return Pools(decode, rest[0] if rest else None, labels and teachers_compute(recipe), together)


def _stages(context: Context, work: Work) -> tuple[Any, Any]:
    from pipeline.video.micro_batch import FramesStage

    folders = {plan.name: plan.frames for plan in work.opened}
    decode = functools.partial(FramesStage, frames_job(context.recipe, folders, keep_pixels=work.labels))
    if not work.labels:
        return decode, None
    from pipeline.flow.teacher_stage import TeacherStage

    label = functools.partial(TeacherStage, teacher_jobs(context.recipe, work.teachers))
    return (functools.partial(Together, decode, label), None) if labels_in_turn(context.recipe) else (decode, label)
