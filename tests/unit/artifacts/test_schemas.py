import io
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.artifacts.commit import write_table
from pipeline.artifacts.schemas import (
    CLEAN,
    MANIFEST,
    METADATA_KEY,
    PLAN,
    QUARANTINE,
    STATISTICS,
    TOMBSTONES,
    check_schema,
    column,
    declaration,
    declared,
    frames_schema,
    image_array,
    labels_schema,
    row_bytes,
    targets_schema,
    tensor_array,
)
from pipeline.errors import InputError
from tests.unit.artifacts.tables import C, H, T, W, frames_table, query, targets_table


def values(dtype: str, *shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251 / (1 if dtype == "uint8" else 8)).astype(dtype).reshape(shape)


TENSORS = {"half": ("float16", (6,)), "single": ("float32", (2, 3)), "pixels": ("uint8", (2, 4, 5, 3))}


@pytest.fixture
def tensors(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = {name: values(dtype, 7, *shape) for name, (dtype, shape) in TENSORS.items()}
    table = pa.table({"key": list("abcdefg"), **{name: tensor_array(array) for name, array in arrays.items()}})
    write_table(tmp_path, "x.parquet", table)
    return tmp_path / "x.parquet", arrays


def test_pyarrow_gives_back_whole_arrays(tensors: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = tensors
    table = pq.read_table(path)
    for name, array in arrays.items():
        found = column(table, name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        np.testing.assert_array_equal(column(table.slice(2, 3), name), array[2:5])
        np.testing.assert_array_equal(column(pa.concat_tables([table.slice(5), table.slice(0, 2)]), name)[0], array[5])


def test_pandas_gives_flat_arrays_of_the_same_type(tensors: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = tensors
    frame = pd.read_parquet(path)
    for name, array in arrays.items():
        found = np.stack(frame[name].tolist())
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array.reshape(7, -1))


def test_duckdb_gives_flat_lists(tensors: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = tensors
    rows = query(f"select {', '.join(arrays)} from '{path}' order by key")
    for n, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(np.array([row[n] for row in rows], array.dtype), array.reshape(7, -1))
    assert query(f"select sum(half[2]) from '{path}'") == [(float(arrays["half"][:, 1].sum()),)]


def test_the_smaller_option_is_read_by_arrow_and_refused_by_duckdb_for_half_floats(tmp_path: Path) -> None:
    random = np.random.default_rng(0).standard_normal((400, 512)).astype(np.float16)
    table = pa.table({"half": tensor_array(random)})
    plain = write_table(tmp_path, "plain.parquet", table)
    split = write_table(tmp_path, "split.parquet", table, byte_stream_split=True)
    assert split.size < 0.97 * plain.size
    np.testing.assert_array_equal(column(pq.read_table(tmp_path / "split.parquet"), "half"), random)
    with pytest.raises(duckdb.Error, match="BYTE_STREAM_SPLIT"):
        query(f"select sum(half[1]) from '{tmp_path / 'split.parquet'}'")


def test_tensor_array_takes_views_that_are_not_contiguous_and_no_rows_at_all() -> None:
    array = values("float32", 4, 6)
    np.testing.assert_array_equal(tensor_array(array[::2, ::3]).to_numpy_ndarray(), array[::2, ::3])
    assert tensor_array(array[:0]).to_numpy_ndarray().shape == (0, 6)
    with pytest.raises(AssertionError, match="wanted"):
        tensor_array(np.zeros(3))


def test_column_of_numbers_strings_lists_and_nulls() -> None:
    table = pa.table({"label": pa.array([1, None], pa.int32()), "name": ["a", None], "times": [[0.5], [1.0, 2.0]]})
    assert column(table, "label", fill=-1).tolist() == [1, -1]
    assert column(table, "label", fill=-1).dtype == np.int32
    assert column(table, "name").tolist() == ["a", None]
    assert [times.tolist() for times in column(table, "times")] == [[0.5], [1.0, 2.0]]
    with pytest.raises(AssertionError, match="'label' holds nulls"):
        column(table, "label")


def test_every_declared_schema_survives_a_file(tmp_path: Path) -> None:
    schemas = [MANIFEST, CLEAN, PLAN, TOMBSTONES, QUARANTINE, STATISTICS]
    schemas += [
        frames_schema(T, H, W),
        frames_schema(T, H, W, "jpeg"),
        targets_schema(C, (3,), "float32"),
        labels_schema(C),
    ]
    kinds = []
    for schema in schemas:
        facts = declaration(schema)
        assert facts is not None
        kinds.append(facts["kind"])
        name = f"{len(kinds)}.parquet"
        write_table(tmp_path, name, schema.empty_table())
        found = pq.read_schema(tmp_path / name)
        assert found.equals(schema, check_metadata=True)
        check_schema(found, kinds[-1])
    assert kinds[:6] == ["manifest", "clean", "plan", "tombstones", "quarantine", "statistics"]
    assert kinds[6:] == ["frames", "frames", "targets", "labels"]


def test_frames_and_targets_hold_their_replay_columns() -> None:
    frames, targets = frames_table(["a", "b"]), targets_table(["a", "b"])
    assert frames.schema.names[:-1] == targets.schema.names[:-3]
    assert targets.schema.names[-3:] == ["logits", "substage_1", "substage_2"]
    assert column(frames, "frames").shape == (6, T, H, W, 3)
    assert column(targets, "substage_2").dtype == np.float16


def test_null_in_a_needed_column_is_refused_when_written(tmp_path: Path) -> None:
    table = pa.table({"video_id": [None], "shard_id": ["s"], "reason": ["removed"]}, schema=TOMBSTONES)
    with pytest.raises(ValueError, match="video_id"):
        write_table(tmp_path, "x.parquet", table)
    assert list(tmp_path.iterdir()) == []


def test_other_majors_kinds_and_foreign_tables_are_refused_by_name() -> None:
    newer = PLAN.with_metadata({METADATA_KEY: b'{"kind": "plan", "schema": "2.0"}'})
    with pytest.raises(InputError, match=r"'plan' has schema 2\.0.*reads schema 1\.x"):
        check_schema(newer, "plan")
    with pytest.raises(InputError, match="'targets' was expected, this one is 'plan'"):
        check_schema(PLAN, "targets")
    with pytest.raises(InputError, match="not written by stagedkd"):
        check_schema(pa.schema([("x", pa.int32())]), "plan")
    minor = declared("plan", [*PLAN, pa.field("weight", pa.float32())])
    check_schema(minor.with_metadata({METADATA_KEY: b'{"kind": "plan", "schema": "1.7"}'}), "plan")


@pytest.fixture
def jpegs(tmp_path: Path) -> tuple[Path, pa.Table, np.ndarray]:
    """Six rows of frames as JPEGs in a file, and the rasters that they were made from."""
    raw = frames_table(["a", "b"])
    y, x = np.mgrid[:16, :24]
    ramps = np.stack([4 * x + y, 8 * y, 60 + x + 2 * y], axis=-1)
    rasters = np.stack([[ramps + 20 * row + 7 * frame for frame in range(T)] for row in range(6)]).astype(np.uint8)
    schema = frames_schema(T, 16, 24, "jpeg")
    table = pa.table([*raw.drop(["frames"]).columns, image_array(rasters, 95)], schema=schema)
    write_table(tmp_path, "x.parquet", table)
    return tmp_path / "x.parquet", table, rasters


def test_a_column_of_jpegs_reads_as_the_rasters(jpegs: tuple[Path, pa.Table, np.ndarray]) -> None:
    path, table, rasters = jpegs
    read = pq.read_table(path)
    assert read.schema.equals(table.schema, check_metadata=True)
    found = column(read, "frames")
    assert found.shape == rasters.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - rasters).mean() < 2
    np.testing.assert_array_equal(column(read.slice(2, 3), "frames"), found[2:5])
    np.testing.assert_array_equal(column(read.take([5, 0]), "frames"), found[[5, 0]])
    joined = pa.concat_tables([read.slice(4), read.slice(0, 1)]).select(["frames"])
    np.testing.assert_array_equal(column(joined, "frames"), found[[4, 5, 0]])
    assert column(read.slice(0, 0), "frames").shape == (0, *rasters.shape[1:])


def test_other_readers_find_jpeg_files(jpegs: tuple[Path, pa.Table, np.ndarray]) -> None:
    """Lists of bytes for pandas and DuckDB, which any JPEG reader takes."""
    path, table, _ = jpegs
    wanted = column(table, "frames")
    lists = [pd.read_parquet(path)["frames"], [row[0] for row in query(f"select frames from '{path}'")]]
    for images in lists:
        assert [len(row) for row in images] == [T] * 6
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(images[4][1]))), wanted[4, 1])


def test_equal_pixels_are_equal_bytes_in_the_file(jpegs: tuple[Path, pa.Table, np.ndarray], tmp_path: Path) -> None:
    path, table, rasters = jpegs
    again = pa.table([*table.drop(["frames"]).columns, image_array(rasters, 95)], schema=table.schema)
    write_table(tmp_path, "y.parquet", again)
    assert (tmp_path / "y.parquet").read_bytes() == path.read_bytes()
    assert pq.read_metadata(path).row_group(0).column(8).encodings == ("RLE", "PLAIN")  # no dictionary of pictures


def test_row_bytes_are_those_of_pixels_and_about_an_eighth_for_jpegs() -> None:
    """Files of a whole shard must fall into row groups of some MB either way."""
    replay = 16
    assert row_bytes(frames_schema(16, 112, 112)) == 16 * 112 * 112 * 3 + replay
    assert row_bytes(frames_schema(16, 112, 112, "jpeg")) == 16 * 112 * 112 * 3 // 8 + replay
    assert row_bytes(targets_schema(400, (64, 128))) == 2 * (400 + 64 + 128) + replay
    assert row_bytes(PLAN) == 0
