"""One micro-batch in, its rasters out: the decode stage of the precompute graph, a plain callable without Ray.

A micro-batch is one row of plain columns. Slots that cannot be decoded carry an error instead of frames; only facts
about the world (a missing file, a full disk) raise. Decoded slots go to an attempt-named part file, which counts as
soon as a marker names it. Where a committed part is named in the row, it is read instead of decoding.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipeline.artifacts.commit import DataObject, new_attempt, read_object, write_table
from pipeline.artifacts.schemas import REPLAY, column, frames_schema, tensor_array
from pipeline.video.raster import RasterView
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw

with_backoff = retry(
    retry=retry_if_exception_type(OSError), stop=stop_after_attempt(4), wait=wait_exponential(0.5, max=8), reraise=True
)


@dataclass(frozen=True)
class FramesJob:
    """What a decode worker needs to know: per plan its view policy and its frames folder."""

    policies: Mapping[str, ViewPolicy]
    folders: Mapping[str, str]
    micro_batch: int
    reader: str = "decord"
    deadline: float = 20.0
    keep_pixels: bool = False


class FramesStage:
    """Decodes (or reads back) one micro-batch; holds one killable child."""

    def __init__(self, job: FramesJob) -> None:
        self.job = job
        fallback = "pyav" if job.reader != "pyav" else None
        self.child = DecodeChild(reader=job.reader, fallback=fallback, deadline=job.deadline)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`row`: plan, shard_id, micro_batch, video_ids, clip_ids, view_ids, uris (n slots each), part (JSON, or "").

        Returns plan, shard_id, micro_batch, slots (JSON, one entry per slot), part (JSON of the data object) and, with
        `keep_pixels`, frames (B, T, H, W, 3) uint8 in which failed and missing slots are zero.
        """
        slots, frames, part = self._read_part(row) if row["part"] else self._decode(row)
        done = {name: row[name] for name in ("plan", "shard_id", "micro_batch")}
        done |= {"slots": json.dumps(slots), "part": json.dumps(asdict(part))}
        return done | ({"frames": frames} if self.job.keep_pixels else {})

    def _decode(self, row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], np.ndarray, DataObject]:
        policy = self.job.policies[row["plan"]]
        frames = np.zeros((self.job.micro_batch, policy.num_frames, *policy.size, 3), np.uint8)
        slots: list[dict[str, Any]] = []
        keys = list(zip(row["video_ids"], row["uris"], row["clip_ids"], row["view_ids"], strict=True))
        for (video_id, uri), group in groupby(keys, key=lambda key: (key[0], key[1])):
            views = [draw(policy, clip_id, int(view_id)) for _, _, clip_id, view_id in group]
            outcome = with_backoff(self.child.decode)(uri, views, policy)
            if isinstance(outcome, DecodeFailure):
                slots += [_failed(video_id, uri, outcome)] * len(views)
                continue
            for view in outcome:
                frames[len(slots)] = view.frames
                slots.append(_replay(video_id, view))
        return slots, frames, self._write_part(row, slots, frames)

    def _write_part(self, row: Mapping[str, Any], slots: list[dict[str, Any]], frames: np.ndarray) -> DataObject:
        good = [index for index, slot in enumerate(slots) if "error" not in slot]
        table = frames_table([slots[index] for index in good], frames[good])
        name = f"{row['shard_id']}.part-{int(row['micro_batch']):05d}.{new_attempt()}.parquet"
        folder = Path(self.job.folders[row["plan"]])
        return with_backoff(write_table)(folder, name, table)

    def _read_part(self, row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], np.ndarray, DataObject]:
        part = DataObject(**json.loads(row["part"]))
        table = with_backoff(read_object)(Path(self.job.folders[row["plan"]]), part)
        policy = self.job.policies[row["plan"]]
        frames = np.zeros((self.job.micro_batch, policy.num_frames, *policy.size, 3), np.uint8)
        frames[: table.num_rows] = column(table, "frames")
        return replay_rows(table), frames, part

    def close(self) -> None:
        self.child.close()


def frames_table(slots: list[dict[str, Any]], frames: np.ndarray) -> pa.Table:
    """Decoded slots and their rasters (n, T, H, W, 3) as a table of the frames schema."""
    _, num_frames, height, width, _ = frames.shape
    schema = frames_schema(num_frames, height, width)
    return pa.table([*replay_arrays(slots, schema), tensor_array(frames)], schema=schema)


def replay_arrays(slots: list[dict[str, Any]], schema: pa.Schema) -> list[pa.Array]:
    """The replay columns of `slots` in schema order."""
    arrays = []
    for name in REPLAY:
        values = [slot[name] for slot in slots]
        if name == "crop":
            arrays.append(tensor_array(np.asarray(values, np.float32).reshape(-1, 4)))
        else:
            arrays.append(pa.array(values, schema.field(name).type))
    return arrays


def replay_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The replay columns of a frames table as slots."""
    crops = column(table, "crop")
    plain = table.select([name for name in REPLAY if name != "crop"]).to_pylist()
    return [row | {"crop": [float(edge) for edge in crop]} for row, crop in zip(plain, crops, strict=True)]


def _replay(video_id: str, view: RasterView) -> dict[str, Any]:
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


def _failed(video_id: str, uri: str, failure: DecodeFailure) -> dict[str, Any]:
    return {"video_id": video_id, "uri": uri, "error": asdict(failure)}
