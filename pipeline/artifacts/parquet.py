"""How our tables lie in Parquet files: equal tables give equal bytes, and no call needs much more than its rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.schemas import METADATA_KEY, row_bytes
from pipeline.errors import InputError

ROW_GROUP_BYTES = 16 << 20  # of tensors; writing and reading need about ten times this beside the table


def write_parquet(path: Path, table: pa.Table, *, byte_stream_split: bool) -> None:
    """Write a local file whose bytes depend on the table's rows, schema and metadata of ours alone."""
    table = _normal(table)
    options = parquet_options(table.schema, byte_stream_split)
    pq.write_table(table, path, row_group_size=_rows_per_group(table.schema), **options)


def read_groups(file: pq.ParquetFile, path: Path, groups: range, columns: Sequence[str] | None) -> pa.Table:
    """Row group by row group: one call for all would need about ten times the size of all pixels for a moment.

    InputError for a column that is not there; `path` names the file.
    """
    names = file.schema_arrow.names
    unknown = [name for name in columns or () if name not in names]
    if unknown:
        raise InputError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(names)}")
    wanted = None if columns is None else list(columns)
    if not groups:
        return file.schema_arrow.empty_table().select(names if wanted is None else wanted)
    return pa.concat_tables([file.read_row_group(number, columns=wanted) for number in groups])


def parquet_options(schema: pa.Schema, byte_stream_split: bool) -> dict[str, Any]:
    """Dictionaries for keys and pixels (256 values), plain floats; a checksum per page; min and max of keys only."""
    tensors = {item.name: item.type for item in schema if isinstance(item.type, pa.FixedShapeTensorType)}
    floats = [f"{name}.list.element" for name, kind in tensors.items() if pa.types.is_floating(kind.value_type)]
    pixels = [f"{name}.list.element" for name in tensors if f"{name}.list.element" not in floats]
    keys = [name for name in schema.names if name not in tensors]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [*keys, *pixels],
        "use_byte_stream_split": floats if byte_stream_split else False,
        "write_statistics": keys,
        "write_page_checksum": True,
    }


def _normal(table: pa.Table) -> pa.Table:
    """Only what counts as equal reaches the file: one chunk, our metadata alone, Parquet's own name for list items."""
    metadata = table.schema.metadata or {}
    kept = {METADATA_KEY: metadata[METADATA_KEY]} if METADATA_KEY in metadata else None
    schema = pa.schema([_normal_field(item) for item in table.schema], metadata=kept)
    return table.combine_chunks().cast(schema)


def _normal_field(item: pa.Field) -> pa.Field:
    kind = item.type
    if pa.types.is_list(kind):
        kind = pa.list_(kind.value_field.with_name("element").remove_metadata())
    return pa.field(item.name, kind, nullable=item.nullable)


def _rows_per_group(schema: pa.Schema) -> int:
    """From the schema alone (Table.nbytes depends on chunks and validity bitmaps, so equal tables could differ)."""
    return max(1, min(1 << 16, ROW_GROUP_BYTES // max(1, row_bytes(schema))))
