"""Committed frames, targets and labels become training data, zipped by key."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts import snapshot
from pipeline.artifacts.commit import Marker, commit, new_attempt, write_table
from pipeline.artifacts.schemas import STATISTICS, frames_schema, labels_schema, targets_schema, tensor_array
from pipeline.distill.data import DataSpec, SourceSpec, ValidationSpec, load, load_validation
from pipeline.errors import InputError

VIEWS = 2
SHARDS = {"shard-00000000": ["v0", "v1", "v2"], "shard-00000001": ["v3", "v4"]}


def replay(videos: list[str], views: int = VIEWS) -> dict[str, pa.Array | list]:
    names = [video for video in videos for _ in range(views)]
    rows = len(names)
    return {
        "clip_id": [f"{name}#random1of1" for name in names],
        "view_id": pa.array(list(range(views)) * len(videos), pa.int32()),
        "video_id": names,
        "times": [[0.0]] * rows,
        "indices": [[0]] * rows,
        "crop": tensor_array(np.zeros((rows, 4), np.float32)),
        "flip": [False] * rows,
        "reader": ["decord"] * rows,
    }


def marks(videos: list[str]) -> np.ndarray:
    """10 · number of the video + view, per row."""
    return np.array([10 * int(video[1:]) + view for video in videos for view in range(VIEWS)])


def put(folder: Path, shard: str, table: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    attempt = new_attempt()
    assert commit(folder, Marker(shard, attempt, (write_table(folder, f"{shard}.{attempt}.parquet", table),)))


def put_frames(folder: Path, shard: str, videos: list[str]) -> None:
    frames = np.ones((1, 1, 2, 2, 3), np.uint8) * marks(videos).astype(np.uint8)[:, None, None, None, None]
    put(folder, shard, pa.table({**replay(videos), "frames": tensor_array(frames)}, schema=frames_schema(1, 2, 2)))


def put_targets(folder: Path, shard: str, videos: list[str], scale: int = 1) -> None:
    value = scale * marks(videos)[:, None].astype(np.float16)
    columns = {
        "logits": tensor_array(np.hstack([value, value + 1, value + 2])),
        "substage_1": tensor_array(np.hstack([value, value])),
        "substage_2": tensor_array(value),
    }
    put(folder, shard, pa.table({**replay(videos), **columns}, schema=targets_schema(3, [2, 1])))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for shard, videos in SHARDS.items():
        put_frames(tmp_path / "frames", shard, videos)
        put_targets(tmp_path / "targets", shard, videos)
    q = np.full((4, 3), 0.1, np.float32)
    q[np.arange(4), [0, 1, 2, 0]] = 0.8
    labels = {
        "video_id": ["v3", "v1", "v0", "v9"],
        "q": tensor_array(q),
        "weight": pa.array([0.5, 1.0, 0.0, 1.0], "f4"),
    }
    rest = {"flipped": [False] * 4, "predicted": pa.array([0, 1, 2, 0], pa.int32())}
    put(tmp_path / "labels", "shard-00000000", pa.table({**labels, **rest}, schema=labels_schema(3)))
    statistics = {"substage": [2, 1, 1], "channel": [0, 1, 0], "mean": [5.0, 3.0, 1.0], "sd": [6.0, 4.0, 2.0]}
    put(tmp_path / "statistics", "shard-00000000", pa.table(statistics, schema=STATISTICS))
    return tmp_path


def spec(store: Path, **changes: object) -> DataSpec:
    fields = {"frames": str(store / "frames"), "classes": 3, "labels": str(store / "labels")}
    return DataSpec(**{**fields, **changes})  # type: ignore[arg-type]


def source(store: Path, **changes: object) -> SourceSpec:
    fields = {"targets": str(store / "targets"), "statistics": str(store / "statistics")}
    return SourceSpec(**{**fields, **changes})  # type: ignore[arg-type]


def rows(data: object, clips: int) -> dict[int, tuple[list[float], float]]:
    """Video number → (q, weight) over one epoch; frames, logits and features of a row are checked to agree."""
    found = {}
    for batch in data.batches(0, clips, batch_size=1, seed=0):  # type: ignore[attr-defined]
        mark = int(batch.frames[0, 0, 0, 0, 0])
        for logits, features in batch.sources:
            assert logits[0, 0] == mark
            assert features[0].tolist() == [[mark, mark]]
            assert features[1].tolist() == [[mark]]
        found[mark // 10] = (batch.q[0].tolist(), float(batch.weight[0]))
    return found


def test_rows_of_all_sides_meet_by_key(store: Path) -> None:
    data = load(spec(store, sources=(source(store),)))
    assert data.clips == 5
    assert data.source_dims == [(2, 1)]
    found = rows(data, 5)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[3] == (pytest.approx([0.8, 0.1, 0.1]), 0.5)
    assert found[1] == (pytest.approx([0.1, 0.8, 0.1]), 1.0)
    assert found[0][1] == 0.0
    assert found[4] == ([0, 0, 0], 0.0), "a video without a row in labels is unlabelled"
    assert data.mean_weight == pytest.approx(1.5 / 5)


def test_statistics_are_read_by_substage_and_channel(store: Path) -> None:
    (statistics,) = load(spec(store, sources=(source(store),))).statistics
    assert statistics is not None
    assert [(mean.tolist(), sd.tolist()) for mean, sd in statistics] == [([1, 3], [2, 4]), ([5], [6])]
    assert load(spec(store, sources=(source(store, statistics=None),))).statistics == [None]


def test_a_reader_keeps_only_what_all_sides_have(store: Path) -> None:
    put_targets(store / "second", "shard-00000000", ["v2", "v0"])
    data = load(spec(store, sources=(source(store), source(store, targets=str(store / "second")))))
    assert sorted(rows(data, 2)) == [0, 2]


def test_without_sources_only_labelled_clips_are_read(store: Path) -> None:
    data = load(spec(store))
    assert data.source_dims == []
    assert rows(data, 2) == {1: (pytest.approx([0.1, 0.8, 0.1]), 1.0), 3: (pytest.approx([0.8, 0.1, 0.1]), 0.5)}


def test_given_labels_and_a_filter(store: Path) -> None:
    given = (("v0", 2), ("v1", 0), ("v4", 1))
    assert rows(load(spec(store, labels=None, given=given, keep=("v1", "v3", "v4"))), 2) == {
        1: ([1, 0, 0], 1.0),
        4: ([0, 1, 0], 1.0),
    }
    data = load(spec(store, labels=None, given=given, keep=("v1", "v3"), sources=(source(store),)))
    assert rows(data, 2) == {1: ([1, 0, 0], 1.0), 3: ([0, 0, 0], 0.0)}


def test_logits_come_in_the_order_of_the_manifest(store: Path) -> None:
    data = load(spec(store, sources=(source(store, class_index=(2, 0)),), classes=2, labels=None, given=()))
    (batch,) = data.batches(0, 1, batch_size=1, seed=0)
    mark = batch.frames[0, 0, 0, 0, 0]
    assert batch.sources[0][0].tolist() == [[mark + 2, mark]]


def test_pinned_snapshots_and_tombstones_count(store: Path) -> None:
    pinned = snapshot.pin(store / "frames", tombstones=frozenset({("v1", "shard-00000000")}))
    put_frames(store / "frames", "shard-00000002", ["v7"])
    put_targets(store / "targets", "shard-00000002", ["v7"])
    data = load(spec(store, snapshot=pinned.digest, sources=(source(store),)))
    assert sorted(rows(data, 4)) == [0, 2, 3, 4]
    assert load(spec(store, sources=(source(store),))).clips == 5  # what came since counts, what was buried stays so


def test_what_does_not_fit_is_named(store: Path) -> None:
    with pytest.raises(InputError, match="labels of 3 classes, the job has 4"):
        load(spec(store, classes=4))
    with pytest.raises(InputError, match=r"no view to train on.*frames.*run precompute"):
        load(spec(store, keep=("v8",)))
    with pytest.raises(InputError, match="no committed shard"):
        load(spec(store, sources=(source(store, targets=str(store / "nowhere")),)))


def test_validation_videos_come_with_their_views_and_labels(store: Path) -> None:
    digest = snapshot.pin(store / "frames").digest
    chosen = ValidationSpec(str(store / "frames"), digest, (("v4", 2), ("v1", 0), ("v9", 1)), views=2)
    found = load_validation(chosen)
    assert found.frames[:, 0, 0, 0, 0].tolist() == [10, 11, 40, 41]
    assert found.row_of.tolist() == [0, 0, 1, 1]
    assert found.labels.tolist() == [0, 2]
    held = load(spec(store, sources=(source(store),), validation=chosen)).validation
    assert held is not None
    assert np.array_equal(held.frames, found.frames)


def test_of_many_views_of_a_validation_video_some_are_read(store: Path) -> None:
    digest = snapshot.pin(store / "frames").digest
    found = load_validation(ValidationSpec(str(store / "frames"), digest, (("v1", 0), ("v3", 1)), views=1))
    assert [mark // 10 for mark in found.frames[:, 0, 0, 0, 0].tolist()] == [1, 3]
    with pytest.raises(InputError, match="no view of the 1 validation videos"):
        load_validation(ValidationSpec(str(store / "frames"), digest, (("v9", 0),), views=1))
