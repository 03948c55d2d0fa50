"""The decode stage on real files: parts that are read back, failed videos beside good ones, storage errors raised."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.commit import DataObject, read_object
from pipeline.artifacts.schemas import column
from pipeline.errors import StorageError
from pipeline.video.micro_batch import FramesJob, FramesStage
from pipeline.video.views import ViewPolicy, view_keys
from tests.support.videos import write_video

POLICY = ViewPolicy(kind="train", size=(16, 16), num_frames=4, frame_stride=2, views_per_clip=2)
B = 6


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FramesStage]:
    folder = tmp_path_factory.mktemp("frames")
    stage = FramesStage(FramesJob({"train": POLICY}, {"train": str(folder)}, B, reader="pyav", keep_pixels=True))
    yield stage
    stage.close()


def row(paths: list[Path], part: str = "") -> dict[str, Any]:
    keys = [(path, clip, view) for path in paths for clip, view in view_keys(path.name, POLICY)]
    return {
        "plan": "train",
        "shard_id": "shard-00000002",
        "micro_batch": 3,
        "video_ids": [path.name for path, _, _ in keys],
        "uris": [str(path) for path, _, _ in keys],
        "clip_ids": [clip for _, clip, _ in keys],
        "view_ids": [view for _, _, view in keys],
        "part": part,
    }


def test_good_slots_are_stored_and_a_broken_video_costs_its_own_slots_alone(stage: FramesStage, tmp_path: Path) -> None:
    good, bad = write_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    bad.write_bytes(b"not a video at all")
    also = write_video(tmp_path / "c.mp4", frames=12)
    done = stage(row([good, bad, also]))
    slots = json.loads(done["slots"])
    assert ["error" in slot for slot in slots] == [False, False, True, True, False, False]
    assert slots[2]["error"]["reason"] == "unreadable"
    assert done["frames"].shape == (B, 4, 16, 16, 3)
    assert not done["frames"][2:4].any()
    part = DataObject(**json.loads(done["part"]))
    stored = read_object(Path(stage.job.folders["train"]), part)
    assert stored.column("video_id").to_pylist() == ["a.mp4", "a.mp4", "c.mp4", "c.mp4"]
    np.testing.assert_array_equal(column(stored, "frames"), done["frames"][[0, 1, 4, 5]])


def test_a_committed_part_is_read_back_instead_of_decoding(stage: FramesStage, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    first = stage(row([video]))
    video.unlink()
    again = stage(row([video], part=first["part"]))
    np.testing.assert_array_equal(again["frames"], first["frames"])
    assert json.loads(again["slots"]) == json.loads(first["slots"])
    assert again["part"] == first["part"]


def test_a_file_that_is_gone_is_no_fact_about_the_video(stage: FramesStage, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with pytest.raises(FileNotFoundError):
        stage(row([tmp_path / "gone.mp4"]))


def test_what_the_graph_needs_is_passed_through_and_measured(stage: FramesStage, tmp_path: Path) -> None:
    done = stage(row([write_video(tmp_path / "a.mp4")]) | {"teachers": "[0, 2]"})
    assert (done["plan"], done["shard_id"], done["micro_batch"], done["teachers"]) == (
        "train",
        "shard-00000002",
        3,
        "[0, 2]",
    )
    assert done["retries"] == 0
    assert 0 < done["decode_s"] < 60


def test_holes_stay_in_place_when_a_part_is_read_back(stage: FramesStage, tmp_path: Path) -> None:
    """A teacher must see the same batch whether it was decoded or read: the same zeros at the same slots."""
    good, bad, also = (tmp_path / f"{name}.mp4" for name in "abc")
    write_video(good)
    write_video(also, frames=12)
    bad.write_bytes(b"not a video at all")
    first = stage(row([good, bad, also]))
    again = stage(row([good, bad, also], part=first["part"]))
    np.testing.assert_array_equal(again["frames"], first["frames"])
    before, after = json.loads(first["slots"]), json.loads(again["slots"])
    assert [slot for slot in after if "error" not in slot] == [slot for slot in before if "error" not in slot]
    assert [slot.get("absent", False) for slot in after] == [False, False, True, True, False, False]
    assert {(slot["video_id"], slot["uri"]) for slot in after[2:4]} == {("b.mp4", str(bad))}
    assert after[2]["error"].keys() == before[2]["error"].keys()


@pytest.mark.parametrize("when", ["before decoding", "since"])
def test_a_buried_video_leaves_its_slots_empty(stage: FramesStage, tmp_path: Path, when: str) -> None:
    """A batch depends on the plan alone, not on when a video was buried."""
    videos = [write_video(tmp_path / f"{name}.mp4", frames=frames) for name, frames in {"a": 30, "b": 20}.items()]
    first = stage(row(videos))
    planned = row(videos, part=first["part"] if when == "since" else "")
    planned["uris"][:2] = ["", ""]
    done = stage(planned)
    assert not done["frames"][:2].any()
    np.testing.assert_array_equal(done["frames"][2:], first["frames"][2:])
    slots = json.loads(done["slots"])
    assert slots[:2] == [{"video_id": "a.mp4", "buried": True}] * 2
    assert slots[2:] == json.loads(first["slots"])[2:]
    assert DataObject(**json.loads(done["part"])).rows == (4 if when == "since" else 2)


def test_rows_of_a_part_are_found_by_key(stage: FramesStage, tmp_path: Path) -> None:
    """Whatever rows the part has more than there are slots."""
    lengths = {"a": 30, "b": 20, "c": 25}
    videos = [write_video(tmp_path / f"{name}.mp4", frames=frames) for name, frames in lengths.items()]
    first = stage(row(videos))
    again = stage(row(videos[1:], part=first["part"]))
    np.testing.assert_array_equal(again["frames"][:4], first["frames"][2:])
    assert not again["frames"][4:].any()
    assert json.loads(again["slots"]) == json.loads(first["slots"])[2:]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Any]:
    stages: list[FramesStage] = []

    def make(**fields: Any) -> FramesStage:
        stages.append(
            FramesStage(
                FramesJob(
                    {"train": POLICY}, {"train": str(tmp_path / "out")}, B, reader="pyav", keep_pixels=True, **fields
                )
            )
        )
        return stages[-1]

    yield make
    for each in stages:
        each.close()


def test_a_jpeg_cache_hands_on_the_pixels_that_training_will_read(
    stage: FramesStage, build: Any, tmp_path: Path
) -> None:
    videos = [write_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"]
    videos[1].write_bytes(b"no")
    kept = build(cache="jpeg", jpeg_quality=80)
    raw, done = stage(row(videos)), kept(row(videos))
    stored = read_object(tmp_path / "out", DataObject(**json.loads(done["part"])))
    np.testing.assert_array_equal(column(stored, "frames"), done["frames"][:2])
    difference = np.abs(done["frames"][:2].astype(int) - raw["frames"][:2])
    assert 0 < difference.mean() < 8
    assert not done["frames"][2:].any()
    again = kept(row(videos, part=done["part"]))
    np.testing.assert_array_equal(again["frames"], done["frames"])
    lossier = build(cache="jpeg", jpeg_quality=50)(row(videos))
    assert DataObject(**json.loads(lossier["part"])).size < DataObject(**json.loads(done["part"])).size


def test_without_a_cache_nothing_is_written(stage: FramesStage, build: Any, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    done = build(cache="none")(row([video]))
    assert done["part"] == ""
    assert not (tmp_path / "out").exists()
    np.testing.assert_array_equal(done["frames"], stage(row([video]))["frames"])


def test_a_batch_of_which_nothing_decodes_is_an_empty_part(build: Any, tmp_path: Path) -> None:
    bad = tmp_path / "b.mp4"
    bad.write_bytes(b"no")
    for cache in ("raw", "jpeg"):
        kept = build(cache=cache)
        done = kept(row([bad]))
        assert DataObject(**json.loads(done["part"])).rows == 0
        again = kept(row([bad], part=done["part"]))
        assert again["frames"].shape == (B, 4, 16, 16, 3)
        assert not again["frames"].any()


def test_trouble_that_passes_is_waited_out_and_counted(build: Any, tmp_path: Path, monkeypatch: Any) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    stage = build()
    decode, troubles = stage.child.decode, [OSError(5, "Input/output error"), OSError(12, "no memory")]

    def shaky(*arguments: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return decode(*arguments)

    monkeypatch.setattr(stage.child, "decode", shaky)
    done = stage(row([write_video(tmp_path / "a.mp4")]))
    assert done["retries"] == 2
    assert waited == sorted(waited)
    assert all("error" not in slot for slot in json.loads(done["slots"]))
    assert stage(row([tmp_path / "a.mp4"]))["retries"] == 0


def test_a_part_that_a_disk_took_at_the_third_time_is_counted_too(build: Any, tmp_path: Path, monkeypatch: Any) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    link, troubles = os.link, [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]

    def shaky(*arguments: Any, **named: Any) -> None:
        if troubles:
            raise troubles.pop()
        link(*arguments, **named)

    monkeypatch.setattr(os, "link", shaky)
    done = build()(row([write_video(tmp_path / "a.mp4")]))
    assert (done["retries"], waited) == (2, [0.5, 1.0])
    assert DataObject(**json.loads(done["part"])).rows == 2


def test_a_store_that_was_waited_for_already_is_not_asked_again(build: Any, tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[Any] = []

    def refuse(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        raise StorageError("the bucket does not answer")

    monkeypatch.setattr("pipeline.video.micro_batch.write_table", refuse)
    with pytest.raises(StorageError, match="does not answer"):
        build()(row([write_video(tmp_path / "a.mp4")]))
    assert len(calls) == 1
