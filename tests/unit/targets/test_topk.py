"""The k largest logits: which, in which order, and what is kept of the others."""

import numpy as np
import pytest
from scipy.special import logsumexp

from pipeline.artifacts.commit import read_object, write_table
from pipeline.artifacts.schemas import check_schema
from pipeline.errors import ConfigError, InputError, JobError
from pipeline.targets.codec import Codec, decode, pack, table
from pipeline.targets.topk import NOTHING, largest
from tests.unit.targets.test_codec import ROWS

N, C, TEMPERATURES = 3, 11, (1.0, 4.0)


def logits(seed: int = 0, classes: int = C) -> np.ndarray:
    return (5 * np.random.default_rng(seed).standard_normal((N, classes))).astype(np.float32)


def zscored(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, ddof=1, keepdims=True) + 1e-4)


@pytest.mark.parametrize("k", [1, 4, C - 1])
def test_the_largest_in_falling_order_and_the_rest_summed(k: int) -> None:
    values = logits()
    found = largest(values, k, TEMPERATURES)
    assert found.index.dtype == np.int16
    order = np.argsort(-values, axis=1)
    assert np.array_equal(found.index, order[:, :k])
    assert np.array_equal(found.logit, np.take_along_axis(values, order[:, :k], 1))
    np.testing.assert_allclose(found.mean, values.mean(1, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found.sd, values.std(1, ddof=1, dtype=np.float64), rtol=1e-6)
    for place, space in enumerate((values.astype(np.float64), zscored(values))):
        rest = np.take_along_axis(space, order[:, k:], 1)
        for number, temperature in enumerate(TEMPERATURES):
            np.testing.assert_allclose(
                found.tail_lse[:, place, number], logsumexp(rest / temperature, axis=1), rtol=2e-6, atol=2e-7
            )


def test_equal_logits_are_kept_in_class_order() -> None:
    values = np.zeros((1, 6), np.float32)
    values[0, [4, 2]] = 1.0
    assert largest(values, 4, ()).index[0].tolist() == [2, 4, 0, 1]


def test_all_kept_leaves_nothing() -> None:
    found = largest(logits(), C, TEMPERATURES)
    assert (found.tail_lse == NOTHING).all()
    assert np.isfinite(found.tail_lse).all()


def test_many_classes_take_wider_numbers() -> None:
    wide = np.zeros((1, 40_000), np.float32)
    wide[0, 39_999] = 1
    found = largest(wide, 1, ())
    assert (found.index.dtype, int(found.index[0, 0])) == (np.int32, 39_999)


def test_fewer_classes_than_k_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"top_k is 12, but the teacher has 11"):
        largest(logits(), 12, ())


def outputs() -> dict[str, np.ndarray]:
    return {"logits": logits(), "substage_1": logits(1, 4)}


def test_through_a_stored_object(tmp_path) -> None:
    codec = Codec(top_k=4, temperatures=TEMPERATURES)
    stored = write_table(tmp_path, "shard-00000000.abc.parquet", table(pack(outputs(), codec), ROWS, codec))
    found = decode(read_object(tmp_path, stored))
    expected = largest(logits(), 4, TEMPERATURES)
    assert found.logits is None
    assert found.topk is not None
    assert (found.topk.temperatures, found.topk.classes) == (TEMPERATURES, C)
    assert np.array_equal(found.topk.index, expected.index)
    assert np.array_equal(found.topk.logit, expected.logit.astype(np.float16).astype(np.float32))
    assert np.array_equal(found.topk.tail_lse, expected.tail_lse)
    assert np.array_equal(found.topk.sd, expected.sd)
    assert np.array_equal(found.features[0], logits(1, 4).astype(np.float16).astype(np.float32))


def test_without_temperatures_there_is_no_tail() -> None:
    codec = Codec(top_k=2)
    found = decode(table(pack(outputs(), codec), ROWS, codec))
    assert found.topk is not None
    assert found.topk.tail_lse.shape == (N, 2, 0)


def test_a_shard_without_a_row_keeps_its_columns() -> None:
    codec = Codec(top_k=4, temperatures=TEMPERATURES)
    none = {name: values[:0] for name, values in pack(outputs(), codec).items()}
    assert table(none, [], codec).schema.equals(table(pack(outputs(), codec), ROWS, codec).schema, check_metadata=True)


def test_who_wants_whole_logits_is_told() -> None:
    codec = Codec(top_k=4)
    with pytest.raises(InputError, match="'targets' was expected, this one is 'topk_targets'"):
        check_schema(table(pack(outputs(), codec), ROWS, codec).schema, "targets")


@pytest.mark.parametrize(("value", "said"), [(np.nan, "not finite"), (np.inf, "not finite"), (1e5, "too large")])
def test_values_that_cannot_be_stored_name_the_clip(value: float, said: str) -> None:
    given, codec = outputs(), Codec(top_k=4, temperatures=TEMPERATURES)
    given["logits"][1, 3] = value
    with pytest.raises(JobError, match=f"'v1#1of3', view 1: .*{said}"):
        table(pack(given, codec), ROWS, codec)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0},
        {"temperatures": (2.0,)},
        {"top_k": 2, "temperatures": (2.0, 2.0)},
        {"top_k": 2, "temperatures": (0.0,)},
    ],
)
def test_a_codec_that_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=r"precompute\.codec"):
        Codec(**wrong)
