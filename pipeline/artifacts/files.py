"""Files that appear whole or not at all, in a folder or in an object store (`places.place` gives the path).

A reader never sees half a file. In a folder, every file is written under a hidden temporary name, flushed to the disk,
and then linked (create if absent) or renamed (replace) to its name; in an object store one request does it. Trouble
that may pass is waited out; StorageError says what lasts longer. Nothing else in the project reads or writes a store.
"""

import fnmatch
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import s3
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.places import is_remote, place
from pipeline.errors import JobError


@dataclass(frozen=True)
class Stored:
    """A file as a listing shows it. `etag` changes with its content: the store's, or the nanosecond of its last change;
    `modified` in seconds since 1970."""

    path: Path
    size: int
    etag: str
    modified: float


def create_if_absent(path: Path, data: bytes) -> bool:
    """Create `path` with `data`, unless it exists. True: this call created it; False: it was there, and is untouched.

    Of any number of processes that race for one path exactly one gets True.
    """
    if is_remote(path):
        return s3.create(str(path), data)
    return publish(path, lambda temporary: temporary.write_bytes(data))


def publish(path: Path, write: Callable[[Path], object]) -> bool:
    """Let `write` fill a local temporary file, then name it `path` unless that exists. Returns as create_if_absent.

    `write` is called again, with a new file, where a disk or a mount has trouble that may pass.
    In an object store a file of more than `s3_parts.PART` bytes needs a name of its own: two racers may both get True.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="stagedkd-") as folder:
            local = Path(folder) / path.name
            write(local)
            return s3.create(str(path), local)
    temporary = patiently("written", path, _filled, path, write)
    try:
        won = patiently("written", path, _link, temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    patiently("written", path, _sync, path.parent)
    return won


def replace(path: Path, data: bytes) -> None:
    """Write `path` anew in one step; readers see the old or the new content. Not flushed: for facts that expire."""
    if is_remote(path):
        s3.put(str(path), data)
    else:
        patiently("written", path, _replace, path, data)


def read_if_present(path: Path) -> bytes | None:
    """The bytes of `path`, or None where there is no such file."""
    if is_remote(path):
        return s3.get(str(path))
    try:
        return patiently("read", path, path.read_bytes)
    except FileNotFoundError:
        return None


def read_many(paths: Sequence[Path]) -> list[bytes | None]:
    """As read_if_present for each; from an object store many at a time."""
    if paths and is_remote(paths[0]):
        return s3.get_many([str(path) for path in paths])
    return [read_if_present(path) for path in paths]


def read_range(path: Path, start: int, stop: int) -> bytes | None:
    """Bytes start .. stop - 1 of the file, None where there is no such file."""
    if is_remote(path):
        return s3.get_range(str(path), start, stop)
    try:
        return patiently("read", path, _part, path, start, stop)
    except FileNotFoundError:
        return None


def size_of(path: Path) -> int | None:
    """Bytes of the file, None where there is none (or a folder)."""
    if is_remote(path):
        return s3.size(str(path))
    return patiently("read", path, _size, path)


def listing(folder: Path, pattern: str = "*") -> list[Path]:
    """The files (no folders) of `folder` whose names fit the shell pattern, sorted; [] where there is no folder."""
    if is_remote(folder):
        start = f"{str(folder).rstrip('/')}/{re.split(r'[*?[]', pattern, maxsplit=1)[0]}"
        fits = (place(item.url) for item in s3.found(start, deep=False))
        return [path for path in fits if fnmatch.fnmatchcase(path.name, pattern)]
    return [folder / name for name in patiently("listed", folder, _names, folder, pattern)]


def remove_empty_folders(folder: Path) -> None:
    """Remove `folder` and the folders below it, as far as they are empty; an object store has none."""
    if is_remote(folder):
        return
    for name, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty: something was written since
            os.rmdir(name)


def folders(folder: Path) -> list[Path]:
    """The folders directly in `folder`, sorted; [] where there is none."""
    if is_remote(folder):
        return [place(url) for url in s3.folders(f"{str(folder).rstrip('/')}/")]
    return [folder / name for name in patiently("listed", folder, _folders, folder)]


def walk(folder: Path) -> Iterator[Stored]:
    """All files below `folder`, at any depth, sorted by path; the facts come from the listing, not from each file."""
    if is_remote(folder):
        for item in s3.found(f"{str(folder).rstrip('/')}/", deep=True):
            yield Stored(place(item.url), item.size, item.etag, item.modified)
        return
    try:
        below, found = patiently("listed", folder, _entries, folder, False)
    except FileNotFoundError:  # gone since the one above it was listed
        return
    for name, size, etag, modified in sorted(found):
        yield Stored(folder / name, size, etag, modified)
    for name in sorted(below):
        yield from walk(folder / name)


def contents(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(name below `folder` with '/', bytes, etag as in Stored) of all files below it, without a path object for each.

    Linked folders are followed directly in `folder`, not deeper.
    """
    if is_remote(folder):
        start = f"{str(folder).rstrip('/')}/"
        yield from ((item.url[len(start) :], item.size, item.etag) for item in s3.found(start, deep=True))
    else:
        yield from _below(str(folder), "", links=True)


def _below(folder: str, name: str, *, links: bool) -> Iterator[tuple[str, int, str]]:
    below, found = patiently("listed", Path(folder), _entries, folder, links)
    for file, size, etag, _ in found:
        yield f"{name}{file}", size, etag
    for one in below:
        yield from _below(f"{folder}/{one}", f"{name}{one}/", links=False)


def check_conditions(store: Path) -> None:
    """JobError for an object store that overwrites what it should only create: two jobs could both believe they won."""
    if is_remote(store) and not s3.honours_conditions(str(store)):
        raise JobError(
            f"{store}: this object store does not honour If-None-Match, so two jobs that write there could undo each "
            "other's work. Use another store, or set storage.single_writer: true if no second job ever writes there"
        )


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    if is_remote(path):
        s3.delete(str(path))
    else:
        patiently("removed", path, path.unlink, True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; an object store needs none."""
    if not is_remote(folder):
        patiently("made", folder, _make, folder)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _filled(path: Path, write: Callable[[Path], object]) -> Path:
    """A temporary file beside `path`, written and flushed. A flush that failed is not repeated: the system may have
    dropped the pages that it could not write, and report success the second time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        write(temporary)
        _sync(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _part(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _size(path: Path) -> int | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _names(folder: Path, pattern: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if fnmatch.fnmatchcase(e.name, pattern) and e.is_file())
    except FileNotFoundError:
        return []


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def _entries(folder: Path | str, links: bool) -> tuple[list[str], list[tuple[str, int, str, float]]]:
    """The folders in `folder` (linked ones where `links`), and (name, bytes, etag, modified) of its files."""
    below, found = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # gone since it was listed
                if entry.is_dir(follow_symlinks=links):
                    below.append(entry.name)
                elif entry.is_file():
                    status = entry.stat()
                    found.append((entry.name, status.st_size, str(status.st_mtime_ns), status.st_mtime))
    return below, found


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A network file system may repeat a link that already succeeded and then report that the name exists.
        return temporary.stat().st_nlink > 1
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
