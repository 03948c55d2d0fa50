import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.artifacts import dataset as dataset_module
from pipeline.artifacts.commit import shard_name, write_table
from pipeline.artifacts.dataset import Artefact, gathered, open_dataset
from pipeline.artifacts.order import clip_index, training_order
from pipeline.artifacts.schemas import METADATA_KEY, column
from pipeline.artifacts.snapshot import pin
from pipeline.errors import ConfigError, InputError, JobError
from tests.unit.artifacts.tables import frames_table, keys, put, query, stamp, targets_table

VIDEOS = [[f"v{n}" for n in range(5)], [f"v{n}" for n in range(5, 7)], [f"v{n}" for n in range(7, 11)]]
ALL = [video for videos in VIDEOS for video in videos]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, videos in enumerate(VIDEOS):
        put(tmp_path, number, frames_table(videos[:1]), frames_table(videos[1:]))
    return tmp_path


def videos_of(table: pa.Table) -> list[str]:
    return list(dict.fromkeys(table["video_id"].to_pylist()))


def test_rows_come_shard_after_shard_in_their_fixed_order(folder: Path) -> None:
    artefact = open_dataset(folder)
    assert artefact.shard_ids == tuple(shard_name(n) for n in range(3))
    assert artefact.shard(shard_name(1)).equals(frames_table(VIDEOS[1]))
    assert artefact.table().equals(frames_table(ALL))
    assert artefact.table(["view_id", "clip_id"]).column_names == ["view_id", "clip_id"]
    with pytest.raises(InputError, match=f"{shard_name(9)} is not in snapshot"):
        artefact.shard(shard_name(9))


def test_a_file_that_no_marker_names_does_not_exist(folder: Path) -> None:
    write_table(folder, "shard-00000003.0123456789ab.parquet", frames_table(["ghost"]))
    assert "ghost" not in videos_of(open_dataset(folder).table(["video_id"]))
    assert open_dataset(folder).arrow().count_rows() == 33


def test_tombstoned_and_quarantined_videos_are_left_out_of_their_shard_only(folder: Path) -> None:
    put(folder, 3, frames_table(["v1", "half", "v12"]), quarantined=["half"])
    snapshot = pin(folder, tombstones={("v1", shard_name(0)), ("v9", shard_name(2))})
    artefact = open_dataset(folder, snapshot.digest)
    assert videos_of(artefact.shard(shard_name(0))) == ["v0", "v2", "v3", "v4"]
    assert videos_of(artefact.shard(shard_name(1))) == VIDEOS[1]
    assert videos_of(artefact.shard(shard_name(3))) == ["v1", "v12"]
    assert artefact.shard(shard_name(0), ["frames"]).column_names == ["frames"]
    assert artefact.shard(shard_name(0), ["frames"]).num_rows == 12
    expected = artefact.table()
    found = artefact.arrow()
    assert found.to_table(columns=expected.column_names).equals(expected)
    assert found.to_table(filter=pc.field("shard") == shard_name(3)).num_rows == 6
    assert found.count_rows() == expected.num_rows == 3 * (4 + 2 + 3 + 2)


def test_reading_goes_on_from_a_snapshot_while_shards_are_added(folder: Path) -> None:
    snapshot = pin(folder)
    put(folder, 3, frames_table(["new"]))
    assert open_dataset(folder, snapshot.digest).table(["video_id"]).num_rows == 33
    assert open_dataset(folder).table(["video_id"]).num_rows == 36


def test_a_snapshot_is_read_from_the_redone_shard_where_the_old_files_are_gone(folder: Path) -> None:
    snapshot = pin(folder)
    for path in folder.glob(f"{shard_name(1)}.*"):
        path.unlink()
    with pytest.raises(JobError, match="is missing"):
        open_dataset(folder, snapshot.digest).table()
    put(folder, 1, frames_table(VIDEOS[1][:1]), frames_table(VIDEOS[1][1:]))
    artefact = open_dataset(folder, snapshot.digest)
    assert artefact.table().equals(frames_table(ALL))
    assert artefact.arrow().count_rows() == 33
    for path in folder.glob(f"{shard_name(1)}.*"):
        path.unlink()
    put(folder, 1, frames_table(["other"]), frames_table(["values"]))
    with pytest.raises(JobError, match="is missing"):
        open_dataset(folder, snapshot.digest).table()


def test_check_compares_the_sha256_of_each_file_once(folder: Path) -> None:
    path = Path(open_dataset(folder).paths[0])
    good = path.read_bytes()
    footer = good.rindex(b"parquet-cpp")
    path.write_bytes(good[:footer] + b"PARQUET" + good[footer + 7 :])
    assert open_dataset(folder).table().num_rows == 33
    with pytest.raises(JobError, match="sha256"):
        open_dataset(folder, check=True).shard(shard_name(0), ["video_id"])


def test_tables_of_a_newer_major_are_refused_by_name(tmp_path: Path) -> None:
    newer = frames_table(["a"]).replace_schema_metadata({METADATA_KEY: b'{"kind": "frames", "schema": "2.0"}'})
    put(tmp_path, 0, newer)
    with pytest.raises(InputError, match=r"parquet has schema 2\.0"):
        open_dataset(tmp_path).table()


def test_an_empty_folder_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no committed shard"):
        open_dataset(tmp_path)


def test_duckdb_reads_the_paths(tmp_path: Path) -> None:
    put(tmp_path, 0, targets_table(["a"]), targets_table(["b"]))
    found = query(f"select logits[1] from read_parquet({open_dataset(tmp_path).paths})")
    assert [row[0] for row in found] == [stamp(clip, view) for _, clip, view in keys(["a", "b"], 3)]


def epoch_of(artefact: Artefact, epoch: int, world: int = 1, **options: object) -> list[list[dict[str, np.ndarray]]]:
    return [list(artefact.training_rows(r, world, 5, epoch, 4, **options)) for r in range(world)]  # type: ignore[arg-type]


def names_of(steps: Iterator[dict[str, np.ndarray]] | list[dict[str, np.ndarray]]) -> list[tuple[str, int]]:
    return [(c, int(v)) for step in steps for c, v in zip(step["clip_id"], step["view_id"], strict=True)]


def test_training_rows_follow_the_order_with_every_column_of_the_row(folder: Path) -> None:
    artefact = open_dataset(folder)
    table = artefact.table()
    index = clip_index([(column(t, "clip_id"), column(t, "view_id")) for t in map(artefact.shard, artefact.shard_ids)])
    for epoch in (0, 3):
        steps = epoch_of(artefact, epoch, window=2)[0]
        order = list(training_order(index, 2 * epoch, 2 * epoch + 2, batch_size=4, rank=0, world=1, seed=5, window=2))
        assert len(steps) == len(order) == 2
        for step, rows in zip(steps, order, strict=True):
            assert list(step) == table.column_names
            for name in ("clip_id", "view_id", "frames", "crop", "flip"):
                np.testing.assert_array_equal(step[name], column(table, name)[rows])
            assert [times.tolist() for times in step["times"]] == table["times"].take(rows).to_pylist()
            pixels = [stamp(c, v) for c, v in zip(step["clip_id"], step["view_id"], strict=True)]
            assert step["frames"][:, 0, 0, 0, 0].tolist() == pixels


def test_each_clip_comes_at_most_once_per_epoch_and_in_all_its_views_over_epochs(folder: Path) -> None:
    artefact = open_dataset(folder)
    seen: dict[str, set[int]] = {}
    for epoch in range(12):
        names = names_of(epoch_of(artefact, epoch, columns=["clip_id", "view_id"])[0])
        assert len({clip for clip, _ in names}) == len(names) == 8
        for clip, view in names:
            seen.setdefault(clip, set()).add(view)
    assert seen == {f"{video}#random1of1": {0, 1, 2} for video in ALL}


def test_ranks_interleave_to_the_order_of_one_rank(folder: Path) -> None:
    artefact = open_dataset(folder)
    alone = names_of(epoch_of(artefact, 2)[0])
    ranks = epoch_of(artefact, 2, world=2)
    assert names_of(ranks[0]) == alone[0::2]
    assert names_of(ranks[1]) == alone[1::2]
    assert all(step["frames"].shape[0] == 2 for rank in ranks for step in rank)


def test_a_video_that_was_planned_anew_counts_once_and_its_old_quarantine_is_over(folder: Path) -> None:
    put(folder, 3, frames_table(["v1"]), quarantined=["broken", "mended"])
    put(folder, 4, frames_table(["mended"]))
    before = open_dataset(folder)
    assert before.quarantine()["video_id"].to_pylist() == ["broken", "mended"]
    pin(folder, tombstones={("v1", shard_name(0))})
    pin(folder, tombstones={("v1", shard_name(0)), ("mended", shard_name(3))})
    now = open_dataset(folder)  # no snapshot named: what any of them buried stays buried
    assert videos_of(now.shard(shard_name(0))) == ["v0", "v2", "v3", "v4"]
    assert videos_of(now.shard(shard_name(3))) == ["v1"]
    assert now.quarantine()["video_id"].to_pylist() == ["broken"]
    assert set(now.quarantine().column_names) >= {"video_id", "uri", "reason", "message"}
    assert not open_dataset(folder, pin(folder, shards=[shard_name(1)]).digest).quarantine().num_rows


def test_keep_limits_the_videos_and_tombstones_hold(folder: Path) -> None:
    snapshot = pin(folder, tombstones={("v1", shard_name(0))})
    artefact = open_dataset(folder, snapshot.digest)
    kept = ["v0", "v1", "v3", "v5", "v10"]
    names = names_of(epoch_of(artefact, 0, keep=kept)[0])
    assert sorted(clip for clip, _ in names) == sorted(f"{video}#random1of1" for video in kept if video != "v1")
    with pytest.raises(ConfigError, match="only 2 clips"):
        epoch_of(artefact, 0, keep=["v0", "v5", "v1"])
    with pytest.raises(ConfigError, match="multiple of the 3 workers"):
        epoch_of(artefact, 0, world=3)


def test_a_shard_is_read_once_per_epoch_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        put(tmp_path, number, frames_table([f"s{number}v{n}" for n in range(4)], views=2))
    artefact = open_dataset(tmp_path)
    steps = artefact.training_rows(0, 1, 0, 0, 4, columns=["video_id"], window=3)
    reads: list[str] = []
    read = dataset_module.read_object

    def counted(folder: Path, obj: object, *rest: object, **options: object) -> pa.Table:
        reads.append(obj.name)  # type: ignore[attr-defined]
        return read(folder, obj, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset_module, "read_object", counted)
    counts = []
    for _ in steps:
        counts.append(len(reads))
    assert len(reads) == len(set(reads)) == 12
    assert max(counts[:3]) <= 3, "the first window holds three shards"
    assert max(counts[:6]) <= 6


def test_what_was_given_out_is_let_go() -> None:
    index = clip_index([(np.array([f"{s}c{c}" for c in range(4)], object), np.zeros(4, int)) for s in range(6)])
    positions = np.stack(list(training_order(index, 0, 12, batch_size=2, rank=0, world=1, seed=0, window=1)))
    held: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()

    def read(ordinal: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        held[ordinal] = values = 10 * ordinal + rows
        return {"value": values}

    given: list[int] = []
    for step in gathered(index, positions, read):
        given += step["value"].tolist()
        assert len(held) <= 2, "at most the shard in use and the one before"
    assert sorted(given) == [10 * s + c for s in range(6) for c in range(4)]
    assert len(held) == 0
