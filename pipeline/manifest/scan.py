"""From a folder of videos to entries: class folders, a CSV, or the published layouts of UCF101, HMDB51, Kinetics."""

import csv
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, finished, is_video, nearest, split_name
from pipeline.manifest.layouts import hmdb51, kinetics, ucf101

MANIFEST_CSV = "manifest.csv"
LAYOUTS = ("auto", "folders", "csv", "ucf101", "hmdb51", "kinetics")
_COLUMNS = ("path", "label", "group", "split", "video_id")


def scan(root: Path, layout: str = "auto", *, official_split: int = 1) -> list[Entry]:
    """All videos below `root`, sorted by id.

    `auto` reads manifest.csv where the root holds one and class folders otherwise. `official_split` chooses among the
    three splits of UCF101 and HMDB51. InputError for a missing or empty folder, an empty class, an id that stands
    twice, or annotations that do not fit.
    """
    if not root.is_dir():
        raise InputError(f"manifest.root: {root} is no folder; name the folder of videos with --set manifest.root=DIR")
    if layout == "auto":
        layout = "csv" if (root / MANIFEST_CSV).is_file() else "folders"
    readers = {
        "folders": lambda: class_folders(root),
        "csv": lambda: listed(root, root / MANIFEST_CSV),
        "ucf101": lambda: ucf101(root, official_split),
        "hmdb51": lambda: hmdb51(root, official_split),
        "kinetics": lambda: kinetics(root),
    }
    if layout not in readers:
        raise InputError(
            f"manifest.layout {layout!r} is unknown{nearest(layout, LAYOUTS)}; known are {', '.join(LAYOUTS)}"
        )
    return finished(readers[layout](), root)


def class_folders(root: Path) -> Iterator[Entry]:
    """root/class/…/video; every folder below the root is a class. Each video is a group of its own."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in folders:
        videos = sorted(path for path in folder.rglob("*") if path.is_file() and is_video(path))
        if not videos:
            raise InputError(f"{folder}: the class {folder.name!r} holds no video; remove the folder or add videos")
        for path in videos:
            name = path.relative_to(root).as_posix()
            yield Entry(name, name, folder.name, name)


def listed(root: Path, path: Path) -> Iterator[Entry]:
    """A CSV with the columns path, label and optionally group, split, video_id; more columns are ignored.

    Paths are relative to the CSV's folder; an empty label means unlabelled, an empty group the video itself.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: the layout csv reads it (columns path, label[, group, split, video_id])")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in ("path", "label") if name not in (reader.fieldnames or ())]
        if missing:
            have = ", ".join(reader.fieldnames or ()) or "none"
            raise InputError(f"{path} has no column {' and '.join(missing)} (it has {have}); path and label are needed")
        for number, row in enumerate(reader, start=2):
            yield _listed_entry(root, path, number, {name: (row.get(name) or "").strip() for name in _COLUMNS})


def _listed_entry(root: Path, path: Path, number: int, row: dict[str, str]) -> Entry:
    where = f"{path} line {number}"
    if not row["path"]:
        raise InputError(f"{where}: the path is empty")
    if not (root / row["path"]).is_file():
        raise InputError(f"{where}: {row['path']} does not exist below {root}")
    uri = Path(row["path"]).as_posix()
    split = split_name(row["split"], where) if row["split"] else None
    return Entry(row["video_id"] or uri, uri, row["label"] or None, row["group"] or row["video_id"] or uri, split)
