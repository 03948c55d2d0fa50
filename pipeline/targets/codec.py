"""Targets as a table: half floats by default, raw logits (never tempered), nothing that is not finite."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.artifacts.schemas import REPLAY, check_schema, column, targets_schema, tensor_array
from pipeline.errors import ConfigError, JobError

DTYPES = ("float16", "float32")


class Decoded(NamedTuple):
    """What a table of targets says, as float32: logits (N, C), features L × (N, C_l)."""

    logits: np.ndarray
    features: list[np.ndarray]


Replay = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def encode(outputs: Mapping[str, np.ndarray], replay: Replay, dtype: str = "float16") -> pa.Table:
    """A labeler's outputs with the replay columns of the same N rows → a table of kind `targets`.

    replay: clip_id, view_id, video_id, times (seconds), indices, crop (4,), flip, reader: columns or rows. JobError
    that names clip, view and column where a value is not finite once coded; ConfigError for another dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"precompute.codec.dtype is {dtype!r}; allowed are {' and '.join(DTYPES)}")
    names = ["logits", *(f"substage_{number}" for number in range(1, len(outputs)))]
    columns = _columns(replay)
    coded = {name: _coded(name, outputs[name], columns, dtype) for name in names}
    schema = targets_schema(coded["logits"].shape[1], [coded[name].shape[1] for name in names[1:]], dtype)
    return pa.table([_array(field, coded, columns) for field in schema], schema=schema)


def decode(table: pa.Table) -> Decoded:
    """The values of a table of targets, as float32, in row order. InputError for a table of another kind."""
    check_schema(table.schema, "targets")
    substages = sum(name.startswith("substage_") for name in table.column_names)
    features = [column(table, f"substage_{number}").astype(np.float32) for number in range(1, substages + 1)]
    return Decoded(column(table, "logits").astype(np.float32), features)


def _columns(replay: Replay) -> Mapping[str, Any]:
    if isinstance(replay, Mapping):
        return replay
    return {name: [row[name] for row in replay] for name in REPLAY}


def _coded(name: str, values: np.ndarray, replay: Mapping[str, Any], dtype: str) -> np.ndarray:
    assert len(values) == len(replay["clip_id"]), f"{len(values)} rows of {name} for {len(replay['clip_id'])} views"
    with np.errstate(over="ignore"):
        coded = values.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(coded).all(axis=1))
    if bad.size:
        raise JobError(_message(name, values[bad[0]], replay, int(bad[0]), dtype))
    return coded


def _message(name: str, values: np.ndarray, replay: Mapping[str, Any], row: int, dtype: str) -> str:
    view = f"clip {replay['clip_id'][row]!r}, view {int(replay['view_id'][row])}: {name}"
    if not np.isfinite(values).all():
        return f"{view} of the teacher is not finite: check its weights and its input transform, or run it in float32"
    return f"{view} reaches {np.abs(values).max():.6g}, too large for {dtype}: set precompute.codec.dtype to float32"


def _array(field: pa.Field, coded: Mapping[str, np.ndarray], replay: Mapping[str, Any]) -> pa.Array:
    if field.name in coded:
        return tensor_array(coded[field.name])
    values = replay[field.name]
    if isinstance(field.type, pa.FixedShapeTensorType):
        return tensor_array(np.asarray(values, dtype=np.float32).reshape(len(values), *field.type.shape))
    return pa.array(list(values), type=field.type)
