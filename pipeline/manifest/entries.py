"""One video as a scan finds it, and what the layouts share."""

import csv
import difflib
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.artifacts.files import contents, read_if_present
from pipeline.artifacts.places import is_remote
from pipeline.errors import InputError

SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".3gp", ".flv", ".wmv", ".gif", ".ogv")
)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Entry:
    """A video: id, path relative to the root ('/' between folders), label name or None, group, split or None.

    The id is the path unless one is given, so it is the same on every machine. `size` (bytes) and `etag` (the store's,
    or the nanosecond of the file's last change) are what the listing said.
    """

    video_id: str
    uri: str
    label_name: str | None
    group: str
    split: str | None = None
    size: int = field(default=0, compare=False)
    etag: str = field(default="", compare=False)


@dataclass(frozen=True)
class Tree:
    """The files below a root (a folder or an s3:// address) as one listing shows them; names with '/' in them."""

    root: Path

    @cached_property
    def files(self) -> dict[str, tuple[int, str]]:
        """Bytes and etag of each file, sorted by name."""
        return {name: (size, etag) for name, size, etag in sorted(contents(self.root))}

    @cached_property
    def videos(self) -> list[str]:
        return [name for name in self.files if is_video(name)]

    def find(self, name: str) -> tuple[int, str] | None:
        """Bytes and etag of one file, None where there is none; in a folder without listing it."""
        if is_remote(self.root):
            return self.files.get(name)
        try:
            status = os.stat(f"{self.root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None

    def entry(self, uri: str, label: str | None, group: str, split: str | None = None) -> Entry:
        """The entry of a listed video, its path its id."""
        return Entry(uri, uri, label, group, split, *self.files[uri])


def is_video(name: str) -> bool:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and not stem.startswith(".") and f"{dot}{suffix.lower()}" in SUFFIXES


def finished(entries: Iterable[Entry], root: Path) -> list[Entry]:
    """Sorted by video_id. InputError where there is no video or two have the same id."""
    found = sorted(entries, key=lambda entry: (entry.video_id, entry.uri))
    if not found:
        raise InputError(
            f"{root} holds no video ({', '.join(sorted(SUFFIXES))}): name the folder that holds the class folders"
        )
    double = [name for name, count in Counter(entry.video_id for entry in found).items() if count > 1]
    if double:
        raise InputError(f"{root}: {len(double)} video ids stand twice, for example {double[0]!r}; ids must be unique")
    return found


def split_name(text: str, where: str) -> str:
    """A split as annotation files write it: train, val (validate, validation, valid), test."""
    name = {"validation": "val", "validate": "val", "valid": "val", "testing": "test", "training": "train"}.get(
        text, text
    )
    if name not in SPLITS:
        raise InputError(f"{where}: split {text!r} is none of {', '.join(SPLITS)}")
    return name


def nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def read_csv(path: Path) -> tuple[list[str], Iterator[dict[str, str | None]]]:
    """Column names and rows, one by one, of a CSV with a header; InputError where it is missing or not UTF-8 text."""
    data = read_if_present(path)
    if data is None:
        raise InputError(f"{path} not found")
    with _csv_errors(path):
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        return list(reader.fieldnames or ()), _csv_rows(path, reader)


def _csv_rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[dict[str, str | None]]:
    with _csv_errors(path):
        yield from reader


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8 ({error}); save it as UTF-8") from error
