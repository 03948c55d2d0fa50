"""What decoding and labelling will cost, before it starts: from a few videos that are decoded for real.

Seconds are those of one core of this machine.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe
from pipeline.flow.build import PLANS, frames_job, view_policy
from pipeline.flow.dry_sizes import duration, size
from pipeline.video.views import view_keys

PROBED = 8


@dataclass(frozen=True)
class Estimate:
    """Sums over what is to do. `hours`: of decoding by the recipe's actors, `node_hours`: on `nodes` like this machine.

    The teachers are not timed: beside decoders that keep up they add nothing where they have a device of their own.
    """

    views: int
    frames_bytes: float
    targets_bytes: float | None
    decode_seconds: float
    hours: float
    node_hours: float
    nodes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> str:
        """In one line."""
        targets = "" if self.targets_bytes is None else f", targets {size(self.targets_bytes)}"
        return (
            f"{self.views:,} views; decoding {duration(self.decode_seconds)} of one core, "
            f"{duration(self.hours * 3600)} with the recipe's decoders, {self.node_hours:.2g} node-hours "
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
        stage(_row(recipe, PLANS[0], paths[0]))  # starting the child is not decoding
        for plan in PLANS:
            done = [stage(_row(recipe, plan, path)) for path in paths]
            spent[plan] = sum(row["decode_s"] for row in done) / len(paths)
            rasters += [_stored(row) for row in done]
            failed |= {path for path, row in zip(paths, done, strict=True) if _failed(row)}
        stage.close()
    views = sum(count for count, _ in rasters)
    return Probe(spent, sum(size for _, size in rasters) / max(1, views), len(paths), len(failed))


def estimate(
    recipe: Recipe, videos: Mapping[str, int], views: Mapping[str, int], target_bytes: float | None, probe: Probe
) -> Estimate:
    """For so many videos and views per plan. `target_bytes`: of one view's targets, before compression."""
    section, total = recipe.precompute, sum(views.values())
    decode = sum(videos[plan] * probe.seconds[plan] for plan in videos)
    hours = decode / section.decoders / 3600
    cpus = section.decoders * section.decode_cpus + section.teachers * section.teacher_cpus
    nodes = math.ceil(cpus / (os.cpu_count() or 1))
    frames_bytes = total * probe.view_bytes
    targets = None if target_bytes is None else total * target_bytes
    return Estimate(total, frames_bytes, targets, decode, hours, hours * nodes, nodes)


def _row(recipe: Recipe, plan: str, path: str) -> dict[str, Any]:
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
