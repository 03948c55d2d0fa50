"""What decoding and labelling will cost, before it starts: from a few videos that are decoded, and a few clips that the
teachers answer, for real.

Seconds are those of one core of this machine.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.recipe import Recipe
from pipeline.flow.build import PLANS, frames_job, view_policy
from pipeline.flow.demands import frame_demands, known_capacity, target_demands
from pipeline.flow.dry_sizes import Answers, ToDo, coded_bytes, duration, size
from pipeline.flow.open_plan import OpenPlan
from pipeline.flow.step import content
from pipeline.flow.teacher import OWN, Model
from pipeline.flow.teacher_times import time_teachers
from pipeline.models.facts import read_facts
from pipeline.on_ray.capacity import Capacity
from pipeline.video.views import view_keys

PROBED = 8
ESTIMATE_FROM = 4096  # views: below, probing would take a good part of the time
Passes = Literal["frames", "one", "two"]  # decoding alone; decoding and labelling; both, one after the other


@dataclass(frozen=True)
class Estimate:
    """Sums over what is to do. `hours`: of the recipe's decoders and teachers side by side, as far as they fit, so of
    the slower ones, or of actors that do both in turn; `node_hours`: on `nodes` like this machine. `teacher_seconds`
    is None where they could not be timed: then `hours` is of decoding alone.
    """

    views: int
    frames_bytes: float
    targets_bytes: float | None
    decode_seconds: float
    hours: float
    node_hours: float
    nodes: int
    teacher_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> str:
        """In one line."""
        targets = "" if self.targets_bytes is None else f", targets {size(self.targets_bytes)}"
        known = self.teacher_seconds is not None
        teachers = f"teachers {duration(self.teacher_seconds or 0.0)} of one actor, " if known else ""
        return (
            f"{self.views:,} views; decoding {duration(self.decode_seconds)} of one core, {teachers}"
            f"{duration(self.hours * 3600)} with the recipe's {'actors' if known else 'decoders'}, "
            f"{self.node_hours:.2g} node-hours "
            f"({self.nodes} like this machine); frames {size(self.frames_bytes)}{targets}"
        )


@dataclass(frozen=True)
class Probe:
    """What decoding some videos told: seconds per video of each plan, bytes per view as stored, and how many failed."""

    seconds: Mapping[str, float]
    view_bytes: float
    videos: int
    failed: int


def probe_videos(recipe: Recipe, paths: Sequence[str]) -> Probe:
    """Decode a few videos as the job will: in the decode stage itself, with its child, into a folder of its own."""
    from pipeline.video.micro_batch import FramesStage

    spent: dict[str, float] = {}
    rasters: list[tuple[int, int]] = []
    failed: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="stagedkd-probe-") as folder:
        stage = FramesStage(frames_job(recipe, dict.fromkeys(PLANS, Path(folder)), keep_pixels=False))
        stage(probe_row(recipe, PLANS[0], paths[0]))  # starting the child is not decoding
        for plan in PLANS:
            done = [stage(probe_row(recipe, plan, path)) for path in paths]
            spent[plan] = sum(row["decode_s"] for row in done) / len(paths)
            rasters += [_stored(row) for row in done]
            failed |= {path for path, row in zip(paths, done, strict=True) if _failed(row)}
        stage.close()
    views = sum(count for count, _ in rasters)
    return Probe(spent, sum(size for _, size in rasters) / max(1, views), len(paths), len(failed))


def estimate(
    recipe: Recipe,
    capacity: Capacity,
    to_do: Mapping[str, ToDo],
    probe: Probe,
    teachers: Sequence[Answers] | None,
    passes: Passes = "one",
) -> Estimate:
    """What is to do per plan, by the actors that fit into `capacity`. `teachers`: what each gives, None if that is not
    known. Reading frames back, in a second pass, is not counted."""
    decode = sum(each.videos * probe.seconds[plan] for plan, each in to_do.items())
    seconds, targets = _labelling(recipe, to_do, teachers)
    label = seconds or 0.0
    work: dict[Passes, list[list[float]]] = {
        "frames": [[decode]],
        "one": [[decode, label]],
        "two": [[decode], [0.0, label]],
    }
    each = [_pass(recipe, capacity, *both) for both in work[passes]]
    hours, nodes = sum(taken for taken, _ in each), max(count for _, count in each)
    frames_bytes = sum(each.decoded for each in to_do.values()) * probe.view_bytes
    node_hours = sum(taken * count for taken, count in each)
    views = sum(each.views for each in to_do.values())
    return Estimate(views, frames_bytes, targets, decode, hours, node_hours, nodes, seconds)


def _labelling(
    recipe: Recipe, to_do: Mapping[str, ToDo], teachers: Sequence[Answers] | None
) -> tuple[float | None, float | None]:
    """Seconds and bytes of all teachers' answers; None where they are not known."""
    if teachers is None:
        return None, None
    counted = [(plan, *pair) for plan, each in to_do.items() for pair in zip(each.labels, teachers, strict=True)]
    whole = float(sum(count * coded_bytes(recipe, teacher, plan) for plan, count, teacher in counted))
    if any(teacher.seconds is None for teacher in teachers):
        return None, whole
    return sum(count * (teacher.seconds or 0.0) for _, count, teacher in counted), whole


def _pass(recipe: Recipe, capacity: Capacity, *seconds: float) -> tuple[float, int]:
    """Hours and nodes of decoding, or of decoding and labelling, by actors side by side or by such as do both."""
    _, *pools = target_demands(recipe, capacity) if len(seconds) > 1 else frame_demands(recipe, capacity)
    work = seconds if len(pools) == len(seconds) else [sum(seconds)]
    hours = max(taken / pool.count for taken, pool in zip(work, pools, strict=True)) / 3600
    return hours, math.ceil(sum(pool.count * pool.cpus for pool in pools) / (os.cpu_count() or 1))


def expected(recipe: Recipe, opened: Sequence[OpenPlan], teachers: Sequence[Model]) -> Estimate | None:
    """What a pass over the open shards will take; None for a job so short that probing were a good part of it."""
    to_do = {plan.name: _open(recipe, plan, len(teachers)) for plan in opened}
    if sum(each.views for each in to_do.values()) < ESTIMATE_FROM:
        return None
    paths = [path for plan in opened for path in plan.some_paths(PROBED)][:PROBED]
    probe = probe_videos(recipe, paths)
    if not teachers:
        return estimate(recipe, known_capacity(recipe), to_do, probe, None, "frames")
    facts = [read_facts(content(teacher.folder)) for teacher in teachers]
    own = sum(teacher.name == OWN for teacher in teachers)
    timed = time_teachers(recipe, facts[0]["classes"], own=own > 0, further=len(teachers) > own).each
    seconds = [answers.seconds for answers in timed] if timed else [None] * len(facts)
    said = [Answers(f["num_classes"], tuple(f["dims"]), took) for f, took in zip(facts, seconds, strict=True)]
    return estimate(recipe, known_capacity(recipe), to_do, probe, said)


def _open(recipe: Recipe, plan: OpenPlan, teachers: int) -> ToDo:
    per_video = len(view_keys("v", view_policy(recipe, plan.name), None))
    labels = tuple(plan.unlabelled_views(number) for number in range(teachers))
    return ToDo(plan.undecoded_views // per_video, plan.undecoded_views, plan.open_views, labels)


def probe_row(recipe: Recipe, plan: str, path: str) -> dict[str, Any]:
    """A micro-batch of views of one video, as the decode stage takes it."""
    keys = view_keys("probe", view_policy(recipe, plan), None)[: recipe.plan.micro_batch]
    same = {"plan": plan, "shard_id": "shard-00000000", "micro_batch": 0, "part": "", "teachers": "[]"}
    many = {"video_ids": ["probe"] * len(keys), "uris": [path] * len(keys)}
    return same | many | {"clip_ids": [clip for clip, _ in keys], "view_ids": [view for _, view in keys]}


def _stored(row: Mapping[str, Any]) -> tuple[int, int]:
    """Views and bytes of a finished micro-batch's part."""
    part = json.loads(row["part"]) if row["part"] else {"rows": 0, "size": 0}
    return part["rows"], part["size"]


def _failed(row: Mapping[str, Any]) -> bool:
    return any("error" in slot for slot in json.loads(row["slots"]))
