"""Channel statistics: against NumPy in float64, the same bits however the rows are cut into tables."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts.schemas import STATISTICS, column, tensor_array
from pipeline.errors import InputError
from pipeline.targets.statistics import BLOCK, channel_statistics, read_statistics

ROWS = 2 * BLOCK + 77


def features(dtype: str = "float16") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(1000 + 3 * rng.standard_normal((ROWS, 3))).astype(dtype), rng.standard_normal((ROWS, 1)).astype(dtype)]


def cut(values: list[np.ndarray], at: list[int]) -> Iterator[pa.Table]:
    for start, stop in zip([0, *at], [*at, ROWS], strict=True):
        yield pa.table({f"substage_{n}": tensor_array(z[start:stop]) for n, z in enumerate(values, start=1)})


def test_mean_and_sd_are_those_of_the_rows_as_read_back() -> None:
    values = features()
    table = channel_statistics(cut(values, [100, 1500]), 2)
    assert table.schema.equals(STATISTICS, check_metadata=True)
    assert column(table, "substage").tolist() == [1, 1, 1, 2]
    assert column(table, "channel").tolist() == [0, 1, 2, 0]
    for (mean, sd), z in zip(read_statistics(table), values, strict=True):
        np.testing.assert_allclose(mean, z.astype(np.float64).mean(axis=0), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(sd, z.astype(np.float64).std(axis=0), rtol=1e-11)


def test_a_network_without_substages_has_an_empty_table() -> None:
    def unread() -> Iterator[pa.Table]:
        raise AssertionError("rows were read")
        yield

    table = channel_statistics(unread(), 0)
    assert table.schema.equals(STATISTICS, check_metadata=True)
    assert (table.num_rows, read_statistics(table)) == (0, [])


@pytest.mark.parametrize("at", [[], [1], [BLOCK], [BLOCK - 1, BLOCK + 1], list(range(50, ROWS, 50)), [7, 7, 2000]])
def test_cutting_the_rows_otherwise_changes_no_bit(at: list[int]) -> None:
    plain = channel_statistics(cut(features(), []), 2)
    assert channel_statistics(cut(features(), at), 2).equals(plain)


def test_a_large_offset_does_not_swallow_the_spread() -> None:
    z = 1e6 + np.random.default_rng(1).standard_normal((ROWS, 2))
    ((_, sd),) = read_statistics(channel_statistics([pa.table({"substage_1": tensor_array(z)})], 1))
    np.testing.assert_allclose(sd, z.std(axis=0), rtol=1e-8)


def test_a_constant_channel_has_an_sd_of_exactly_zero() -> None:
    z = np.full((ROWS, 2), 0.1, dtype=np.float32)
    ((mean, sd),) = read_statistics(channel_statistics([pa.table({"substage_1": tensor_array(z)})], 1))
    assert np.array_equal(mean, z[0].astype(np.float64))
    assert sd.tolist() == [0.0, 0.0]


def test_reading_back_does_not_depend_on_the_order_of_rows() -> None:
    table = channel_statistics(cut(features(), []), 2)
    shuffled = table.take(pa.array([3, 1, 0, 2]))
    for (mean, sd), (other_mean, other_sd) in zip(read_statistics(table), read_statistics(shuffled), strict=True):
        assert np.array_equal(mean, other_mean)
        assert np.array_equal(sd, other_sd)


@pytest.mark.parametrize("tables", [[], [pa.table({"substage_1": tensor_array(np.zeros((0, 2), np.float32))})]])
def test_no_rows_are_refused(tables: list[pa.Table]) -> None:
    with pytest.raises(InputError, match="no training rows"):
        channel_statistics(tables, 1)


def test_another_kind_of_table_is_refused() -> None:
    with pytest.raises(InputError, match="statistics"):
        read_statistics(pa.table({"mean": [1.0]}))
