"""Micro-batches in any order, doubled, with failed slots: what stands committed, and what in quarantine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts.commit import Marker, commit, read_markers, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column, frames_schema, tensor_array
from pipeline.errors import JobError
from pipeline.targets.committer import ShardCommitter

B = 2


def slot(video: str, view: int) -> dict[str, Any]:
    key = {"clip_id": f"{video}#random1of1", "view_id": view, "video_id": video}
    return key | {"times": [0.0], "indices": [0], "crop": [0.0, 0.0, 1.0, 1.0], "flip": False, "reader": "pyav"}


def failed(video: str) -> dict[str, Any]:
    error = {"reason": "unreadable", "message": "no header", "reader": "pyav", "reader_version": "1", "attempts": 2}
    return {"video_id": video, "uri": f"/data/{video}", "error": error}


def row(frames: Path, number: int, slots: list[dict[str, Any]]) -> dict[str, Any]:
    """A finished micro-batch: its part of the frames is written, its logits say which slot they belong to."""
    import pyarrow as pa

    good = [entry for entry in slots if "error" not in entry]
    schema = frames_schema(1, 8, 8)
    arrays = []
    for field in schema:
        if field.name == "frames":
            arrays.append(tensor_array(np.zeros((len(good), 1, 8, 8, 3), np.uint8)))
        elif field.name == "crop":
            arrays.append(tensor_array(np.asarray([s["crop"] for s in good], np.float32).reshape(-1, 4)))
        else:
            arrays.append(pa.array([s[field.name] for s in good], field.type))
    part = write_table(
        frames, f"shard-00000000.part-{number:05d}.{number:012x}.parquet", pa.table(arrays, schema=schema)
    )
    logits = np.array([[10.0 * number + place, 0.0] for place in range(B)], np.float32)
    parts = {
        "slots": json.dumps(slots),
        "part": json.dumps(asdict(part)),
        "logits": logits,
        "substage_1": logits[:, :1],
    }
    return {"plan": "train", "shard_id": "shard-00000000", "micro_batch": number} | parts


def committer(tmp_path: Path, **changes: Any) -> ShardCommitter:
    base: dict[str, Any] = {
        "parts": {"shard-00000000": 2},
        "frames": tmp_path / "frames",
        "frames_done": {},
        "targets": tmp_path / "targets",
        "dtype": "float32",
        "byte_stream_split": False,
        "facts": {"device": "cpu"},
        "check": lambda: None,
    }
    return ShardCommitter(**(base | changes))


def test_a_shard_is_committed_once_in_slot_order_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    taken = committer(tmp_path)
    second = row(tmp_path / "frames", 1, [slot("b", 0), slot("b", 1)])
    first = row(tmp_path / "frames", 0, [slot("a", 0), slot("a", 1)])
    assert taken.add(second) is None
    assert taken.add(second) is None
    assert taken.open_shards == 1
    assert taken.add(first) == "shard-00000000"
    assert taken.add(first) is None
    stored = open_dataset(tmp_path / "targets").table()
    assert stored.column("video_id").to_pylist() == ["a", "a", "b", "b"]
    assert column(stored, "logits")[:, 0].tolist() == [0.0, 1.0, 10.0, 11.0]
    assert open_dataset(tmp_path / "frames").table(["view_id"]).column("view_id").to_pylist() == [0, 1, 0, 1]


def test_a_video_of_which_one_slot_failed_is_in_quarantine_whole(tmp_path: Path) -> None:
    taken = committer(tmp_path)
    taken.add(row(tmp_path / "frames", 0, [slot("a", 0), slot("b", 0)]))
    taken.add(row(tmp_path / "frames", 1, [failed("b"), slot("c", 0)]))
    for folder in (tmp_path / "targets", tmp_path / "frames"):
        assert open_dataset(folder).table(["video_id"]).column("video_id").to_pylist() == ["a", "c"]
        marker = read_markers(folder)["shard-00000000"]
        assert marker.quarantine is not None
        assert [r["video_id"] for r in pq.read_table(folder / marker.quarantine.name).to_pylist()] == ["b"]
    assert taken.quarantined == {"b": "unreadable"}
    assert column(open_dataset(tmp_path / "targets").table(), "logits")[:, 0].tolist() == [0.0, 11.0]


def test_frames_that_stand_already_keep_their_marker_and_their_quarantine(tmp_path: Path) -> None:
    first = committer(tmp_path, targets=None)
    rows = [row(tmp_path / "frames", 0, [slot("a", 0), failed("b")]), row(tmp_path / "frames", 1, [slot("c", 0)])]
    for finished in rows:
        first.add(finished)
    done = read_markers(tmp_path / "frames")
    later = committer(tmp_path, frames_done=done)
    good = [[slot("a", 0)], [slot("c", 0)]]
    for finished, slots in zip(rows, good, strict=True):
        later.add(finished | {"slots": json.dumps(slots)})
    assert read_markers(tmp_path / "frames") == done
    marker = read_markers(tmp_path / "targets")["shard-00000000"]
    assert marker.quarantine is not None
    assert marker.quarantine.rows == 1
    assert open_dataset(tmp_path / "targets").table(["video_id"]).column("video_id").to_pylist() == ["a", "c"]


def test_a_lost_lease_stops_before_the_marker(tmp_path: Path) -> None:
    def lost() -> None:
        raise JobError("somebody took over")

    taken = committer(tmp_path, check=lost, parts={"shard-00000000": 1})
    with pytest.raises(JobError, match="took over"):
        taken.add(row(tmp_path / "frames", 0, [slot("a", 0)]))
    assert not list((tmp_path / "frames").glob("shard-*.json"))


def test_somebody_else_was_first_and_his_values_stay(tmp_path: Path) -> None:
    taken = committer(tmp_path, parts={"shard-00000000": 1})
    other = Marker("shard-00000000", "0" * 12, ())
    commit(tmp_path / "targets", other)
    taken.add(row(tmp_path / "frames", 0, [slot("a", 0)]))
    assert read_markers(tmp_path / "targets")["shard-00000000"] == other
