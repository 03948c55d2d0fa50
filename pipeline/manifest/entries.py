"""One video as a scan finds it, and what the layouts share."""

import csv
import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".3gp", ".flv", ".wmv", ".gif", ".ogv")
)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Entry:
    """A video: id, path relative to the root ('/' between folders), label name or None, group, split or None.

    The id is the path unless one is given, so it is the same on every machine.
    """

    video_id: str
    uri: str
    label_name: str | None
    group: str
    split: str | None = None


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


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


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Column names and rows of a CSV with a header; InputError where it is not UTF-8 text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            return list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8 ({error}); save it as UTF-8") from error
