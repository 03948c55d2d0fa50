"""From a folder of videos to entries: class folders, a CSV, or the published layouts of UCF101, HMDB51, Kinetics."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, finished, is_video, nearest, read_csv, split_name
from pipeline.manifest.layouts import HMDB_LISTS, UCF_LISTS, hmdb51, is_kinetics, kinetics, ucf101

MANIFEST_CSV = "manifest.csv"
LAYOUTS = ("auto", "folders", "csv", "ucf101", "hmdb51", "kinetics")
_COLUMNS = ("path", "label", "group", "split", "video_id")


def scan(root: Path, layout: str = "auto", *, official_split: int = 1) -> list[Entry]:
    """All videos below `root`, sorted by id.

    `auto` reads manifest.csv where the root holds one, else the published annotations that lie in it, else class
    folders. `official_split` chooses among the three splits of UCF101 and HMDB51. InputError for a missing or empty
    folder, an empty class, an id that stands twice, or annotations that do not fit.
    """
    if not root.is_dir():
        raise InputError(f"manifest.root: {root} is no folder; name the folder of videos with --set manifest.root=DIR")
    readers = {
        "folders": lambda: class_folders(root),
        "csv": lambda: listed(root, root / MANIFEST_CSV),
        "ucf101": lambda: ucf101(root, official_split),
        "hmdb51": lambda: hmdb51(root, official_split),
        "kinetics": lambda: kinetics(root),
    }
    name = detect(root) if layout == "auto" else layout
    if name not in readers:
        raise InputError(
            f"manifest.layout {layout!r} is unknown{nearest(layout, LAYOUTS)}; known are {', '.join(LAYOUTS)}"
        )
    return finished(readers[name](), root)


def detect(root: Path) -> str:
    """The layout of a root, by the files in it: csv, ucf101, hmdb51, kinetics or folders."""
    if (root / MANIFEST_CSV).is_file():
        return "csv"
    if (root / UCF_LISTS).is_dir():
        return "ucf101"
    if (root / HMDB_LISTS).is_dir():
        return "hmdb51"
    return "kinetics" if is_kinetics(root) else "folders"


def class_folders(root: Path) -> Iterator[Entry]:
    """root/class/…/video; every folder below the root is a class. Each video is a group of its own."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = [path.name for path in root.iterdir() if path.is_file() and is_video(path)]
    if loose:
        raise InputError(
            f"{root}: {len(loose)} videos lie outside the class folders, for example {min(loose)}; move each into the "
            f"folder of its class, or write {root / MANIFEST_CSV} (path,label)"
        )
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
    names, rows = read_csv(path)
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        have = ", ".join(names) or "none"
        raise InputError(f"{path} has no column {' and '.join(missing)} (it has {have}); path and label are needed")
    for number, row in enumerate(rows, start=2):
        yield _listed_entry(root, f"{path} line {number}", {name: (row.get(name) or "").strip() for name in _COLUMNS})


def _listed_entry(root: Path, where: str, row: dict[str, str]) -> Entry:
    path = PurePosixPath(row["path"])
    if not path.parts:
        raise InputError(f"{where}: the path is empty")
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{where}: {row['path']} must be relative to {root} and lie below it: ids follow from paths")
    if not (root / path).is_file():
        raise InputError(f"{where}: {row['path']} does not exist below {root}")
    uri = path.as_posix()
    split = split_name(row["split"], where) if row["split"] else None
    video_id = row["video_id"] or uri
    return Entry(video_id, uri, row["label"] or None, row["group"] or video_id, split)
