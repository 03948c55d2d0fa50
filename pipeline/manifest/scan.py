"""From a folder of videos to entries: class folders, a CSV, or the published layouts of UCF101, HMDB51, Kinetics."""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from pipeline.artifacts.files import size_of
from pipeline.artifacts.places import is_remote
from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, Tree, finished, nearest, read_csv, split_name
from pipeline.manifest.layouts import HMDB_LISTS, UCF_LISTS, hmdb51, is_kinetics, kinetics, ucf101

MANIFEST_CSV = "manifest.csv"
LAYOUTS = ("auto", "folders", "csv", "ucf101", "hmdb51", "kinetics")
_COLUMNS = ("path", "label", "group", "split", "video_id")


def scan(root: Path, layout: str = "auto", *, official_split: int = 1) -> list[Entry]:
    """All videos below `root`, a folder or an s3:// address, sorted by id; sizes and etags come from its listing.

    `auto` reads manifest.csv where the root holds one, else the published annotations that lie in it, else class
    folders. `official_split` chooses among the three splits of UCF101 and HMDB51. InputError for a missing or empty
    folder, an empty class, an id that stands twice, or annotations that do not fit.
    """
    tree = Tree(root)
    if not (tree.files if is_remote(root) else root.is_dir()):
        raise InputError(f"manifest.root: {root} is no folder; name the folder of videos with --set manifest.root=DIR")
    readers = {
        "folders": lambda: class_folders(tree),
        "csv": lambda: listed(tree, root / MANIFEST_CSV),
        "ucf101": lambda: ucf101(tree, official_split),
        "hmdb51": lambda: hmdb51(tree, official_split),
        "kinetics": lambda: kinetics(tree),
    }
    name = detect(tree) if layout == "auto" else layout
    if name not in readers:
        raise InputError(
            f"manifest.layout {layout!r} is unknown{nearest(layout, LAYOUTS)}; known are {', '.join(LAYOUTS)}"
        )
    return finished(readers[name](), root)


def detect(tree: Tree) -> str:
    """The layout of a root, by the files in it: csv, ucf101, hmdb51, kinetics or folders."""
    if tree.find(MANIFEST_CSV):
        return "csv"
    for name, lists in (("ucf101", UCF_LISTS), ("hmdb51", HMDB_LISTS)):
        if any(file.startswith(f"{lists}/") for file in tree.files):
            return name
    return "kinetics" if is_kinetics(tree) else "folders"


def class_folders(tree: Tree) -> Iterator[Entry]:
    """root/class/…/video; every folder below the root is a class. Each video is a group of its own."""
    root = tree.root
    loose = [name for name in tree.videos if "/" not in name]
    if loose:
        raise InputError(
            f"{root}: {len(loose)} videos lie outside the class folders, for example {min(loose)}; move each into the "
            f"folder of its class, or write {root / MANIFEST_CSV} (path,label)"
        )
    filled = {name.partition("/")[0] for name in tree.videos}
    for folder in _classes(tree) - filled:
        raise InputError(f"{root / folder}: the class {folder!r} holds no video; remove the folder or add videos")
    for folder, videos in groupby(tree.videos, lambda name: name.partition("/")[0]):
        if not folder.startswith("."):
            yield from (tree.entry(name, folder, name) for name in videos)


def _classes(tree: Tree) -> set[str]:
    """Folders below the root; in a store only those that hold something exist."""
    if is_remote(tree.root):
        names = {name.partition("/")[0] for name in tree.files if "/" in name}
    else:
        names = {path.name for path in tree.root.iterdir() if path.is_dir()}
    return {name for name in names if not name.startswith(".")}


def listed(tree: Tree, path: Path) -> Iterator[Entry]:
    """A CSV with the columns path, label and optionally group, split, video_id; more columns are ignored.

    Paths are relative to the CSV's folder; an empty label means unlabelled, an empty group the video itself.
    """
    if size_of(path) is None:
        raise InputError(f"{path} not found: the layout csv reads it (columns path, label[, group, split, video_id])")
    names, rows = read_csv(path)
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        have = ", ".join(names) or "none"
        raise InputError(f"{path} has no column {' and '.join(missing)} (it has {have}); path and label are needed")
    for number, row in enumerate(rows, start=2):
        yield _listed_entry(tree, f"{path} line {number}", {name: (row.get(name) or "").strip() for name in _COLUMNS})


def _listed_entry(tree: Tree, where: str, row: dict[str, str]) -> Entry:
    path = PurePosixPath(row["path"])
    if not path.parts:
        raise InputError(f"{where}: the path is empty")
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{where}: {row['path']} must be relative to {tree.root} and lie below it: ids follow from paths"
        )
    uri = path.as_posix()
    found = tree.find(uri)
    if found is None:
        raise InputError(f"{where}: {row['path']} does not exist below {tree.root}")
    split = split_name(row["split"], where) if row["split"] else None
    video_id = row["video_id"] or uri
    label = sys.intern(row["label"]) or None  # a few names, many rows
    return Entry(video_id, uri, label, row["group"] or video_id, split, *found)
