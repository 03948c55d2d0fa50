"""Training from a teacher's k largest logits: read from targets, under the manifest's class numbers, into the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.distill.data import SourceSpec, load
from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData, SourceArrays, TopKRows
from pipeline.distill.state import FolderCheckpoints
from pipeline.errors import ConfigError, InputError
from pipeline.targets.codec import Codec, pack, table
from pipeline.targets.topk import largest
from tests.unit.distill import toys
from tests.unit.distill.test_data import SHARDS, VIEWS, marks, put, put_frames, spec

CLASSES, K = 6, 2
CODEC = Codec("float32", top_k=K, temperatures=(2.0,))


def logits(videos: list[str]) -> np.ndarray:
    """Of each row those of its mark: another largest class for each video."""
    return np.stack([np.random.default_rng(int(mark)).normal(size=CLASSES) for mark in marks(videos)]).astype("f4")


def slots(videos: list[str]) -> list[dict[str, object]]:
    keys = [(video, view) for video in videos for view in range(VIEWS)]
    rest = {"times": [0.0], "indices": [0], "crop": [0.0, 0.0, 1.0, 1.0], "flip": False, "reader": "decord"}
    return [{"clip_id": f"{name}#random1of1", "view_id": view, "video_id": name, **rest} for name, view in keys]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for shard, videos in SHARDS.items():
        put_frames(tmp_path / "frames", shard, videos)
        outputs = {"logits": logits(videos), "substage_1": logits(videos)[:, :3]}
        put(tmp_path / "targets", shard, table(pack(outputs, CODEC), slots(videos), CODEC))
    return tmp_path


def source(store: Path, index: tuple[int, ...] | None = None) -> SourceSpec:
    return SourceSpec(str(store / "targets"), class_index=index)


def given(store: Path, *sources: SourceSpec):
    labels = tuple((video, 0) for videos in SHARDS.values() for video in videos)
    return spec(store, classes=CLASSES, labels=None, given=labels, sources=sources)


def rows(data: MemoryData) -> dict[int, TopKRows]:
    """Mark → the source's row of it, over one epoch."""
    found = {}
    for batch in data.batches(0, data.clips, batch_size=1, seed=0):
        found[int(batch.frames[0, 0, 0, 0, 0])] = batch.sources[0][0]
    return found


def test_kept_logits_come_with_their_rows(store: Path) -> None:
    for mark, row in rows(load(given(store, source(store)))).items():
        expected = largest(logits([f"v{mark // 10}"])[mark % 10 : mark % 10 + 1], K, (2.0,))
        assert isinstance(row, TopKRows)
        assert (row.index.dtype, row.logit.dtype, row.temperatures, row.classes) == (np.int64, np.float32, (2.0,), 6)
        for name in ("index", "logit", "mean", "sd"):
            assert np.array_equal(getattr(row, name), getattr(expected, name)), name
        assert np.array_equal(row.tail, expected.tail_lse)


def test_a_teacher_of_another_class_order_is_read_in_the_manifests(store: Path) -> None:
    index = (3, 5, 0, 1, 4, 2)  # the teacher's column of each class of the manifest
    plain, turned = rows(load(given(store, source(store)))), rows(load(given(store, source(store, index))))
    for mark, row in plain.items():
        assert np.array_equal(np.asarray(index)[turned[mark].index], row.index)
        dense = logits([f"v{mark // 10}"])[mark % 10, list(index)]
        assert turned[mark].index[0].tolist() == np.argsort(-dense)[:K].tolist()
        assert np.array_equal(turned[mark].logit, row.logit)


def test_a_manifest_with_a_part_of_the_classes_is_refused(store: Path) -> None:
    with pytest.raises(InputError, match=r"top-k targets of 6 classes cannot be cut to the manifest's 2"):
        load(given(store, source(store, (1, 4))))


def sparse(dense: SourceArrays, k: int, temperatures: tuple[float, ...] = (2.0,)) -> SourceArrays:
    assert isinstance(dense.logits, np.ndarray)
    found = largest(dense.logits, k, temperatures)
    kept = TopKRows(found.index, found.logit, found.mean, found.sd, found.tail_lse, temperatures, found.classes)
    return SourceArrays(kept, dense.features, dense.statistics)


def trained(tmp_path: Path, source: SourceArrays, **changes: object) -> list[dict[str, float]]:
    data = MemoryData.from_arrays(**toys.arrays(), sources=[source])
    recorder = toys.Recorder()
    train(toys.job(**changes), data, recorder, FolderCheckpoints(tmp_path), rank=0, world=1)
    return [recorder.lines[step] for step in sorted(recorder.lines)]


def test_all_classes_kept_train_as_whole_logits_do(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    dense = toys.source()
    whole = trained(tmp_path / "a", dense, steps=4)
    kept = trained(tmp_path / "b", sparse(dense, toys.CLASSES), steps=4)
    for one, other in zip(whole, kept, strict=True):
        assert one["kd"] == pytest.approx(other["kd"], rel=1e-3, abs=1e-5)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4)


def test_fewer_classes_train_too_and_tell_less(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", toys.source(), steps=4)
    kept = trained(tmp_path / "b", sparse(toys.source(), 2), steps=4)
    assert 0 < kept[0]["kd"] < whole[0]["kd"]


def test_another_temperature_and_a_dense_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"add it to precompute\.codec\.temperatures"):
        trained(tmp_path / "a", sparse(toys.source(), 2), steps=4, temperature=3.0)
    with pytest.raises(ConfigError, match="dkd needs all of the teacher's logits"):
        trained(tmp_path / "b", sparse(toys.source(), 2), steps=4, method="dkd")
