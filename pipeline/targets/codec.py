"""Targets as a table: half floats by default, raw logits (never tempered), nothing that is not finite.

    labeler's float32 ──pack (beside the teacher)──▶ what is stored, per slot ──table (committer)──▶ rows with keys

Legend: n rows, C classes, C_l channels of substage l, k kept logits, M temperatures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.artifacts.schemas import (
    REPLAY,
    TOPK,
    check_schema,
    column,
    declaration,
    targets_schema,
    tensor_array,
    topk_schema,
)
from pipeline.errors import ConfigError, JobError
from pipeline.targets.topk import TopK, largest

DTYPES = ("float16", "float32")
Replay = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Codec:
    """How targets are stored: all logits, or the `top_k` largest and log-sum-exps of the rest at `temperatures`.

    ConfigError where the values cannot be.
    """

    dtype: str = "float16"
    byte_stream_split: bool = False
    top_k: int | None = None
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"precompute.codec.dtype is {self.dtype!r}; allowed are {' and '.join(DTYPES)}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"precompute.codec.top_k is {self.top_k}; keep at least 1 logit, or null for all")
        given = self.temperatures
        if given and self.top_k is None:
            raise ConfigError("precompute.codec.temperatures are for top_k: whole logits serve every temperature")
        if len(set(given)) < len(given) or not all(0 < value < float("inf") for value in given):
            raise ConfigError(f"precompute.codec.temperatures are {list(given)}; give each once, above 0")

    @property
    def whole(self) -> "Codec":
        """The same, with all logits."""
        return replace(self, top_k=None, temperatures=())


class Decoded(NamedTuple):
    """What a table of targets says, as float32: logits (n, C) or their top k, features L × (n, C_l)."""

    logits: np.ndarray | None
    features: list[np.ndarray]
    topk: TopK | None = None


def pack(outputs: Values, codec: Codec) -> dict[str, np.ndarray]:
    """A labeler's outputs float32 (n, …) → what is stored of them, row by row; nothing is refused yet.

    A value that was not finite becomes NaN, one too large for the number type becomes infinite: `table` tells them
    apart. ConfigError where there are fewer logits than top_k.
    """
    features = {name: _rounded(values, codec.dtype) for name, values in outputs.items() if name != "logits"}
    if codec.top_k is None:
        return {"logits": _rounded(outputs["logits"], codec.dtype), **features}
    kept = largest(outputs["logits"], codec.top_k, codec.temperatures)
    tail = {"tail_lse": kept.tail_lse} if codec.temperatures else {}
    return {
        "topk_index": kept.index,
        "topk_logit": _rounded(kept.logit, codec.dtype),
        "logit_mean": kept.mean,
        "logit_sd": kept.sd,
        "logit_count": np.full(len(kept.index), kept.classes, np.int32),
        **tail,
        **features,
    }


def table(packed: Values, slots: Replay, codec: Codec) -> pa.Table:
    """Packed values (n, …) with the replay columns of the same n rows → a table of targets.

    slots: clip_id, view_id, video_id, times (seconds), indices, crop (4,), flip, reader: columns or rows. JobError that
    names clip, view and column where a value is not finite.
    """
    replay = slots if isinstance(slots, Mapping) else {name: [row[name] for row in slots] for name in REPLAY}
    for name, values in packed.items():
        _check_finite(name, values, replay, codec.dtype)
    schema = _schema(packed, codec)
    return pa.table([_array(field, packed, replay) for field in schema], schema=schema)


def encode(outputs: Values, replay: Replay, dtype: str = "float16") -> pa.Table:
    """`pack` and `table` in one, for whole logits."""
    codec = Codec(dtype)
    return table(pack(outputs, codec), replay, codec)


def decode(table: pa.Table) -> Decoded:
    """The values of a table of targets, as float32, in row order. InputError for a table of another kind."""
    said = declaration(table.schema) or {}
    sparse = said.get("kind") == TOPK
    check_schema(table.schema, TOPK if sparse else "targets")
    substages = sum(name.startswith("substage_") for name in table.column_names)
    features = [column(table, f"substage_{number}").astype(np.float32) for number in range(1, substages + 1)]
    if not sparse:
        return Decoded(column(table, "logits").astype(np.float32), features)
    return Decoded(None, features, _topk(table, tuple(said["temperatures"])))


def _topk(table: pa.Table, temperatures: tuple[float, ...]) -> TopK:
    counts = column(table, "logit_count")
    return TopK(
        index=column(table, "topk_index"),
        logit=column(table, "topk_logit").astype(np.float32),
        mean=column(table, "logit_mean"),
        sd=column(table, "logit_sd"),
        tail_lse=column(table, "tail_lse") if temperatures else np.empty((len(counts), 2, 0), np.float32),
        temperatures=temperatures,
        classes=int(counts[0]) if len(counts) else 0,
    )


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    rounded[~np.isfinite(values)] = np.nan
    return rounded


def _check_finite(name: str, values: np.ndarray, replay: Mapping[str, Any], dtype: str) -> None:
    assert len(values) == len(replay["clip_id"]), f"{len(values)} rows of {name} for {len(replay['clip_id'])} views"
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    bad = np.flatnonzero(~finite)
    if bad.size:
        raise JobError(_message(name, values[bad[0]], replay, int(bad[0]), dtype))


def _message(name: str, values: np.ndarray, replay: Mapping[str, Any], row: int, dtype: str) -> str:
    view = f"clip {replay['clip_id'][row]!r}, view {int(replay['view_id'][row])}: {name}"
    if np.isnan(values).any():
        return f"{view} of the teacher is not finite: check its weights and its input transform, or run it in float32"
    most = np.finfo(dtype).max
    return f"{view} reaches more than {most:.6g}, too large for {dtype}: set precompute.codec.dtype to float32"


def _schema(packed: Values, codec: Codec) -> pa.Schema:
    dims = [values.shape[1] for name, values in packed.items() if name.startswith("substage_")]
    if "logits" in packed:
        return targets_schema(packed["logits"].shape[1], dims, codec.dtype)
    index = packed["topk_index"]
    return topk_schema(index.shape[1], index.dtype.name, codec.temperatures, dims, codec.dtype)


def _array(field: pa.Field, packed: Values, replay: Mapping[str, Any]) -> pa.Array:
    if field.name in packed:
        values = packed[field.name]
        return tensor_array(values) if values.ndim > 1 else pa.array(values, field.type)
    given = replay[field.name]
    if isinstance(field.type, pa.FixedShapeTensorType):
        return tensor_array(np.asarray(given, dtype=np.float32).reshape(len(given), *field.type.shape))
    return pa.array(list(given), type=field.type)
