"""One micro-batch in, its rasters out: the decode stage of the precompute graph, a plain callable without Ray.

A micro-batch is one row of plain columns. Slots that cannot be decoded carry an error instead of frames; only facts
about the world (a missing file, a full disk) raise, after they were tried again. Decoded slots go to an attempt-named
part file, which counts as soon as a marker names it. Where a committed part is named in the row, it is read instead of
decoding. Either way a slot keeps its place, and one without frames is zero: a teacher sees the same batch.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential

from pipeline.artifacts.commit import DataObject, new_attempt, read_object, write_table
from pipeline.artifacts.patience import Retries
from pipeline.artifacts.places import place
from pipeline.artifacts.schemas import REPLAY, column, frames_schema, image_array, tensor_array
from pipeline.errors import StorageError
from pipeline.video.handle import Limits
from pipeline.video.raster import RasterView
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw

CACHES = ("raw", "jpeg", "none")
Slot = dict[str, Any]
T = TypeVar("T")


def _may_pass(error: BaseException) -> bool:
    """Trouble of a disk, a mount or memory with a video; a store's was waited out where it arose."""
    return isinstance(error, OSError) and not isinstance(error, StorageError)


with_backoff = retry(
    retry=retry_if_exception(_may_pass), stop=stop_after_attempt(4), wait=wait_exponential(0.5, max=8), reraise=True
)


@dataclass(frozen=True)
class FramesJob:
    """What a decode worker needs to know: per plan its view policy and its frames folder (a path or an address).

    `cache`: what parts hold, raw rasters or JPEGs of `jpeg_quality`; with `none` no part is written. `alone`: no second
    reader where `reader` fails.
    """

    policies: Mapping[str, ViewPolicy]
    folders: Mapping[str, str]
    micro_batch: int
    reader: str = "decord"
    deadline: float = 20.0
    keep_pixels: bool = False
    cache: str = "raw"
    jpeg_quality: int = 95
    limits: Limits = field(default_factory=Limits)
    alone: bool = False


class _Planned(NamedTuple):
    video_id: str
    uri: str
    clip_id: str
    view_id: int


class FramesStage:
    """Decodes (or reads back) one micro-batch; holds one killable child."""

    def __init__(self, job: FramesJob) -> None:
        assert job.cache in CACHES, job.cache
        self.job = job
        fallback = None if job.alone else "pyav"
        self.child = DecodeChild(reader=job.reader, fallback=fallback, deadline=job.deadline, limits=job.limits)
        self._retries = 0

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`row`: plan, shard_id, micro_batch, video_ids, clip_ids, view_ids, uris (n slots each), part (JSON, or "").
        A slot whose uri is empty is of a video that was buried since: nothing is decoded or read for it.

        Returns plan, shard_id, micro_batch and teachers as they came, slots (JSON, one entry per slot), part (JSON of
        the data object, "" without a cache), decode_s (seconds that this took), retries and, with `keep_pixels`, frames
        (B, T, H, W, 3) uint8: of a JPEG cache the decoded JPEGs, and zero in failed, absent and missing slots.

        An entry of slots is a replay row, or {video_id, uri, error}; `absent` says that the committed part lacks it, so
        that its video is in quarantine with an earlier reason; a buried video's is {video_id, buried}. OSError where
        storage fails again and again.
        """
        began, self._retries, before = time.monotonic(), 0, Retries.count
        slots, frames, part = self._read_part(row) if row["part"] else self._decode(row)
        done = {name: row[name] for name in ("plan", "shard_id", "micro_batch")}
        done |= {"teachers": row.get("teachers", "[]"), "slots": json.dumps(slots)}
        done |= {"part": json.dumps(asdict(part)) if part else "", "retries": self._retries + Retries.count - before}
        done["decode_s"] = time.monotonic() - began
        return done | ({"frames": frames} if self.job.keep_pixels else {})

    def _decode(self, row: Mapping[str, Any]) -> tuple[list[Slot], np.ndarray, DataObject | None]:
        policy, frames = self.job.policies[row["plan"]], self._no_frames(row)
        slots: list[Slot] = []
        for (video_id, uri), group in groupby(_planned(row), key=lambda planned: planned[:2]):
            if not uri:
                slots += [_buried(planned) for planned in group]
                continue
            views = [draw(policy, planned.clip_id, planned.view_id) for planned in group]
            outcome = self._patiently(self.child.decode, uri, views, policy)
            if isinstance(outcome, DecodeFailure):
                slots += [_failed(video_id, uri, outcome)] * len(views)
                continue
            for view in outcome:
                frames[len(slots)] = view.frames
                slots.append(_replay(video_id, view))
        return slots, frames, None if self.job.cache == "none" else self._write_part(row, slots, frames)

    def _write_part(self, row: Mapping[str, Any], slots: list[Slot], frames: np.ndarray) -> DataObject:
        """Store the good slots; where that loses detail, `frames` become what is stored."""
        good = [index for index, slot in enumerate(slots) if has_frames(slot)]
        quality = self.job.jpeg_quality if self.job.cache == "jpeg" else None
        table = frames_table([slots[index] for index in good], frames[good], quality)
        if quality is not None:
            frames[good] = column(table, "frames")
        name = f"{row['shard_id']}.part-{int(row['micro_batch']):05d}.{new_attempt()}.parquet"
        return write_table(place(self.job.folders[row["plan"]]), name, table)

    def _read_part(self, row: Mapping[str, Any]) -> tuple[list[Slot], np.ndarray, DataObject | None]:
        part = DataObject(**json.loads(row["part"]))
        table = read_object(place(self.job.folders[row["plan"]]), part)
        stored, frames = replay_rows(table), self._no_frames(row)
        at = {(slot["clip_id"], slot["view_id"]): number for number, slot in enumerate(stored)}
        planned = _planned(row)
        found = [at.get((each.clip_id, each.view_id)) if each.uri else None for each in planned]
        kept = [(slot, number) for slot, number in enumerate(found) if number is not None]
        rows = pa.array([number for _, number in kept], pa.int64())
        frames[[slot for slot, _ in kept]] = column(table.take(rows), "frames")
        slots = [_empty(each) if n is None else stored[n] for each, n in zip(planned, found, strict=True)]
        return slots, frames, part

    def _no_frames(self, row: Mapping[str, Any]) -> np.ndarray:
        policy = self.job.policies[row["plan"]]
        return np.zeros((self.job.micro_batch, policy.num_frames, *policy.size, 3), np.uint8)

    def _patiently(self, call: Callable[..., T], *arguments: Any) -> T:
        """The result of a call that meets a video: OSErrors are waited out, and counted."""
        patient = with_backoff(call)
        try:
            return patient(*arguments)
        finally:
            self._retries += patient.statistics["attempt_number"] - 1

    def close(self) -> None:
        self.child.close()


def has_frames(slot: Mapping[str, Any]) -> bool:
    """Whether a slot is a replay row: decoded or read back, neither failed nor buried."""
    return "clip_id" in slot


def frames_table(slots: list[Slot], frames: np.ndarray, jpeg_quality: int | None = None) -> pa.Table:
    """Decoded slots and their rasters (n, T, H, W, 3) as a table of the frames schema, raw or as JPEGs."""
    _, num_frames, height, width, _ = frames.shape
    schema = frames_schema(num_frames, height, width, "raw" if jpeg_quality is None else "jpeg")
    pixels = tensor_array(frames) if jpeg_quality is None else image_array(frames, jpeg_quality)
    return pa.table([*replay_arrays(slots, schema), pixels], schema=schema)


def replay_arrays(slots: list[Slot], schema: pa.Schema) -> list[pa.Array]:
    """The replay columns of `slots` in schema order."""
    arrays = []
    for name in REPLAY:
        values = [slot[name] for slot in slots]
        if name == "crop":
            arrays.append(tensor_array(np.asarray(values, np.float32).reshape(-1, 4)))
        else:
            arrays.append(pa.array(values, schema.field(name).type))
    return arrays


def replay_rows(table: pa.Table) -> list[Slot]:
    """The replay columns of a frames table as slots."""
    crops = column(table, "crop")
    plain = table.select([name for name in REPLAY if name != "crop"]).to_pylist()
    return [row | {"crop": [float(edge) for edge in crop]} for row, crop in zip(plain, crops, strict=True)]


def _planned(row: Mapping[str, Any]) -> list[_Planned]:
    columns = (row["video_ids"], row["uris"], row["clip_ids"], (int(view) for view in row["view_ids"]))
    return [_Planned(*values) for values in zip(*columns, strict=True)]


def _replay(video_id: str, view: RasterView) -> Slot:
    return {
        "clip_id": view.clip_id,
        "view_id": int(view.view_id),
        "video_id": video_id,
        "times": [float(time) for time in view.times],
        "indices": [int(index) for index in view.indices],
        "crop": [float(edge) for edge in view.crop],
        "flip": bool(view.flip),
        "reader": view.reader,
    }


def _failed(video_id: str, uri: str, failure: DecodeFailure) -> Slot:
    return {"video_id": video_id, "uri": uri, "error": asdict(failure)}


def _buried(planned: _Planned) -> Slot:
    return {"video_id": planned.video_id, "buried": True}


def _empty(planned: _Planned) -> Slot:
    return _absent(planned) if planned.uri else _buried(planned)


def _absent(planned: _Planned) -> Slot:
    """A planned view that the committed part does not hold; the reason stands in the shard's quarantine file."""
    earlier = DecodeFailure("absent", "not in the committed frames: see the shard's quarantine", "", "", 0)
    return _failed(planned.video_id, planned.uri, earlier) | {"absent": True}
