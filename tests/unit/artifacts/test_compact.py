from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import compact as compact_module
from pipeline.artifacts import compacted as compacted_module
from pipeline.artifacts import s3_parts
from pipeline.artifacts.commit import Marker, commit, new_attempt, read_marker, read_markers, shard_name, write_table
from pipeline.artifacts.compact import Compaction, compact
from pipeline.artifacts.compacted import places, read_places
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.places import place
from pipeline.artifacts.schemas import QUARANTINE, declared
from pipeline.artifacts.snapshot import committed, pin
from pipeline.errors import InputError, JobError
from tests.support.objects import fake_store
from tests.unit.artifacts.tables import frames_table, put, query, targets_table

SHARDS = 7


def videos(number: int) -> list[str]:
    return [f"v{number}a", f"v{number}b", f"v{number}c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Frames: two parts a shard; every other shard with a quarantined video, the others with an empty quarantine."""
    for number in range(SHARDS):
        first, *others = videos(number)
        put(tmp_path, number, frames_table([first]), frames_table(others), quarantined=[others[0]][: number % 2])
    return tmp_path


def delete_small(folder: Path) -> int:
    """Delete what a record replaces, as gc does: every small file of data and quarantine."""
    small = list(folder.glob("shard-*.parquet"))
    for path in small:
        path.unlink()
    return len(small)


def training(folder: Path, snapshot: str) -> list[dict[str, np.ndarray]]:
    rows = open_dataset(folder, snapshot).training_rows(1, 2, seed=3, epoch=1, batch=4, window=2)
    return [dict(batch) for batch in rows]


def test_rows_order_values_hidden_videos_and_digest_are_the_same_before_after_and_without_the_small_files(
    folder: Path,
) -> None:
    snapshot = pin(folder, tombstones={("v3a", shard_name(3))})
    table, rows = open_dataset(folder, snapshot.digest).table(), training(folder, snapshot.digest)
    everything = open_dataset(folder).table()
    done = compact(folder)
    assert (done.record, done.files_before, done.files_after) == ("compacted-00000000", 3 * SHARDS, 2)
    assert pin(folder, tombstones={("v3a", shard_name(3))}).digest == snapshot.digest
    assert open_dataset(folder).table().equals(everything)
    assert delete_small(folder) == 3 * SHARDS
    artefact = open_dataset(folder, snapshot.digest, check=True)
    assert artefact.table().equals(table)
    assert table.num_rows == 3 * (3 * SHARDS - 1 - 3)  # a tombstone and three quarantined videos are left out
    assert committed(folder).digest == committed(folder, shards=[shard_name(n) for n in range(SHARDS)]).digest
    again = training(folder, snapshot.digest)
    assert len(rows) == len(again) == 4
    assert [str({k: v.tolist() for k, v in row.items()}) for row in rows] == [
        str({k: v.tolist() for k, v in row.items()}) for row in again
    ]
    found = artefact.arrow()
    assert found.to_table(columns=table.column_names).equals(table)
    assert found.count_rows() == table.num_rows


def test_one_shard_is_read_without_reading_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(folder)
    delete_small(folder)
    data, read = next(iter(read_places(folder).values()))[0].file, []
    original = compacted_module.read_range

    def counted(path: Path, start: int, stop: int) -> bytes | None:
        read.append((path.name, stop - start))
        return original(path, start, stop)

    monkeypatch.setattr(compacted_module, "read_range", counted)
    assert open_dataset(folder).shard(shard_name(4), ["view_id"]).num_rows == 9
    footer = next(iter(read_places(folder).values()))[0].footer
    assert sum(size for name, size in read if name == data.name) < 2 * (footer.stop - footer.start) + data.size / 3


def test_the_record_names_every_object_with_its_sha256_and_rows(folder: Path) -> None:
    compact(folder)
    record = read_marker(folder, "compacted-00000000")
    assert record is not None
    found = {(place.shard, place.index): place for place in places(record)}
    for marker in read_markers(folder, "shard-").values():
        for index, obj in enumerate(marker.objects):
            place = found[marker.shard_id, index]
            assert (place.sha256, place.rows) == (obj.sha256, obj.rows)
    data = sorted((place for place in found.values() if place.index >= 0), key=lambda place: place.first)
    assert [place.first for place in data] == np.cumsum([0, *(place.rows for place in data)])[:-1].tolist()
    assert {place.file.rows for place in data} == {sum(place.rows for place in data)}
    # The large file is a Parquet file like any other.
    rows = query(f"select count(*), count(distinct clip_id) from read_parquet('{folder / data[0].file.name}')")
    assert rows == [(9 * SHARDS, 3 * SHARDS)]


def test_files_reach_the_size_asked_for_and_not_much_more(folder: Path) -> None:
    sizes = [obj.size for marker in read_markers(folder, "shard-").values() for obj in marker.objects]
    compact(folder, small=max(sizes), large=4 * max(sizes))
    record = read_marker(folder, "compacted-00000000")
    assert record is not None
    held: dict[str, int] = {}
    for one in places(record):
        if one.index >= 0:
            held[one.file.name] = held.get(one.file.name, 0) + sizes[2 * int(one.shard[-8:]) + one.index]
    assert len(held) >= 3
    assert all(2 * max(sizes) < size <= 4 * max(sizes) for size in list(held.values())[:-1])


def test_what_is_large_already_stays_and_a_second_call_finds_nothing_to_do(folder: Path) -> None:
    put(folder, SHARDS, frames_table([f"many{n}" for n in range(400)]))
    large = read_markers(folder)[shard_name(SHARDS)].objects[0]
    compact(folder, small=large.size - 1, large=large.size)
    assert large.sha256 not in read_places(folder)
    compact(folder, small=large.size - 1, large=large.size)  # files come out smaller than the sum of small ones
    assert compact(folder, small=large.size - 1, large=large.size) == Compaction(None)
    assert not list(folder.glob("compacted-00000002*"))


def test_new_shards_join_compacted_ones_and_the_newest_record_wins(folder: Path) -> None:
    compact(folder)
    delete_small(folder)
    put(folder, SHARDS, frames_table(["late"]), quarantined=["late"])
    expected = open_dataset(folder).table()
    done = compact(folder)
    assert done.record == "compacted-00000001"
    reader = open_dataset(folder)
    assert reader.shard(shard_name(0)).num_rows == 9
    delete_small(folder)
    for path in folder.glob("compacted-00000000.*"):
        path.unlink()  # a reader that knows the first record only looks again
    assert reader.table().equals(expected)
    assert open_dataset(folder).table().equals(expected)


def test_a_redone_shard_is_not_read_from_the_record_of_the_old_one(folder: Path) -> None:
    compact(folder)
    (folder / f"{shard_name(2)}.json").unlink()
    put(folder, 2, frames_table(["other"]))
    delete_small(folder)
    put(folder, 9, frames_table(["more"]))
    with pytest.raises(JobError, match=f"{shard_name(2)}.part-0.*is missing"):
        open_dataset(folder).shard(shard_name(2))


def test_only_readers_of_whole_files_are_told_where_files_hold_more_than_their_snapshot(folder: Path) -> None:
    snapshot = pin(folder)
    put(folder, SHARDS, frames_table(["late"]))
    compact(folder)
    delete_small(folder)
    with pytest.raises(InputError, match="compacted from more shards"):
        _ = open_dataset(folder, snapshot.digest).paths
    assert (
        open_dataset(folder, snapshot.digest).arrow().count_rows()
        == open_dataset(folder, snapshot.digest).table(["view_id"]).num_rows
    )
    assert query(f"select count(*) from read_parquet({open_dataset(folder).paths})") == [(9 * SHARDS + 3,)]


def test_damage_is_neither_copied_nor_read(folder: Path) -> None:
    small = sorted(folder.glob(f"{shard_name(1)}.part-0.*"))[0]
    good = small.read_bytes()
    small.write_bytes(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
    with pytest.raises(JobError, match="sha256"):
        compact(folder)
    assert not list(folder.glob("compacted-*"))
    assert not read_places(folder)
    small.write_bytes(good)
    compact(folder)
    delete_small(folder)
    place = next(one for found in read_places(folder).values() for one in found if one.shard == shard_name(1))
    large = folder / place.file.name
    data = bytearray(large.read_bytes())
    data[(place.data.start + place.data.stop) // 2] ^= 1
    large.write_bytes(data)
    with pytest.raises(JobError, match="compaction record says"):
        open_dataset(folder, check=True).shard(shard_name(1))


@pytest.mark.parametrize("split", [False, True])
def test_floats_stay_stored_as_the_recipe_chose(tmp_path: Path, split: bool) -> None:
    tables = [targets_table([f"v{n}"]) for n in range(3)]
    for number, table in enumerate(tables):
        name = f"{shard_name(number)}.{new_attempt()}.parquet"
        obj = write_table(tmp_path, name, table, byte_stream_split=split)
        assert commit(tmp_path, Marker(shard_name(number), "a", (obj,)))
    compact(tmp_path)
    large = next(tmp_path.glob("compacted-*.parquet"))
    logits = next(c for c in _columns(large) if c.path_in_schema.startswith("logits"))
    assert ("BYTE_STREAM_SPLIT" in logits.encodings) == split
    delete_small(tmp_path)
    assert open_dataset(tmp_path).table().equals(pa.concat_tables(tables))


def _columns(path: Path) -> list[pq.ColumnChunkMetaData]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    return [group.column(number) for number in range(group.num_columns)]


def test_tables_of_two_minor_schemas_get_a_file_each(tmp_path: Path) -> None:
    old = declared("quarantine", [QUARANTINE.field(0), QUARANTINE.field(7)])
    tables = [pa.table([[f"v{n}"], [n]], schema=old) for n in range(2)]
    newer = declared("quarantine", [*old, pa.field("note", pa.string())])
    tables += [pa.table([[f"v{n}"], [n], [None]], schema=newer) for n in range(2, 5)]
    for number, table in enumerate(tables):
        put(tmp_path, number, table)
    expected = open_dataset(tmp_path).table()
    assert compact(tmp_path).files_after == 2
    delete_small(tmp_path)
    assert open_dataset(tmp_path).table().equals(expected)
    assert expected["note"].null_count == 5


def test_the_loser_of_two_compactions_says_so_and_its_files_do_not_exist(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_dataset(folder).table()

    def other_is_first() -> None:
        monkeypatch.setattr(compact_module, "commit", commit)
        compact(folder)

    with pytest.raises(JobError, match="another compaction was first"):
        compact(folder, check=other_is_first)
    assert len({place.file.name for found in read_places(folder).values() for place in found}) == 2
    assert len(list(folder.glob("compacted-*.parquet"))) == 4
    delete_small(folder)
    assert open_dataset(folder).table().equals(expected)


def test_no_row_groups_are_held_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: of all tables that compaction reads, none holds more than one row group of one small file."""
    rows: list[int] = []
    original = compact_module._tables

    def counted(file: pq.ParquetFile, groups: range) -> object:
        for table in original(file, groups):
            rows.append(table.num_rows)
            yield table

    monkeypatch.setattr(compact_module, "_tables", counted)
    compact(folder)
    assert max(rows) == 6
    assert sum(rows) == 2 * (9 * SHARDS + 3)  # once to copy, once to compare; frames and quarantine


def test_a_record_that_is_none_is_named(folder: Path) -> None:
    compact(folder)
    path = folder / "compacted-00000000.json"
    path.write_text(path.read_text().replace('"groups"', '"grops"'))
    with pytest.raises(InputError, match=r"compacted-00000000\.json is no compaction record"):
        read_places(folder)


def test_in_an_object_store_each_file_is_fetched_once_and_the_large_one_is_sent_from_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = fake_store(monkeypatch)
    folder = place("s3://b/frames/key")
    for number in range(3):
        put(folder, number, frames_table(videos(number)), quarantined=[videos(number)[0]])
    expected = open_dataset(folder).table()
    monkeypatch.setattr(s3_parts, "PART", 2000)
    for records in (1, 2):
        small = [key for key in store.objects if key.endswith(".parquet")]
        store.asked.clear()
        assert compact(folder).record == f"compacted-{records - 1:08d}"
        read = Counter(key for operation, key in store.asked if operation == "get" and key.endswith(".parquet"))
        assert set(read.values()) == {1}
        assert set(read) <= set(small)
        assert {key for operation, key in store.asked if operation == "upload_part"} == {
            key for key in store.objects if key.startswith(f"b/frames/key/compacted-{records - 1:08d}.file-")
        }
        for key in small:
            del store.objects[key]
        assert open_dataset(folder, check=True).table().equals(expected)
        put(folder, 2 + records, frames_table(["late"]), quarantined=["late"])
        expected = open_dataset(folder).table()
