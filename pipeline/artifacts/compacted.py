"""Compaction records: which large files hold the rows of many small committed objects, and how to read them there.

A record is a marker of its own, `compacted-<number>.json`. Its `objects` are the large files; its facts say for every
small object, by its sha256, which row groups of which file stand for it. Row groups never mix two objects, so one
object is read back by two ranges of bytes, its row groups and the file's footer; the sha256 of both is in the record.
Markers and snapshots go on naming the small objects: no digest changes, and nothing that follows is made again.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.commit import DataObject, Marker, MissingError, damaged, read_markers
from pipeline.artifacts.files import read_range
from pipeline.artifacts.parquet import read_groups
from pipeline.artifacts.places import is_remote
from pipeline.errors import InputError, JobError

PREFIX = "compacted-"


@dataclass(frozen=True)
class Span:
    """Bytes `start` .. `stop` - 1 of a file, and their sha256."""

    start: int
    stop: int
    sha256: str

    @classmethod
    def of(cls, data: bytes, start: int) -> Self:
        return cls(start, start + len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Place:
    """Where the rows of one object lie: row groups `groups[0]` .. `groups[1]` - 1 of `file`, from its row `first` on.

    `shard` and `index` name the object in its marker (-1: the quarantine), `sha256` its own bytes. Objects with equal
    bytes share one place.
    """

    file: DataObject
    shard: str
    index: int
    sha256: str
    first: int
    rows: int
    groups: tuple[int, int]
    data: Span
    footer: Span


def places(record: Marker) -> list[Place]:
    """What a compaction record holds. InputError where it is none."""
    try:
        footers = [Span(**span) for span in record.facts["footers"]]
        return [_place(record.objects, footers, value) for value in record.facts["places"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{record.shard_id}.json is no compaction record ({error!r}): delete it where the small files still stand"
        ) from error


def facts(found: Sequence[Place], files: Sequence[DataObject]) -> dict[str, Any]:
    """The facts of a record over `found`; the inverse of `places`."""
    number = {file.name: index for index, file in enumerate(files)}
    footers = {number[place.file.name]: asdict(place.footer) for place in found}
    rows = [asdict(place) | {"file": number[place.file.name]} for place in found]
    return {
        "footers": [footers[index] for index in range(len(files))],
        "places": [{name: value for name, value in row.items() if name != "footer"} for row in rows],
    }


def read_places(folder: Path) -> dict[str, list[Place]]:
    """Every place of an object's rows by its sha256, the newest record's first; {} where nothing was compacted."""
    found: dict[str, list[Place]] = {}
    for record in reversed(read_markers(folder, PREFIX).values()):
        for place in places(record):
            found.setdefault(place.sha256, []).append(place)
    return found


def read_compacted(
    folder: Path, obj: DataObject, columns: Sequence[str] | None = None, *, check: bool = False
) -> pa.Table:
    """The rows of an object whose own file is gone, as commit.read_object. MissingError where no record holds them."""
    for fresh in (False, True):  # what was read before may name files that a later compaction replaced
        for place in _known(folder, fresh=fresh).get(obj.sha256, ()):
            try:
                with opened(folder, place, check=check) as (file, groups):
                    return read_groups(file, folder / place.file.name, groups, columns)
            except MissingError:
                continue
    raise MissingError(damaged(folder / obj.name, "is missing, and no compacted file holds its rows"))


@contextmanager
def opened(folder: Path, place: Place, *, check: bool) -> Iterator[tuple[pq.ParquetFile, range]]:
    """The compacted file, of which only the place's row groups can be read, and their numbers.

    The bytes are compared with the record where `check`, and always where they came over a network. MissingError where
    the file is gone, JobError where it is damaged.
    """
    path = folder / place.file.name
    check = check or is_remote(path)
    footer, data = _bytes(path, place.footer, check), _bytes(path, place.data, check)
    try:
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
        source = pa.PythonFile(_Part(data, place.data.start, place.file.size), mode="r")
        with pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True) as file:
            yield file, range(*place.groups)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise JobError(damaged(path, f"cannot be read ({error})")) from error


class _Part(io.RawIOBase):
    """A file of `size` bytes of which only `data`, from byte `start` on, is here."""

    def __init__(self, data: bytes, start: int, size: int) -> None:
        self._data, self._start, self._size, self._position = data, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        begin = self._position - self._start
        if begin < 0 or size < 0 or begin + size > len(self._data):
            raise OSError(f"bytes {self._position} .. {self._position + size} lie outside the object's row groups")
        self._position += size
        return self._data[begin : begin + size]


_READ: dict[str, dict[str, list[Place]]] = {}  # records never change; a reader looks again where their files are gone


def _known(folder: Path, *, fresh: bool) -> dict[str, list[Place]]:
    if fresh or str(folder) not in _READ:
        _READ[str(folder)] = read_places(folder)
    return _READ[str(folder)]


def _bytes(path: Path, span: Span, check: bool) -> bytes:
    data = read_range(path, span.start, span.stop) if span.stop > span.start else b""
    if data is None:
        raise MissingError(damaged(path, "is missing"))
    if len(data) != span.stop - span.start or (check and hashlib.sha256(data).hexdigest() != span.sha256):
        raise JobError(damaged(path, "has other bytes than its compaction record says"))
    return data


def _place(files: Sequence[DataObject], footers: Sequence[Span], value: Mapping[str, Any]) -> Place:
    first, stop = value["groups"]
    number = value["file"]
    known = {name: value[name] for name in ("shard", "index", "sha256", "first", "rows")}
    return Place(file=files[number], groups=(first, stop), data=Span(**value["data"]), footer=footers[number], **known)
