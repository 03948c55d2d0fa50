"""The commit protocol: data under attempt names that are never overwritten, then one marker that is created if absent.

A file that no marker names does not exist. Two attempts at one shard may both write; the first marker wins, and the
other's files are ignored (and removed by gc). Nothing is ever renamed over something else.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.files import create_if_absent, publish
from pipeline.artifacts.identity import canonical_json, file_digest
from pipeline.artifacts.layout import SCHEMA, check_version, read_json
from pipeline.artifacts.schemas import METADATA_KEY
from pipeline.errors import InputError, JobError

__all__ = [
    "DataObject",
    "Marker",
    "commit",
    "create_if_absent",
    "new_attempt",
    "object_path",
    "read_bytes",
    "read_marker",
    "read_markers",
    "read_object",
    "shard_name",
    "write_bytes",
    "write_table",
]

ROW_GROUP_BYTES = 16 << 20  # of tensors; writing and reading need about ten times this beside the table


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
    return _write(folder, name, table.num_rows, lambda path: _write_parquet(path, table, byte_stream_split))


def write_bytes(folder: Path, name: str, data: bytes, rows: int = 0) -> DataObject:
    """Write a file that is no table (weights, JSON) under an attempt name; otherwise as write_table."""
    return _write(folder, name, rows, lambda path: path.write_bytes(data))


def object_path(folder: Path, obj: DataObject, *, check: bool = False) -> Path:
    """The path of a committed object. JobError where it is missing, has another size or (check=True) another sha256."""
    path = folder / obj.name
    found = path.stat().st_size if path.is_file() else None
    if found != obj.size:
        raise JobError(_damaged(path, "is missing" if found is None else f"has {found} bytes instead of {obj.size}"))
    if check and file_digest(path) != obj.sha256:
        raise JobError(_damaged(path, "has other bytes than its marker says (sha256)"))
    return path


def read_object(
    folder: Path, obj: DataObject, columns: Sequence[str] | None = None, *, check: bool = False
) -> pa.Table:
    """Rows of a committed object, with `columns` in the order asked for (default: all).

    Size and page checksums are always checked, the sha256 of the whole file where `check`. JobError names what is
    damaged, InputError an unknown column; an OSError of the store itself passes through.
    """
    path = object_path(folder, obj, check=check)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow.names, columns or ())
            return _read_by_group(file, None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's word on the store, not Arrow's on the file: the caller may try again
        raise JobError(_damaged(path, f"cannot be read ({error})")) from error


def read_bytes(folder: Path, obj: DataObject, *, check: bool = True) -> bytes:
    """The bytes of a committed object that is no table; JobError as object_path."""
    return object_path(folder, obj, check=check).read_bytes()


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
    names = [path.stem for path in folder.glob(f"{prefix}*.json") if re.fullmatch(r"[a-z]+-\d+", path.stem)]
    found = ((name, read_marker(folder, name)) for name in sorted(names, key=_prefix_and_number))
    return {name: marker for name, marker in found if marker is not None}


def _prefix_and_number(name: str) -> tuple[str, int]:
    prefix, _, number = name.partition("-")
    return prefix, int(number)


def _object(value: Mapping[str, Any]) -> DataObject:
    obj = DataObject(str(value["name"]), int(value["size"]), int(value["rows"]), str(value["sha256"]))
    if Path(obj.name).is_absolute() or ".." in Path(obj.name).parts:
        raise ValueError(f"{obj.name!r} lies outside the artefact's folder")
    return obj


def _write(folder: Path, name: str, rows: int, write: Any) -> DataObject:
    assert Path(name).name == name, name
    path = folder / name
    if not publish(path, write):
        raise JobError(f"{path} exists already, and data is never overwritten: take a new attempt name")
    return DataObject(name, path.stat().st_size, rows, file_digest(path))


def _damaged(path: Path, what: str) -> str:
    return f"{path} {what}: delete the marker (.json) that names it, and the same command makes it again"


def _check_columns(path: Path, known: Sequence[str], asked: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise InputError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(known)}")


def _read_by_group(file: pq.ParquetFile, columns: list[str] | None) -> pa.Table:
    """Group by group: one call for all would need about ten times the size of all pixels for a moment."""
    groups = [file.read_row_group(n, columns=columns) for n in range(file.num_row_groups)]
    return pa.concat_tables(groups)


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
    """Dictionaries for keys and pixels (256 values), plain floats; a checksum per page; min and max of keys only."""
    tensors = {item.name: item.type for item in table.schema if isinstance(item.type, pa.FixedShapeTensorType)}
    floats = [f"{name}.list.element" for name, kind in tensors.items() if pa.types.is_floating(kind.value_type)]
    pixels = [f"{name}.list.element" for name in tensors if f"{name}.list.element" not in floats]
    keys = [name for name in table.schema.names if name not in tensors]
    pq.write_table(
        table,
        path,
        row_group_size=_rows_per_group(tensors.values()),
        compression="zstd",
        compression_level=1,
        use_dictionary=[*keys, *pixels],
        use_byte_stream_split=floats if byte_stream_split else False,
        write_statistics=keys,
        write_page_checksum=True,
    )


def _rows_per_group(tensors: Any) -> int:
    """From the schema alone (Table.nbytes depends on chunks and validity bitmaps, so equal tables could differ)."""
    row_bytes = sum(kind.value_type.bit_width // 8 * kind.storage_type.list_size for kind in tensors)
    return max(1, min(1 << 16, ROW_GROUP_BYTES // max(1, row_bytes)))
