"""The arms that are set against the pipeline: what one worker process does, micro-batch by micro-batch, without Ray.

    decode    decoding through the killable child, as a decode actor does, and the pixels thrown away
    teacher   forwards of ready rasters, as a teacher actor does
    naive     one shard after the other: read the plan, decode in this process, forward, write the targets; serial

Workers of the naive arm take shards as they come free (a file per shard, made by the first to ask), so that none waits.
They are actors of Ray, or plain processes: those are stronger, as no process of Ray shares the cores with them.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.bench.videos import Films
from jobs.bench.workload import Workload
from pipeline.artifacts.commit import new_attempt, read_markers, read_object, write_table
from pipeline.flow.teacher_stage import TeacherJob, TeacherStage
from pipeline.targets.codec import Codec, table
from pipeline.video.micro_batch import FramesJob, FramesStage
from pipeline.video.raster import RasterView, decode_views
from pipeline.video.reader import reader_named
from pipeline.video.views import View, ViewPolicy

Step = Callable[[], int | None]
PATIENT = 3600.0  # seconds that a video may take here: a child may be paused in the middle of one
RASTERS = 2  # different micro-batches of noise in turn: a forward's time does not depend on what is to be seen


@dataclass(frozen=True)
class Job:
    """What a worker needs; an arm makes one micro-batch before it says that it is ready, unless it is `cold`: then its
    start is part of its time.

    `plan`, `root`, `claims`, `out`: folders of the naive arm; `seconds` None: to the end of the plan, or until stopped.
    """

    arm: str
    load: Workload
    worker: int
    workers: int
    teacher: TeacherJob | None = None
    seconds: float | None = None
    cold: bool = False
    plan: str = ""
    root: str = ""
    claims: str = ""
    out: str = ""

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Job":
        load = given["load"]
        films = Films(**load["films"])
        load = Workload(**load | {"work": Path(load["work"]), "films": films, "size": tuple(load["size"])})
        teacher = given["teacher"]
        if teacher:
            teacher = TeacherJob(**teacher | {"codec": Codec(), "whole": tuple(teacher["whole"])})
        return cls(**given | {"load": load, "teacher": teacher})


class InProcess:
    """In the place of a DecodeChild: the same decoding without a child."""

    def __init__(self, reader: str = "decord") -> None:
        self._reader = reader_named(reader)

    def decode(self, path: str | Path, views: Sequence[View], policy: ViewPolicy) -> list[RasterView]:
        return decode_views(path, views, policy, self._reader)

    def close(self) -> None:
        """There is nothing to end."""


def decode_arm(job: Job) -> Step:
    """A micro-batch a step: its clips."""
    stage = FramesStage(_frames_job(job.load))
    rows = job.load.micro_batches(job.worker, job.workers)
    _good(stage(next(rows)))
    return lambda: _good(stage(next(rows)))


def teacher_arm(job: Job) -> Step:
    """A forward a step, of a whole micro-batch."""
    assert job.teacher is not None
    load, stage = job.load, TeacherStage((job.teacher,))
    rng = np.random.default_rng(job.worker)
    shape = (load.slots, load.num_frames, *load.size, 3)
    rasters = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(RASTERS)]
    turns = iter(range(1 << 62))

    def step() -> int:
        stage({"plan": "train", "frames": rasters[next(turns) % RASTERS], "teachers": "[0]"})
        return load.slots

    step()
    return step


def naive_arm(job: Job) -> Step:
    """A micro-batch a step; a shard's last one is followed by writing its targets. None when no shard is left."""
    assert job.teacher is not None
    frames, teacher = FramesStage(_frames_job(job.load)), TeacherStage((job.teacher,))
    frames.child = InProcess()  # type: ignore[assignment]
    if not job.cold:
        warm = teacher(frames(next(job.load.micro_batches(job.worker, job.workers))))
        _write(Path(job.claims), f"warm-{job.worker}", [warm])
    steps = _naive(job, frames, teacher)
    return lambda: next(steps, None)


def _naive(job: Job, frames: FramesStage, teacher: TeacherStage) -> Iterator[int]:
    for shard, rows in _claimed(job):
        done = []
        for place, row in enumerate(rows):
            done.append(teacher(frames(row)))
            if place == len(rows) - 1:
                _write(Path(job.out), shard, done)
            yield len(row["video_ids"])


def _write(folder: Path, shard: str, done: list[dict[str, Any]]) -> None:
    slots = [json.loads(row["slots"]) for row in done]
    names = [name for name in done[0] if name.startswith("t0.") and name != "t0.batch"]
    packed = {
        name.removeprefix("t0."): np.concatenate([row[name][: len(n)] for row, n in zip(done, slots, strict=True)])
        for name in names
    }
    write_table(folder, f"{shard}.{new_attempt()}.parquet", table(packed, [s for n in slots for s in n], Codec()))


def _claimed(job: Job) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for shard, marker in read_markers(Path(job.plan), "shard-").items():
        try:
            os.close(os.open(Path(job.claims) / shard, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        rows = pa.concat_tables([read_object(Path(job.plan), part) for part in marker.objects])
        yield shard, plan_rows(rows, shard, Path(job.root))


def plan_rows(rows: pa.Table, shard: str, root: Path) -> list[dict[str, Any]]:
    """The micro-batches of a planned shard as rows of the decode stage; the films below `root` in turn."""
    paths = sorted((root / "films").glob("*.mp4"))
    numbers = rows.column("micro_batch").to_numpy()
    found = []
    for number in range(int(numbers[-1]) + 1):
        part = rows.filter(pa.array(numbers == number))
        videos = part.column("video_id").to_pylist()
        uris = [str(paths[int(video.rpartition("-")[2]) % len(paths)]) for video in videos]
        keys = {f"{name}s": part.column(name).to_pylist() for name in ("clip_id", "view_id")}
        row = {"plan": "train", "shard_id": shard, "micro_batch": number, "part": "", "teachers": "[0]"}
        found.append(row | {"video_ids": videos, "uris": uris, **keys})
    return found


ARMS: dict[str, Callable[[Job], Step]] = {"decode": decode_arm, "teacher": teacher_arm, "naive": naive_arm}


def _frames_job(load: Workload) -> FramesJob:
    return FramesJob(
        {"train": load.policy}, {"train": ""}, load.slots, keep_pixels=True, cache="none", deadline=PATIENT
    )


def _good(row: dict[str, Any]) -> int:
    """Clips of a decoded row; films of ours always decode."""
    slots = json.loads(row["slots"])
    bad = [slot["error"] for slot in slots if "error" in slot]
    assert not bad, bad[0]
    return len(slots)
