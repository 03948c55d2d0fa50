"""The commit protocol: data under attempt names that are never overwritten, then one marker that is created if absent.

A file that no marker names does not exist. Two attempts at one shard may both write; the first marker wins, and the
other's files are ignored (and removed by gc). Nothing is ever renamed over something else.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.files import create_if_absent, listing, publish, read_if_present, read_many, size_of
from pipeline.artifacts.identity import canonical_json, file_digest
from pipeline.artifacts.layout import SCHEMA, check_version, parse_json, read_json
from pipeline.artifacts.places import is_remote
from pipeline.artifacts.schemas import METADATA_KEY, row_bytes
from pipeline.errors import InputError, JobError

__all__ = [
    "DataObject",
    "Marker",
    "MissingError",
    "commit",
    "create_if_absent",
    "damaged",
    "new_attempt",
    "object_path",
    "parquet_options",
    "read_bytes",
    "read_groups",
    "read_marker",
    "read_markers",
    "read_object",
    "shard_name",
    "write_bytes",
    "write_file",
    "write_table",
]

OTHER_BYTES = "has other bytes than its marker says (sha256)"
ROW_GROUP_BYTES = 16 << 20  # of tensors; writing and reading need about ten times this beside the table


class MissingError(JobError):
    """A committed object has no file any more (and no compacted file holds its rows)."""


@dataclass(frozen=True)
class DataObject:
    """One stored file: its name in the artefact's folder, bytes, rows (0 for what is no table) and sha256."""

    name: str
    size: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Marker:
    """What one committed shard consists of. `facts` (accelerator, halvings, seconds) enter no digest."""

    shard_id: str
    attempt: str
    objects: tuple[DataObject, ...]
    quarantine: DataObject | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(obj.rows for obj in self.objects)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """InputError where `value` was written by another major schema or is no marker; `where` names its file."""
        check_version(value.get("schema"), where)
        try:
            objects = tuple(_object(item) for item in value["objects"])
            quarantine = None if value["quarantine"] is None else _object(value["quarantine"])
            return cls(value["shard_id"], value["attempt"], objects, quarantine, dict(value["facts"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where} is no marker ({error!r}): delete it, and the shard is made again") from error


def new_attempt() -> str:
    """A fresh attempt name: 12 hexadecimal digits that no other process has."""
    return uuid.uuid4().hex[:12]


def shard_name(number: int) -> str:
    """`shard-00000003` for 3."""
    return f"shard-{number:08d}"


def write_table(folder: Path, name: str, table: pa.Table, *, byte_stream_split: bool = False) -> DataObject:
    """Write a table as Parquet under an attempt name, `shard-00000003.<attempt>.parquet`; equal tables, equal bytes.

    `byte_stream_split` stores floats 10-30 % smaller, but DuckDB cannot read half floats in that form. JobError where
    the name exists: data is never overwritten.
    """
    table = _normal(table)
    return write_file(folder, name, table.num_rows, lambda path: _write_parquet(path, table, byte_stream_split))


def write_bytes(folder: Path, name: str, data: bytes, rows: int = 0) -> DataObject:
    """Write a file that is no table (weights, JSON) under an attempt name; otherwise as write_table."""
    return write_file(folder, name, rows, lambda path: path.write_bytes(data))


def object_path(folder: Path, obj: DataObject, *, check: bool = False) -> Path:
    """The path of a committed object. MissingError where it is gone, JobError where it has another size or (check=True) another sha256."""
    path = folder / obj.name
    if check and is_remote(path):
        _fetched(path, obj)
        return path
    found = size_of(path)
    if found != obj.size:
        missing = MissingError if found is None else JobError
        raise missing(damaged(path, "is missing" if found is None else f"has {found} bytes instead of {obj.size}"))
    if check and file_digest(path) != obj.sha256:
        raise JobError(damaged(path, OTHER_BYTES))
    return path


def read_object(
    folder: Path, obj: DataObject, columns: Sequence[str] | None = None, *, check: bool = False
) -> pa.Table:
    """Rows of a committed object, with `columns` in the order asked for (default: all).

    Where its own file is gone they are read from the compacted file that holds them (compact.py).
    Size and page checksums are always checked; the sha256 of the whole file where `check`, and always where it came
    from an object store. JobError names what is damaged, InputError an unknown column; an OSError of the store itself
    passes through.
    """
    try:
        return _read_own(folder, obj, columns, check)
    except MissingError:
        from pipeline.artifacts.compacted import read_compacted  # here, because it stands on this module

        return read_compacted(folder, obj, columns, check=check)


def _read_own(folder: Path, obj: DataObject, columns: Sequence[str] | None, check: bool) -> pa.Table:
    path = folder / obj.name
    source = pa.BufferReader(_fetched(path, obj)) if is_remote(path) else object_path(folder, obj, check=check)
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            return read_groups(file, path, range(file.num_row_groups), columns)
    except FileNotFoundError as error:
        raise MissingError(damaged(path, "is missing")) from error  # deleted since we looked
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's word on the store, not Arrow's on the file: the caller may try again
        raise JobError(damaged(path, f"cannot be read ({error})")) from error


def read_bytes(folder: Path, obj: DataObject, *, check: bool = True) -> bytes:
    """The bytes of a committed object that is no table; JobError as object_path."""
    path = folder / obj.name
    return _fetched(path, obj) if is_remote(path) else object_path(folder, obj, check=check).read_bytes()


def commit(folder: Path, marker: Marker) -> bool:
    """Create `<shard_id>.json` if absent. False: someone was first, and this attempt's objects do not exist.

    JobError where an object that the marker names is not there in full.
    """
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", marker.shard_id), marker.shard_id
    assert marker.shard_id not in ("about", "lease", "workspace"), marker.shard_id
    for obj in (*marker.objects, *([marker.quarantine] if marker.quarantine else [])):
        object_path(folder, obj)
    return create_if_absent(folder / f"{marker.shard_id}.json", canonical_json(marker.to_json()).encode())


def read_marker(folder: Path, shard_id: str) -> Marker | None:
    """The marker of one shard, None where it is not committed."""
    path = folder / f"{shard_id}.json"
    value = read_json(path)
    return None if value is None else Marker.from_json(value, str(path))


def read_markers(folder: Path, prefix: str = "") -> dict[str, Marker]:
    """All numbered markers of an artefact (`shard-00000003`, `step-12`, …), by prefix and number; {} where none is."""
    paths = [path for path in listing(folder, f"{prefix}*.json") if re.fullmatch(r"[a-z]+-\d+", path.stem)]
    paths.sort(key=lambda path: _prefix_and_number(path.stem))
    read = zip(paths, read_many(paths), strict=True)
    return {path.stem: Marker.from_json(parse_json(data, path), str(path)) for path, data in read if data is not None}


def _prefix_and_number(name: str) -> tuple[str, int]:
    prefix, _, number = name.partition("-")
    return prefix, int(number)


def _object(value: Mapping[str, Any]) -> DataObject:
    obj = DataObject(str(value["name"]), int(value["size"]), int(value["rows"]), str(value["sha256"]))
    if Path(obj.name).is_absolute() or ".." in Path(obj.name).parts:
        raise ValueError(f"{obj.name!r} lies outside the artefact's folder")
    return obj


def write_file(folder: Path, name: str, rows: int, write: Callable[[Path], object]) -> DataObject:
    """Let `write` fill a local file that becomes `name`, an attempt name; otherwise as write_table."""
    assert Path(name).name == name, name
    path, written = folder / name, list[DataObject]()

    def measured(local: Path) -> None:
        write(local)
        written.append(DataObject(name, local.stat().st_size, rows, file_digest(local)))

    if not publish(path, measured):
        raise JobError(f"{path} exists already, and data is never overwritten: take a new attempt name")
    return written[0]


def _fetched(path: Path, obj: DataObject) -> bytes:
    """All bytes of a remote object, checked against its marker (files has compared them with what was written)."""
    data = read_if_present(path)
    if data is None:
        raise MissingError(damaged(path, "is missing"))
    if len(data) != obj.size:
        raise JobError(damaged(path, f"has {len(data)} bytes instead of {obj.size}"))
    if hashlib.sha256(data).hexdigest() != obj.sha256:
        raise JobError(damaged(path, OTHER_BYTES))
    return data


def damaged(path: Path, what: str) -> str:
    """The message about a committed file that is not what its marker says."""
    return f"{path} {what}: delete the marker (.json) that names it, and the same command makes it again"


def _check_columns(path: Path, known: Sequence[str], asked: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise InputError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(known)}")


def read_groups(file: pq.ParquetFile, path: Path, groups: range, columns: Sequence[str] | None) -> pa.Table:
    """Row group by row group: one call for all would need about ten times the size of all pixels for a moment.

    InputError for a column that is not there; `path` names the file.
    """
    _check_columns(path, file.schema_arrow.names, columns or ())
    wanted = None if columns is None else list(columns)
    if not groups:
        return file.schema_arrow.empty_table().select(file.schema_arrow.names if wanted is None else wanted)
    return pa.concat_tables([file.read_row_group(number, columns=wanted) for number in groups])


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


def _write_parquet(path: Path, table: pa.Table, byte_stream_split: bool) -> None:
    options = parquet_options(table.schema, byte_stream_split)
    pq.write_table(table, path, row_group_size=_rows_per_group(table.schema), **options)


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


def _rows_per_group(schema: pa.Schema) -> int:
    """From the schema alone (Table.nbytes depends on chunks and validity bitmaps, so equal tables could differ)."""
    return max(1, min(1 << 16, ROW_GROUP_BYTES // max(1, row_bytes(schema))))
