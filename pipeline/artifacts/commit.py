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
from pipeline.artifacts.parquet import read_groups, write_parquet
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.places import is_remote
from pipeline.errors import InputError, JobError

OTHER_BYTES = "has other bytes than its marker says (sha256)"


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

    def write(path: Path) -> None:
        write_parquet(path, table, byte_stream_split=byte_stream_split)

    return write_file(folder, name, table.num_rows, write)


def write_bytes(folder: Path, name: str, data: bytes, rows: int = 0) -> DataObject:
    """Write a file that is no table (weights, JSON) under an attempt name; otherwise as write_table."""
    return write_file(folder, name, rows, lambda path: path.write_bytes(data))


def object_path(folder: Path, obj: DataObject, *, check: bool = False) -> Path:
    """The path of a committed object.

    MissingError where it is gone, JobError where it has another size or (check=True) another sha256.
    """
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
    from an object store. JobError names what is damaged, InputError an unknown column; StorageError and OSError are of
    the store itself.
    """
    return patiently("read", folder / obj.name, _read, folder, obj, columns, check)


def _read(folder: Path, obj: DataObject, columns: Sequence[str] | None, check: bool) -> pa.Table:
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
    return written[-1]


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
