"""The columns of every table that steps hand to one another, and NumPy arrays in and out of them.

Columns of fixed length are `arrow.fixed_shape_tensor`: they arrive as whole NumPy arrays in Arrow and Ray Data, as flat
lists in DuckDB and flat arrays in pandas (half floats included). They hold no null. Frames that are kept as JPEGs are
lists of T files, and `column` gives their pixels. Legend: N rows, T frames, H x W pixels, C classes, C_l channels of
substage l.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.identity import canonical_json
from pipeline.artifacts.layout import SCHEMA, check_version
from pipeline.errors import InputError

METADATA_KEY = b"stagedkd"
_IMAGES = pa.list_(pa.field("element", pa.binary()))
_JPEG_SHRINKS = 8  # raw pixels ÷ JPEG of them, roughly; only for the size of row groups
TOPK = "topk_targets"


def declared(kind: str, fields: Sequence[pa.Field], **facts: Any) -> pa.Schema:
    """A schema that names its kind and version (and `facts` of its own) in the metadata, as every table here does."""
    said = {"kind": kind, "schema": SCHEMA, **facts}
    return pa.schema(fields, metadata={METADATA_KEY: canonical_json(said).encode()})


def check_schema(schema: pa.Schema, kind: str) -> None:
    """InputError unless `schema` was declared as `kind` in a major version that this code reads; it names both."""
    facts = declaration(schema)
    if facts is None:
        raise InputError(f"a table of kind {kind!r} was expected, but this one was not written by stagedkd")
    check_version(facts.get("schema"), f"a table of kind {facts.get('kind')!r}")
    if facts.get("kind") != kind:
        raise InputError(f"a table of kind {kind!r} was expected, this one is {facts.get('kind')!r}: wrong folder?")


def declaration(schema: pa.Schema) -> dict[str, Any] | None:
    """{"kind", "schema", …} as written by `declared`, None for a table of somebody else."""
    text = (schema.metadata or {}).get(METADATA_KEY)
    return None if text is None else json.loads(text)


def tensor_type(dtype: str, shape: Sequence[int]) -> pa.DataType:
    """The type of a column whose every value is an array of `shape`; dtype by NumPy's name: "float16", "uint8", …"""
    return pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), tuple(int(n) for n in shape))


def tensor_array(values: np.ndarray) -> pa.Array:
    """An array (N, ...) of two or more axes as a column of N tensors; no copy where it is contiguous."""
    assert values.ndim >= 2, f"(N, ...) wanted, got {values.shape}"
    assert all(values.shape[1:]), f"a tensor with no element: {values.shape}"
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    return pa.ExtensionArray.from_storage(tensor_type(values.dtype.name, values.shape[1:]), storage)


def column(table: pa.Table, name: str, fill: Any = None) -> np.ndarray:
    """A column as an array: (N, ...) for tensors, (N,) of numbers, of strings (dtype object) or of arrays (lists).

    Lists of JPEGs are decoded: (N, T, H, W, 3) uint8, as raw rasters are. Nulls become `fill`; without one, nulls in a
    column of integers or booleans are an error (NumPy has no null).
    """
    values = table.column(name).combine_chunks()
    if isinstance(values.type, pa.FixedShapeTensorType):
        return values.to_numpy_ndarray()
    if _holds_images(values.type):
        return _pixels(values, declaration(table.schema))
    if values.null_count and fill is not None:
        values = values.fill_null(fill)
    numbers = pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    assert not (numbers and values.null_count), f"column {name!r} holds nulls; say what they become (fill=…)"
    return values.to_numpy(zero_copy_only=False)


def image_array(rasters: np.ndarray, quality: int) -> pa.Array:
    """Rasters (N, T, H, W, 3) uint8 as a column of N lists of T JPEGs."""
    from pipeline.artifacts.jpeg import encode

    count, frames = rasters.shape[:2]
    images = encode(rasters.reshape(-1, *rasters.shape[2:]), quality)
    offsets = pa.array(np.arange(count + 1) * frames, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(images, pa.binary()), type=_IMAGES)


def row_bytes(schema: pa.Schema) -> int:
    """About the bytes of tensors and images in one row, from the schema alone."""
    tensors = [kind for kind in schema.types if isinstance(kind, pa.FixedShapeTensorType)]
    images = (declaration(schema) or {}).get("raster", [0]) if any(map(_holds_images, schema.types)) else [0]
    fixed = sum(kind.value_type.bit_width // 8 * kind.storage_type.list_size for kind in tensors)
    return int(fixed + np.prod(images) // _JPEG_SHRINKS)


def _holds_images(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (pa.types.is_binary(kind.value_type) or pa.types.is_large_binary(kind.value_type))


def _pixels(lists: pa.Array, said: dict[str, Any] | None) -> np.ndarray:
    """Lists of JPEGs as (N, T, H, W, 3); where there is no row, T, H and W are those of the declaration."""
    from pipeline.artifacts.jpeg import decode

    if not len(lists):
        return np.zeros((0, *(said or {}).get("raster", (0, 0, 0, 3))), np.uint8)
    frames = decode(lists.flatten().to_pylist())
    return frames.reshape(len(lists), -1, *frames.shape[1:])


def _needed(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, pa.list_(pa.field("element", kind)), nullable=False)


MANIFEST = declared(
    "manifest",
    [
        _needed("video_id", pa.string()),
        _needed("uri", pa.string()),  # relative to the root, '/' between folders
        pa.field("label", pa.int32()),  # null: unlabelled
        pa.field("label_name", pa.string()),
        _needed("split", pa.string()),
        _needed("group", pa.string()),
        pa.field("frames", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("codec", pa.string()),
        _needed("bytes", pa.int64()),
        _needed("etag", pa.string()),
    ],
)

CLEAN = declared(
    "clean",
    [
        _needed("video_id", pa.string()),
        pa.field("clean_label", pa.int32()),
        pa.field("clean_name", pa.string()),
    ],
)

PLAN = declared(
    "plan",
    [
        _needed("shard_id", pa.string()),
        _needed("micro_batch", pa.int32()),
        _needed("slot", pa.int32()),
        _needed("video_id", pa.string()),
        _needed("clip_id", pa.string()),
        _needed("view_id", pa.int32()),
        _needed("source", pa.string()),  # "bytes:etag" of the file that was planned
    ],
)

TOMBSTONES = declared("tombstones", [_needed(name, pa.string()) for name in ("video_id", "shard_id", "reason")])

QUARANTINE = declared(
    "quarantine",
    [
        *[_needed(name, pa.string()) for name in ("video_id", "uri", "step", "reason", "message", "reader")],
        _needed("reader_version", pa.string()),
        _needed("attempts", pa.int32()),
    ],
)

STATISTICS = declared(
    "statistics",
    [
        _needed("substage", pa.int32()),
        _needed("channel", pa.int32()),
        _needed("mean", pa.float64()),
        _needed("sd", pa.float64()),
    ],
)

_REPLAY = (
    _needed("clip_id", pa.string()),
    _needed("view_id", pa.int32()),
    _needed("video_id", pa.string()),
    _list("times", pa.float64()),  # seconds, as the reader returned them
    _list("indices", pa.int64()),
    _needed("crop", tensor_type("float32", (4,))),  # x0, y0, x1, y1 in 0..1
    _needed("flip", pa.bool_()),
    _needed("reader", pa.string()),
)
REPLAY = tuple(item.name for item in _REPLAY)


def frames_schema(num_frames: int, height: int, width: int, encoding: str = "raw") -> pa.Schema:
    """The replay columns and `frames`, the canonical raster (T, H, W, 3): raw uint8, or (`jpeg`) a list of T JPEGs."""
    assert encoding in ("raw", "jpeg"), encoding
    shape = (num_frames, height, width, 3)
    if encoding == "jpeg":
        return declared("frames", [*_REPLAY, _needed("frames", _IMAGES)], encoding="jpeg", raster=list(shape))
    return declared("frames", [*_REPLAY, _needed("frames", tensor_type("uint8", shape))])


def features_schema(num_frames: int, width: int) -> pa.Schema:
    """Keys and `features` (T, ΣD), float16: what a network's frozen part gives of each frame of a view."""
    return declared("features", [*_REPLAY[:3], _needed("features", tensor_type("float16", (num_frames, width)))])


def targets_schema(num_classes: int, substage_dims: Sequence[int], dtype: str = "float16") -> pa.Schema:
    """The replay columns, `logits` (C,) raw and whole, and `substage_1` .. `substage_L` (C_l,); float16 or float32."""
    logits = _needed("logits", tensor_type(dtype, (num_classes,)))
    return declared("targets", [*_REPLAY, logits, *_substages(substage_dims, dtype)])


def topk_schema(
    top_k: int, index: str, temperatures: Sequence[float], substage_dims: Sequence[int], dtype: str = "float16"
) -> pa.Schema:
    """In place of `logits`: index (int16 or int32) and value of the k largest in falling order, mean and unbiased s.d.
    of all `logit_count` logits, and with temperatures `tail_lse` (2, temperatures): log Σ exp(x / τ) over the logits
    that are not kept, x raw and z-scored. A kind of its own: who reads `targets` alone must not take it for one.
    """
    tail = [_needed("tail_lse", tensor_type("float32", (2, len(temperatures))))] if temperatures else []
    fields = [
        _needed("topk_index", tensor_type(index, (top_k,))),
        _needed("topk_logit", tensor_type(dtype, (top_k,))),
        _needed("logit_mean", pa.float32()),
        _needed("logit_sd", pa.float32()),
        _needed("logit_count", pa.int32()),
        *tail,
    ]
    rows = [*_REPLAY, *fields, *_substages(substage_dims, dtype)]
    return declared(TOPK, rows, temperatures=[float(temperature) for temperature in temperatures])


def _substages(dims: Sequence[int], dtype: str) -> list[pa.Field]:
    assert dtype in ("float16", "float32"), dtype
    return [_needed(f"substage_{i}", tensor_type(dtype, (dim,))) for i, dim in enumerate(dims, start=1)]


def labels_schema(num_classes: int) -> pa.Schema:
    """Refined labels: q (C,) float32, weight, whether the given label was flipped, and the predicted class."""
    return declared(
        "labels",
        [
            _needed("video_id", pa.string()),
            _needed("q", tensor_type("float32", (num_classes,))),
            _needed("weight", pa.float32()),
            _needed("flipped", pa.bool_()),
            _needed("predicted", pa.int32()),
        ],
    )
