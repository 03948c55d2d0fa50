import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import parquet
from pipeline.artifacts.commit import (
    DataObject,
    Marker,
    commit,
    new_attempt,
    object_path,
    read_bytes,
    read_marker,
    read_markers,
    read_object,
    shard_name,
    write_bytes,
    write_table,
)
from pipeline.artifacts.identity import file_digest
from pipeline.artifacts.schemas import column, tensor_array
from pipeline.errors import InputError, JobError, StorageError
from tests.unit.artifacts.tables import frames_table, put, targets_table


def test_equal_tables_give_equal_bytes_however_they_were_put_together(tmp_path: Path) -> None:
    table = targets_table(["a", "b", "c", "d"])
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 6), table.slice(7)])
    noted = table.replace_schema_metadata({**table.schema.metadata, b"pandas": b"{}", b"made": b"today"})
    item = pa.field("item", pa.float64(), metadata={b"PARQUET:field_id": b"5"})
    renamed = table.set_column(3, pa.field("times", pa.list_(item), False), table["times"].cast(pa.list_(item)))
    mask = pa.array([True] * table.num_rows)
    found = []
    for n, same in enumerate([table, pieces, noted, renamed, table.filter(mask)]):
        obj = write_table(tmp_path, f"{n}.parquet", same)
        found.append((obj.size, obj.sha256))
        assert pq.read_table(tmp_path / obj.name).equals(table)
        again = write_table(tmp_path, f"{n}.again.parquet", read_object(tmp_path, obj))
        found.append((again.size, again.sha256))
    assert len(set(found)) == 1
    other = write_table(tmp_path, "other.parquet", table.slice(1))
    assert other.sha256 != found[0][1]


def test_chunks_change_no_byte_of_large_tables(tmp_path: Path) -> None:
    random = np.random.default_rng(0).standard_normal((5000, 100)).astype(np.float32)
    table = pa.table({"key": range(5000), "logits": tensor_array(random)})
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 1601), table.slice(1608)])
    assert write_table(tmp_path, "a", table).sha256 == write_table(tmp_path, "b", pieces).sha256


def test_the_object_tells_the_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    obj = write_table(tmp_path / "new", "shard-00000001.abc.parquet", frames_table(["a", "b"]))
    path = tmp_path / "new" / "shard-00000001.abc.parquet"
    assert obj == DataObject(path.name, path.stat().st_size, 6, file_digest(path))
    assert os.listdir(tmp_path / "new") == [path.name]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_data_is_never_overwritten(tmp_path: Path) -> None:
    first = write_bytes(tmp_path, "model.abc.bin", b"first", rows=2)
    with pytest.raises(JobError, match="never overwritten"):
        write_bytes(tmp_path, "model.abc.bin", b"second")
    assert first.rows == 2
    assert read_bytes(tmp_path, first) == b"first"


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    obj = write_table(tmp_path, "empty.parquet", frames_table([]))
    assert obj.rows == 0
    assert read_object(tmp_path, obj).equals(frames_table([]))


def test_large_rows_come_in_several_row_groups_with_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = frames_table([f"v{n}" for n in range(10)])
    row_bytes = 2 * 4 * 6 * 3 + 4 * 4
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 7 * row_bytes)
    obj = write_table(tmp_path, "groups.parquet", table)
    assert pq.ParquetFile(tmp_path / obj.name).metadata.num_row_groups == 5
    assert read_object(tmp_path, obj).equals(table)


def test_columns_come_in_the_order_asked_for_and_unknown_ones_are_named(tmp_path: Path) -> None:
    obj = write_table(tmp_path, "x.parquet", targets_table(["a"]))
    assert read_object(tmp_path, obj, ["substage_1", "clip_id"]).column_names == ["substage_1", "clip_id"]
    assert read_object(tmp_path, obj, []).num_columns == 0
    with pytest.raises(InputError, match=r"no column substage_9; it has clip_id, view_id"):
        read_object(tmp_path, obj, ["clip_id", "substage_9"])


def test_the_first_of_two_attempts_wins_and_the_second_does_not_exist(tmp_path: Path) -> None:
    attempts = [new_attempt(), new_attempt()]
    tables = [frames_table(["a"]), frames_table(["b"])]
    objects = [
        write_table(tmp_path, f"shard-00000003.{attempt}.parquet", table)
        for attempt, table in zip(attempts, tables, strict=True)
    ]
    markers = [Marker("shard-00000003", a, (o,), None, {}) for a, o in zip(attempts, objects, strict=True)]
    assert read_markers(tmp_path) == {}, "files without a marker do not exist"
    assert [commit(tmp_path, marker) for marker in markers] == [True, False]
    assert read_markers(tmp_path) == {"shard-00000003": markers[0]}
    assert read_object(tmp_path, read_markers(tmp_path)["shard-00000003"].objects[0]).equals(tables[0])


def test_a_marker_survives_its_file_with_quarantine_and_facts(tmp_path: Path) -> None:
    made = put(tmp_path, 7, frames_table(["a"]), frames_table(["b", "c"]), quarantined=["d"])
    found = read_marker(tmp_path, shard_name(7))
    assert found == made
    assert found is not None
    assert found.quarantine is not None
    assert (found.rows, found.quarantine.rows, found.facts) == (9, 1, {"attempt": made.attempt})
    assert read_marker(tmp_path, shard_name(8)) is None


def test_markers_are_sorted_by_number_and_other_files_are_none(tmp_path: Path) -> None:
    for name in ("step-9", "step-10", "shard-00000002", "done"):
        assert commit(tmp_path, Marker(name, "abc", ()))
    for name in ("about.json", "lease.json", "model.json", "shard-1.abc.json", "step-x.json"):
        (tmp_path / name).write_text("{}")
    assert list(read_markers(tmp_path)) == ["shard-00000002", "step-9", "step-10"]
    assert list(read_markers(tmp_path, "step-")) == ["step-9", "step-10"]
    assert read_markers(tmp_path / "nowhere") == {}
    assert read_marker(tmp_path, "done") == Marker("done", "abc", ())


def test_a_commit_without_its_files_is_refused(tmp_path: Path) -> None:
    obj = write_bytes(tmp_path, "model.abc.bin", b"weights")
    (tmp_path / obj.name).unlink()
    with pytest.raises(JobError, match=r"model\.abc\.bin is missing"):
        commit(tmp_path, Marker("shard-00000000", "abc", (obj,)))
    assert read_markers(tmp_path) == {}


def test_damage_is_seen_by_size_by_checksum_and_by_sha256(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (50, 4000), np.uint8)
    obj = write_table(tmp_path, "x.parquet", pa.table({"key": range(50), "pixels": tensor_array(random)}))
    path = tmp_path / "x.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(JobError, match=f"has {len(good) - 1} bytes instead of {len(good)}"):
        read_object(tmp_path, obj)
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    with pytest.raises(JobError, match="cannot be read"):
        read_object(tmp_path, obj)
    assert column(read_object(tmp_path, obj, ["key"]), "key").tolist() == list(range(50)), "other pages are whole"
    with pytest.raises(JobError, match="sha256"):
        read_object(tmp_path, obj, ["key"], check=True)
    path.write_bytes(good)
    assert object_path(tmp_path, obj, check=True) == path


def test_trouble_of_the_store_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obj = write_table(tmp_path, "x.parquet", frames_table(["a"]))

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *_, **__: fails())
    with pytest.raises(StorageError, match=r"x\.parquet cannot be read: Input/output error, again and again"):
        read_object(tmp_path, obj)
    assert waited == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("change", ['"schema":"2.0"', '"schema":"1"'])
def test_markers_of_another_major_are_refused_by_name(tmp_path: Path, change: str) -> None:
    put(tmp_path, 1, frames_table(["a"]))
    path = tmp_path / "shard-00000001.json"
    path.write_text(path.read_text().replace('"schema":"1.0"', change))
    with pytest.raises(InputError, match=r"shard-00000001\.json.*schema"):
        read_markers(tmp_path)


@pytest.mark.parametrize("name", ["../up.parquet", "/etc/passwd", "a/../../b"])
def test_objects_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    value = Marker("shard-00000001", "abc", (DataObject(name, 1, 1, "00"),)).to_json()
    with pytest.raises(InputError, match="outside"):
        Marker.from_json(value, "its file")
    with pytest.raises(InputError, match="its file is no marker"):
        Marker.from_json({"schema": "1.0"}, "its file")
