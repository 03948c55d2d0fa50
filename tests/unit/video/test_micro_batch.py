"""The decode stage on real files: parts that are read back, failed videos beside good ones, storage errors raised."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.commit import DataObject, read_object
from pipeline.artifacts.schemas import column
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
