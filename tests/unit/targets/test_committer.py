"""Micro-batches in any order, doubled, with failed slots: what stands committed, and what in quarantine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_markers, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column, frames_schema, tensor_array
from pipeline.errors import JobError
from pipeline.targets.codec import Codec
from pipeline.targets.committer import ShardCommitter, TeacherTargets
from pipeline.targets.share import BadShare

B = 2


def slot(video: str, view: int) -> dict[str, Any]:
    key = {"clip_id": f"{video}#random1of1", "view_id": view, "video_id": video}
    return key | {"times": [0.0], "indices": [0], "crop": [0.0, 0.0, 1.0, 1.0], "flip": False, "reader": "pyav"}


def failed(video: str) -> dict[str, Any]:
    error = {"reason": "unreadable", "message": "no header", "reader": "pyav", "reader_version": "1", "attempts": 2}
    return {"video_id": video, "uri": f"/data/{video}", "error": error}


def row(
    frames: Path, number: int, slots: list[dict[str, Any]], teachers: tuple[int, ...] = (0,), shard: int = 0
) -> dict[str, Any]:
    """A finished micro-batch: its part of the frames is written, its logits say which slot they belong to."""
    import pyarrow as pa

    good = [entry for entry in slots if "clip_id" in entry]
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
        frames, f"shard-{shard:08d}.part-{number:05d}.{new_attempt()}.parquet", pa.table(arrays, schema=schema)
    )
    logits = np.array([[10.0 * number + place, 0.0] for place in range(B)], np.float32)
    done = {"plan": "train", "shard_id": f"shard-{shard:08d}", "micro_batch": number, "decode_s": 1.5}
    done |= {"slots": json.dumps(slots), "part": json.dumps(asdict(part)), "teachers": json.dumps(teachers)}
    for teacher in teachers:
        done |= {f"t{teacher}.logits": logits + 100 * teacher, f"t{teacher}.substage_1": logits[:, :1]}
        done |= {f"t{teacher}.batch": B, "teacher_s": 0.25, "runtime": '{"torch": null}'}
    return done


def committer(tmp_path: Path, **changes: Any) -> ShardCommitter:
    base: dict[str, Any] = {
        "parts": {"shard-00000000": 2},
        "frames": tmp_path / "frames",
        "teachers": (TeacherTargets(tmp_path / "targets", Codec("float32"), {"device": "cpu"}),),
        "facts": {"micro_batch": B},
        "check": lambda: None,
    }
    return ShardCommitter(**(base | changes))


def videos_in(folder: Path) -> list[str]:
    return open_dataset(folder).table(["video_id"]).column("video_id").to_pylist()


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
    assert taken.tally.quarantined == {"b": "unreadable"}
    assert (taken.tally.videos, taken.tally.views) == (3, 2)
    assert column(open_dataset(tmp_path / "targets").table(), "logits")[:, 0].tolist() == [0.0, 11.0]


def test_a_buried_video_is_neither_stored_nor_in_quarantine_nor_counted(tmp_path: Path) -> None:
    taken = committer(tmp_path, share=BadShare(0.0))
    buried = {"video_id": "b", "buried": True}
    taken.add(row(tmp_path / "frames", 0, [slot("a", 0), buried]))
    taken.add(row(tmp_path / "frames", 1, [buried, slot("c", 0)]))
    assert videos_in(tmp_path / "targets") == ["a", "c"]
    assert column(open_dataset(tmp_path / "targets").table(), "logits")[:, 0].tolist() == [0.0, 11.0]
    assert (taken.tally.videos, taken.tally.views, taken.tally.quarantined) == (2, 2, {})


def test_frames_that_stand_already_keep_their_marker_and_their_quarantine(tmp_path: Path) -> None:
    first = committer(tmp_path, teachers=())
    rows = [row(tmp_path / "frames", 0, [slot("a", 0), failed("b")]), row(tmp_path / "frames", 1, [slot("c", 0)])]
    for finished in rows:
        first.add(finished | {"teachers": "[]"})
    done = read_markers(tmp_path / "frames")
    assert done["shard-00000000"].facts == {"micro_batch": B, "seconds": 3.0}
    later = committer(tmp_path, known=lambda shard: (tmp_path / "frames", done[shard]), share=BadShare(0.001))
    absent = failed("b") | {"absent": True}
    for finished, slots in zip(rows, [[slot("a", 0), absent], [slot("c", 0)]], strict=True):
        later.add(finished | {"slots": json.dumps(slots)})
    assert read_markers(tmp_path / "frames") == done
    marker = read_markers(tmp_path / "targets")["shard-00000000"]
    assert marker.quarantine is not None
    assert pq.read_table(tmp_path / "targets" / marker.quarantine.name)["reason"].to_pylist() == ["unreadable"]
    assert marker.facts == {"micro_batch": B, "device": "cpu", "seconds": 0.5, "runtime": [{"torch": None}]}
    assert videos_in(tmp_path / "targets") == ["a", "c"]
    assert later.tally.quarantined == {}


def test_several_teachers_write_each_its_own_and_only_those_that_lack_the_shard(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    teachers = tuple(TeacherTargets(folder, Codec("float32")) for folder in folders)
    taken = committer(tmp_path, teachers=teachers, parts={"shard-00000000": 1, "shard-00000001": 1})
    taken.add(row(tmp_path / "frames", 0, [slot("a", 0), failed("b")], teachers=(0, 1)))
    taken.add(row(tmp_path / "frames", 0, [slot("c", 0)], teachers=(1,), shard=1))
    assert videos_in(folders[0]) == ["a"]
    assert videos_in(folders[1]) == ["a", "c"]
    assert column(open_dataset(folders[1]).table(), "logits")[:, 0].tolist() == [100.0, 100.0]
    assert videos_in(tmp_path / "frames") == ["a", "c"]


def test_without_a_cache_quarantine_lies_beside_the_targets(tmp_path: Path) -> None:
    taken = committer(tmp_path, frames=None, parts={"shard-00000000": 1})
    taken.add(row(tmp_path / "parts", 0, [slot("a", 0), failed("b")]) | {"part": ""})
    assert not (tmp_path / "frames").exists()
    marker = read_markers(tmp_path / "targets")["shard-00000000"]
    assert marker.quarantine is not None
    assert marker.quarantine.rows == 1
    assert (taken.tally.frames_bytes, taken.tally.targets_bytes > 0) == (0, True)


def test_a_halved_micro_batch_stands_in_the_marker(tmp_path: Path) -> None:
    taken = committer(tmp_path)
    taken.add(row(tmp_path / "frames", 0, [slot("a", 0)]))
    taken.add(row(tmp_path / "frames", 1, [slot("b", 0)]) | {"t0.batch": 1})
    assert read_markers(tmp_path / "targets")["shard-00000000"].facts["forward"] == 1
    assert taken.tally.halved == 1


def test_too_many_bad_videos_stop_the_job_and_each_counts_once(tmp_path: Path) -> None:
    share = BadShare(0.1)
    taken = committer(tmp_path, parts={"shard-00000000": 99}, share=share)
    for number in range(45):
        taken.add(row(tmp_path / "frames", number, [slot(f"a{number}", 0), slot(f"b{number}", 0)]))
    for number in range(45, 50):  # two views of the same video, as before and after
        taken.add(row(tmp_path / "frames", number, [failed(f"c{number // 2}"), failed(f"c{number // 2}")]))
    for number in range(50, 53):
        taken.add(row(tmp_path / "frames", number, [failed(f"d{number}"), failed(f"e{number}")]))
    with pytest.raises(JobError, match=r"11 of the last 101 videos .* 11 unreadable.*/data/f \(unreadable\)"):
        taken.add(row(tmp_path / "frames", 53, [failed("d53"), failed("f")]))
    assert not list((tmp_path / "frames").glob("shard-*.json"))


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
    assert taken.add(row(tmp_path / "frames", 0, [slot("a", 0)])) == "shard-00000000"
    assert read_markers(tmp_path / "targets")["shard-00000000"] == other
    assert not list((tmp_path / "targets").glob("*.parquet"))
    assert taken.tally.targets_bytes == 0


def test_frames_that_somebody_committed_first_with_another_quarantine_stop_the_job(tmp_path: Path) -> None:
    taken = committer(tmp_path, parts={"shard-00000000": 1})
    commit(tmp_path / "frames", Marker("shard-00000000", "0" * 12, ()))
    with pytest.raises(JobError, match="with other videos in quarantine"):
        taken.add(row(tmp_path / "frames", 0, [slot("a", 0), failed("b")]))
    assert not (tmp_path / "targets").exists()


def test_nothing_of_a_committed_shard_stays_in_memory(tmp_path: Path) -> None:
    taken = committer(tmp_path, parts={f"shard-{number:08d}": 1 for number in range(3)})
    for number in range(3):
        taken.add(row(tmp_path / "frames", 0, [slot("a", 0)], shard=number))
        taken.add(row(tmp_path / "frames", 0, [slot("a", 0)], shard=number))
    assert taken.open_shards == 0
    assert taken.tally.shards == 3
    assert taken.parts == {}
