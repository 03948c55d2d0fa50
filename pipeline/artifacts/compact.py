"""Compaction: the rows of many small committed objects in few large files, beside running readers and writers.

Nothing is changed and nothing is deleted here: large files are written under attempt names, and one record
(`compacted-<number>.json`, see compacted.py) is created if absent. Until then they do not exist. Markers stay as they
are; shards that are committed meanwhile are simply not in the record. The small files go with `gc --delete`, once the
record is older than its grace period. A lease of its own (`<artefact>/compaction`) keeps a second compaction from
doing the same work; the artefact's own lease is not needed, so precompute may go on.

    markers ─_sources─▶ small objects in shard order ─_groups─▶ one large file each ─commit─▶ compacted-00000000.json
"""

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.commit import (
    OTHER_BYTES,
    DataObject,
    Marker,
    commit,
    damaged,
    new_attempt,
    object_path,
    read_bytes,
    read_markers,
    write_file,
)
from pipeline.artifacts.compacted import PREFIX, Place, Span, facts, opened, read_places
from pipeline.artifacts.identity import file_digest
from pipeline.artifacts.parquet import parquet_options
from pipeline.artifacts.places import is_remote
from pipeline.errors import JobError

SMALL, LARGE = 128 << 20, 512 << 20
QUARANTINE = -1


@dataclass(frozen=True)
class Compaction:
    """What one compaction did: its record's name (None: nothing to do), files read and written, and their bytes."""

    record: str | None
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True)
class _Source:
    """An object that is to move, and where its rows are read: its own file (`copies` files have the same bytes: empty
    quarantines) or an earlier compacted one."""

    shard: str
    index: int
    obj: DataObject
    place: Place | None
    copies: int

    @property
    def file(self) -> DataObject:
        return self.obj if self.place is None else self.place.file

    @property
    def size(self) -> int:
        return self.obj.size if self.place is None else self.place.data.stop - self.place.data.start


def compact(
    folder: Path, *, small: int = SMALL, large: int = LARGE, check: Callable[[], None] = lambda: None
) -> Compaction:
    """Gather the objects in files of at most `small` bytes into files of about `large` bytes (never many more).

    One large file at a time is written, row group by row group, and read back and compared before it counts. `check`
    is called before the record is committed (the lease). JobError where an object is damaged, or where another
    compaction was first.
    """
    assert 0 < small <= large, f"small {small} must not be larger than large {large}"
    groups = list(_groups(_sources(folder, small), large))
    if not groups:
        return Compaction(None)
    numbers = [int(name.removeprefix(PREFIX)) for name in read_markers(folder, PREFIX)]
    record, attempt = f"{PREFIX}{max(numbers, default=-1) + 1:08d}", new_attempt()
    found: list[Place] = []
    files: list[DataObject] = []
    left = deque(groups)
    while left:
        group = left.popleft()
        file, held = _write(folder, f"{record}.file-{len(files):05d}.{attempt}.parquet", group)
        files.append(file)
        found += held
        if len(held) < len(group):
            left.appendleft(group[len(held) :])
    check()
    if not commit(folder, Marker(record, attempt, tuple(files), None, facts(found, files))):
        raise JobError(f"{folder}: another compaction was first; what this one wrote goes with the next gc")
    before = {source.file.name: source for group in groups for source in group}.values()
    return Compaction(
        record,
        sum(source.copies for source in before),
        len(files),
        sum(source.copies * source.file.size for source in before),
        sum(file.size for file in files),
    )


def _sources(folder: Path, small: int) -> list[_Source]:
    """Objects in small files, in shard order, data before quarantine; of those with equal bytes the first alone."""
    known = read_places(folder)
    markers = read_markers(folder, "shard-").values()
    named = [(marker.shard_id, index, obj) for marker in markers for index, obj in enumerate(marker.objects)]
    named += [(marker.shard_id, QUARANTINE, marker.quarantine) for marker in markers if marker.quarantine is not None]
    copies = Counter(obj.sha256 for _, _, obj in named)
    once = {obj.sha256: (shard, index, obj) for shard, index, obj in reversed(named)}
    sources = [
        _Source(*first, known[sha256][0], 1) if sha256 in known else _Source(*first, None, copies[sha256])
        for sha256, first in reversed(once.items())
    ]
    return [source for source in sources if source.file.size <= small]


def _groups(sources: Sequence[_Source], large: int) -> Iterator[list[_Source]]:
    """Files that are next to each other and fill one large file. Two files or more become one, so that calls after one
    another come to an end."""
    by_file: dict[str, list[_Source]] = {}
    for source in sources:
        by_file.setdefault(source.file.name, []).append(source)
    held: list[list[_Source]] = []
    for file in by_file.values():
        mixed = bool(held) and (held[0][0].index == QUARANTINE) != (file[0].index == QUARANTINE)
        if mixed or sum(map(_size, held)) + _size(file) > large:
            yield from _worth(held)
            held = []
        held.append(file)
    yield from _worth(held)


def _size(sources: Sequence[_Source]) -> int:
    return sum(source.size for source in sources)


def _worth(files: Sequence[list[_Source]]) -> Iterator[list[_Source]]:
    if len(files) > 1 or sum(source.copies for file in files for source in file if source.place is None) > 1:
        yield [source for file in files for source in file]


def _write(folder: Path, name: str, group: Sequence[_Source]) -> tuple[DataObject, list[Place]]:
    """Write one large file, look into it, and say where each object lies: all, or those up to the first of another
    minor schema, which needs a file of its own."""
    groups: list[tuple[int, int]] = []
    spans: list[Span] = []

    def write(path: Path) -> None:
        with _near(folder) as near:
            groups[:] = _write_groups(near, path, group)
            spans[:] = _spans(path, groups)
            _compare(near, path, group[: len(groups)], groups)

    file = write_file(folder, name, 0, write)
    *firsts, rows = accumulate((source.obj.rows for source in group[: len(groups)]), initial=0)
    file, (*data, footer) = replace(file, rows=rows), spans
    return file, [
        Place(file, source.shard, source.index, source.obj.sha256, first, source.obj.rows, pair, span, footer)
        for source, first, pair, span in zip(group[: len(groups)], firsts, groups, data, strict=True)
    ]


@contextmanager
def _near(folder: Path) -> Iterator["_Near"]:
    with tempfile.TemporaryDirectory(prefix="stagedkd-") as local:
        yield _Near(folder, Path(local) if is_remote(folder) else folder)


@dataclass(frozen=True)
class _Near:
    """The small files on this machine, each fetched once for all its rows, their copy and the comparison after it."""

    folder: Path
    local: Path

    @contextmanager
    def opened(self, source: _Source) -> Iterator[tuple[pq.ParquetFile, range]]:
        """The source's file with its sha256 compared: damage must not be copied into what replaces it."""
        path = self.local / source.file.name
        if self.local != self.folder and not path.exists():
            path.write_bytes(read_bytes(self.folder, source.file))
        if source.place is not None:
            with opened(self.local, source.place, check=True) as found:
                yield found
            return
        _check_digest(object_path(self.local, source.obj), self.folder / source.obj.name, source.obj)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file, range(file.num_row_groups)


def _write_groups(near: _Near, path: Path, group: Sequence[_Source]) -> list[tuple[int, int]]:
    """Copy row group after row group; returns the numbers that each source's got in the new file."""
    numbers, count = [], 0
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for source in group:
            with near.opened(source) as (file, groups):
                if writer is not None and not writer.schema.equals(file.schema_arrow, check_metadata=True):
                    break
                if writer is None:
                    options = parquet_options(file.schema_arrow, _splits_bytes(file))
                    writer = stack.enter_context(pq.ParquetWriter(path, file.schema_arrow, **options))
                first = count
                for table in _tables(file, groups):
                    writer.write_table(table, row_group_size=table.num_rows)
                    count += 1
                numbers.append((first, count))
    return numbers


def _tables(file: pq.ParquetFile, groups: range) -> Iterator[pa.Table]:
    return (file.read_row_group(number) for number in groups if file.metadata.row_group(number).num_rows)


def _check_digest(path: Path, name: Path, obj: DataObject) -> None:
    if file_digest(path) != obj.sha256:
        raise JobError(damaged(name, OTHER_BYTES))


def _spans(path: Path, groups: Sequence[tuple[int, int]]) -> list[Span]:
    """The bytes of each run of row groups, and last those of the footer (metadata, its length, the magic word)."""
    metadata = pq.read_metadata(path)
    with path.open("rb") as file:
        end = file.seek(-8, 2)
        footer = end - int.from_bytes(file.read(4), "little")
        starts = [_start(metadata.row_group(number)) for number in range(metadata.num_row_groups)] + [footer]
        edges = [(starts[first], starts[stop]) for first, stop in groups] + [(footer, end + 8)]
        return [_span(file, start, stop) for start, stop in edges]


def _span(file: Any, start: int, stop: int) -> Span:
    file.seek(start)
    return Span.of(file.read(stop - start), start)


def _start(group: Any) -> int:
    """Offset of a row group: of its first column's first page (dictionaries come first)."""
    columns = [group.column(number) for number in range(group.num_columns)]
    pages = [(column.dictionary_page_offset, column.data_page_offset) for column in columns]
    return min(offset for offsets in pages for offset in offsets if offset is not None)


def _compare(near: _Near, path: Path, group: Sequence[_Source], groups: Sequence[tuple[int, int]]) -> None:
    """Read everything back: the small files will be deleted on the strength of this one."""
    with pq.ParquetFile(path, page_checksum_verification=True) as written:
        for source, (first, stop) in zip(group, groups, strict=True):
            with near.opened(source) as (file, numbers):
                for number, table in zip(range(first, stop), _tables(file, numbers), strict=True):
                    again = written.read_row_group(number)
                    assert again.equals(table, check_metadata=True), f"{path}: row group {number} of {source.shard}"


def _splits_bytes(file: pq.ParquetFile) -> bool:
    """Whether floats of this file are stored with byte_stream_split; the large file keeps what was chosen."""
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return any("BYTE_STREAM_SPLIT" in column.encodings for column in columns)
