"""The precompute steps: frames of both plans, then the teacher's targets, through one graph each, committed by shard.

What is done is read from plan and markers before torch or Ray is imported; only open shards enter the graph.
"""

import contextlib
import functools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.commit import Marker, read_markers
from pipeline.artifacts.layout import write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.snapshot import pin
from pipeline.errors import JobError
from pipeline.flow.build import PLANS, device, view_policy
from pipeline.flow.context import Context
from pipeline.flow.demands import frame_demands, target_demands
from pipeline.flow.plans import PlanView, plan_step
from pipeline.flow.step import Step, Timing, describe, owner
from pipeline.flow.targets import targets_step
from pipeline.flow.teacher import Model
from pipeline.flow.videos import Views
from pipeline.targets.committer import ShardCommitter

LOG = logging.getLogger(__name__)
FRAMES_VERSION = 1
ROWS = pa.schema(
    [
        ("plan", pa.string()),
        ("shard_id", pa.string()),
        ("micro_batch", pa.int32()),
        ("video_ids", pa.list_(pa.string())),
        ("uris", pa.list_(pa.string())),
        ("clip_ids", pa.list_(pa.string())),
        ("view_ids", pa.list_(pa.int32())),
        ("part", pa.string()),
    ]
)


@dataclass
class OpenPlan:
    """One plan with what is still to do: shards without a marker in `folder` (targets, or frames without a teacher)."""

    name: str
    view: PlanView
    frames: Path
    frames_done: dict[str, Marker]
    targets: Path | None
    todo: list[str]


def frames_step(context: Context, plan: str) -> Step:
    """The (growing) raster cache of one plan."""
    fields = {"reader": context.recipe.precompute.reader}
    return Step(
        "frames", "frames", FRAMES_VERSION, fields, {"plan": plan_step(context.recipe, plan).key}, {"plan": plan}
    )


def frames(context: Context, plans: dict[str, PlanView]) -> Views:
    """Decode what is planned and not cached yet; returns the pinned rasters of both plans."""
    steps = {plan: frames_step(context, plan) for plan in PLANS}
    opened = [_open(context, plan, plans[plan], steps[plan], None) for plan in PLANS]
    _run(context, "frames", opened, steps, None)
    folders = {plan: steps[plan].folder(context.workspace) for plan in PLANS}
    snapshots = {plan: pin(folders[plan], tombstones=plans[plan].tombstones) for plan in PLANS}
    context.keys |= {f"frames-{plan}": steps[plan].key for plan in PLANS}
    return Views(folders, snapshots, {plan: steps[plan].key for plan in PLANS})


def teacher_targets(context: Context, plans: dict[str, PlanView], teacher: Model) -> dict[str, Step]:
    """The teacher's targets of every view of both plans; returns their steps."""
    recipe = context.recipe
    run_device = device(recipe.precompute.device)
    frame_steps = {plan: frames_step(context, plan) for plan in PLANS}
    steps = {
        plan: targets_step(context, frame_steps[plan].key, teacher.key, run_device, recipe.precompute.dtype)
        for plan in PLANS
    }
    opened = [_open(context, plan, plans[plan], frame_steps[plan], steps[plan]) for plan in PLANS]
    _run(context, "precompute", opened, steps, teacher)
    context.keys |= {f"targets-{plan}": steps[plan].key for plan in PLANS}
    return steps


def _open(context: Context, name: str, view: PlanView, frame_step: Step, target_step: Step | None) -> OpenPlan:
    frames_folder = frame_step.folder(context.workspace)
    frames_done = read_markers(frames_folder)
    targets = target_step.folder(context.workspace) if target_step else None
    done = read_markers(targets) if targets else frames_done
    todo = [shard for shard in view.shards if shard not in done]
    return OpenPlan(name, view, frames_folder, frames_done, targets, todo)


def _run(context: Context, name: str, opened: list[OpenPlan], steps: dict[str, Step], teacher: Model | None) -> None:
    timing = context.timing(name)
    shards = sum(len(plan.todo) for plan in opened)
    if not shards:
        timing.skipped = True
        LOG.info("%s: done before, %d shards", name, sum(len(plan.view.shards) for plan in opened))
        return
    views = sum(plan.view.shards[shard].num_rows for plan in opened for shard in plan.todo)
    LOG.info("%s: %d of %d shards to do, %d views", name, shards, sum(len(plan.view.shards) for plan in opened), views)
    with contextlib.ExitStack() as stack:
        leases = {plan.name: _lease(context, plan, steps[plan.name], stack) for plan in opened if plan.todo}
        committers = {plan.name: _committer(context, plan, leases[plan.name].check) for plan in opened if plan.todo}
        for row in _stream(context, name, opened, teacher, timing):
            shard = committers[row["plan"]].add(row)
            if shard:
                LOG.info("%s: committed %s of the %s plan", name, shard, row["plan"])
    _check_complete(opened, committers)


def _lease(context: Context, plan: OpenPlan, step: Step, stack: contextlib.ExitStack) -> Lease:
    folder = step.folder(context.workspace)
    write_about(folder, describe(step))
    return stack.enter_context(Lease(folder, owner()))


def _committer(context: Context, plan: OpenPlan, check: Callable[[], None]) -> ShardCommitter:
    recipe = context.recipe
    root = plan.view.root
    return ShardCommitter(
        parts={shard: len(_micro_batches(plan.view.shards[shard])) for shard in plan.todo},
        frames=plan.frames,
        frames_done=plan.frames_done,
        targets=plan.targets,
        dtype=recipe.precompute.codec.dtype,
        byte_stream_split=recipe.precompute.codec.byte_stream_split,
        facts={"device": device(recipe.precompute.device), "micro_batch": recipe.plan.micro_batch},
        check=check,
        uri_of=lambda path: str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path,
    )


def _stream(
    context: Context, name: str, opened: list[OpenPlan], teacher: Model | None, timing: Timing
) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    pools = _pools(context, name, teacher)
    from pipeline.on_ray.precompute import stream

    timing.startup_s += time.monotonic() - began
    began = time.monotonic()
    build_frames, build_teacher = _stages(context, opened, teacher)
    with tempfile.TemporaryDirectory(prefix="stagedkd-rows-", dir=context.workspace.root) as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(micro_batch_rows(opened), path)
        yield from stream(path, build_frames, build_teacher, pools)
    timing.work_s += time.monotonic() - began


def _pools(context: Context, name: str, teacher: Model | None) -> Any:
    """As many decode actors as fit beside the teacher's, once the cluster has them free."""
    recipe, session = context.recipe, context.ray()
    capacity = session.capacity()
    demands = target_demands(recipe, capacity) if teacher else frame_demands(recipe, capacity)
    session.require(name, demands)
    from pipeline.on_ray.precompute import Pools

    _, decode, *rest = demands
    return Pools(decode, rest[0] if rest else None)


def _stages(context: Context, opened: list[OpenPlan], teacher: Model | None) -> tuple[Any, Any]:
    from pipeline.video.micro_batch import FramesJob, FramesStage

    recipe = context.recipe
    job = FramesJob(
        policies={plan: view_policy(recipe, plan) for plan in PLANS},
        folders={plan.name: str(plan.frames) for plan in opened},
        micro_batch=recipe.plan.micro_batch,
        reader=recipe.precompute.reader,
        deadline=recipe.precompute.deadline,
        keep_pixels=teacher is not None,
    )
    build_frames = functools.partial(FramesStage, job)
    if teacher is None:
        return build_frames, None
    from pipeline.flow.teacher_stage import TeacherStage

    section = recipe.precompute
    build = functools.partial(
        TeacherStage,
        str(teacher.folder),
        recipe.plan.micro_batch,
        device(section.device),
        section.dtype,
        recipe.train.threads,
    )
    return build_frames, build


def micro_batch_rows(opened: list[OpenPlan]) -> pa.Table:
    """The open micro-batches as one row each; `part` names the micro-batch's committed frames, if there are any."""
    rows = [row for plan in opened for shard in plan.todo for row in _shard_rows(plan, shard)]
    return pa.Table.from_pylist(rows, schema=ROWS)


def _shard_rows(plan: OpenPlan, shard: str) -> Iterator[dict[str, Any]]:
    table = plan.view.shards[shard]
    done = plan.frames_done.get(shard)
    for number, (start, stop) in enumerate(_micro_batches(table)):
        part = table.slice(start, stop - start)
        videos = part.column("video_id").to_pylist()
        yield {
            "plan": plan.name,
            "shard_id": shard,
            "micro_batch": number,
            "video_ids": videos,
            "uris": [plan.view.path(video) for video in videos],
            "clip_ids": part.column("clip_id").to_pylist(),
            "view_ids": part.column("view_id").to_pylist(),
            "part": json.dumps(asdict(done.objects[number])) if done else "",
        }


def _micro_batches(table: pa.Table) -> list[tuple[int, int]]:
    """Row ranges of a shard's micro-batches, in order."""
    numbers = table.column("micro_batch").to_numpy()
    starts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1])]
    return list(zip(starts, [*starts[1:], len(numbers)], strict=True))


def _check_complete(opened: list[OpenPlan], committers: dict[str, ShardCommitter]) -> None:
    """targets ∪ quarantine ∪ tombstones = plan: every planned shard must stand committed now."""
    for plan in opened:
        folder = plan.targets or plan.frames
        missing = sorted(set(plan.view.shards) - read_markers(folder).keys())
        if missing:
            raise JobError(f"{folder}: {len(missing)} shards were not committed ({missing[0]} …): run again")
    quarantined = {video: reason for done in committers.values() for video, reason in done.quarantined.items()}
    if quarantined:
        LOG.warning("%d videos in quarantine: %s", len(quarantined), ", ".join(sorted(set(quarantined.values()))))
