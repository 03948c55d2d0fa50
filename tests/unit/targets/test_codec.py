"""Targets as a table: there and back, what other readers see, and values that no half float holds."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts.commit import read_object, write_table
from pipeline.artifacts.schemas import STATISTICS, targets_schema
from pipeline.errors import ConfigError, InputError, JobError
from pipeline.targets.codec import decode, encode

N = 3
ROWS = [
    {
        "clip_id": f"v{n}#1of3",
        "view_id": n,
        "video_id": f"v{n}",
        "times": np.arange(2 + n) / 8,  # ragged: readers may return fewer frames
        "indices": np.arange(2 + n),
        "crop": [0.0, 0.125, 1.0, 0.875],
        "flip": n == 1,
        "reader": "decord",
    }
    for n in range(N)
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def outputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = {"logits": 5, "substage_1": 4, "substage_2": 7}
    return {name: (10 * rng.standard_normal((N, width))).astype(np.float32) for name, width in widths.items()}


def test_float32_comes_back_bit_for_bit() -> None:
    given = outputs()
    found = decode(encode(given, ROWS, "float32"))
    assert np.array_equal(found.logits, given["logits"])
    assert [np.array_equal(z, given[f"substage_{n}"]) for n, z in enumerate(found.features, 1)] == [True, True]


def test_half_floats_are_the_default_and_come_back_rounded() -> None:
    given = outputs()
    table = encode(given, COLUMNS)
    assert table.schema.equals(targets_schema(5, [4, 7], "float16"), check_metadata=True)
    found = decode(table)
    assert found.logits.dtype == np.float32
    assert np.array_equal(found.logits, given["logits"].astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(found.features[1], given["substage_2"], rtol=1e-3)


def test_replay_columns_are_kept_as_rows_or_as_columns() -> None:
    table = encode(outputs(), ROWS)
    assert table.equals(encode(outputs(), COLUMNS), check_metadata=True)
    row = table.slice(1, 1).to_pylist()[0]
    assert (row["clip_id"], row["view_id"], row["video_id"], row["reader"]) == ("v1#1of3", 1, "v1", "decord")
    assert (row["times"], row["indices"], row["flip"]) == ([0.0, 0.125, 0.25], [0, 1, 2], True)
    assert np.asarray(row["crop"]).tolist() == [0.0, 0.125, 1.0, 0.875]


def test_through_a_stored_object(tmp_path) -> None:
    table = encode(outputs(), ROWS)
    stored = write_table(tmp_path, "shard-00000000.abc.parquet", table)
    assert stored.rows == N
    assert np.array_equal(decode(read_object(tmp_path, stored)).logits, decode(table).logits)


def test_equal_values_give_equal_bytes(tmp_path) -> None:
    digests = [write_table(tmp_path, f"{n}.parquet", encode(outputs(), ROWS)).sha256 for n in "ab"]
    assert digests[0] == digests[1]
    assert write_table(tmp_path, "c.parquet", encode(outputs(1), ROWS)).sha256 != digests[0]


def test_a_shard_of_which_every_video_failed_has_no_row() -> None:
    none = {name: values[:0] for name, values in outputs().items()}
    table = encode(none, [])
    assert table.num_rows == 0
    assert decode(table).features[1].shape == (0, 7)


@pytest.mark.parametrize("name", ["logits", "substage_2"])
def test_a_value_too_large_for_half_floats_names_the_clip(name: str) -> None:
    given = outputs()
    given[name][2, 3] = -1e5
    with pytest.raises(JobError, match=rf"'v2#1of3', view 2: {name} reaches more than 65504, .* float16.*float32"):
        encode(given, ROWS)
    assert decode(encode(given, ROWS, "float32")).logits.shape == (N, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_teacher_that_is_not_finite_names_the_clip(value: float, dtype: str) -> None:
    given = outputs()
    given["substage_1"][1, 0] = value
    with pytest.raises(JobError, match="'v1#1of3', view 1: substage_1 of the teacher is not finite"):
        encode(given, ROWS, dtype)


def test_the_largest_half_float_is_allowed() -> None:
    given = outputs()
    given["logits"][0, 0] = 65504.0
    assert decode(encode(given, ROWS)).logits[0, 0] == 65504.0


def test_another_dtype_or_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precompute\.codec\.dtype is 'int8'"):
        encode(outputs(), ROWS, "int8")
    with pytest.raises(InputError, match="targets"):
        decode(STATISTICS.empty_table())
    with pytest.raises(InputError, match="not written by stagedkd"):
        decode(pa.table({"logits": [1.0]}))


def test_rows_and_values_must_belong_together() -> None:
    with pytest.raises(AssertionError, match="3 rows of logits for 2 views"):
        encode(outputs(), ROWS[:2])
