"""The published annotation layouts: UCF101 and HMDB51 with their official splits, Kinetics with its CSV files."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, is_video, read_csv, split_name

UCF_LISTS, HMDB_LISTS = "ucfTrainTestlist", "testTrainMulti_7030_splits"
_KINETICS_LISTS = ("train.csv", "val.csv", "validate.csv", "test.csv")
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
_UCF_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+")
_HMDB_USE = {"1": "train", "2": "test"}
LOG = logging.getLogger(__name__)


def ucf101(root: Path, official_split: int) -> list[Entry]:
    """UCF-101/Class/v_Class_g01_c01.avi with ucfTrainTestlist/{train,test}listNN.txt beside or below the root.

    The group is class and scene number, as the official lists keep them together.
    """
    folder = _annotations(root, UCF_LISTS, f"trainlist{official_split:02d}.txt")
    videos = {path.stem: path for path in _videos(root)}
    listings = [(split, folder / f"{split}list{official_split:02d}.txt") for split in ("train", "test")]
    return _whole_groups(
        _ucf_entry(root, videos, line, listing, split) for split, listing in listings for line in _lines(listing)
    )


def _ucf_entry(root: Path, videos: Mapping[str, Path], line: str, listing: Path, split: str) -> Entry:
    name = Path(line.split()[0]).stem
    match = _UCF_NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{listing}: {line!r} is not of the form Class/v_Class_g01_c01.avi")
    if name not in videos:
        raise InputError(f"{listing} names {name}, which is not below {root}; download all of it, or use class folders")
    return _entry(root, videos[name], match["label"], f"{match['label']}_{match['group']}", split)


def hmdb51(root: Path, official_split: int) -> list[Entry]:
    """class/video.avi with testTrainMulti_7030_splits/CLASS_test_splitN.txt; 1 trains, 2 tests, 0 is left out.

    Clips cut from one film share the name up to its six properties; that is their group.
    """
    folder = _annotations(root, HMDB_LISTS, f"*_test_split{official_split}.txt")
    videos = {(path.parent.name, path.stem): path for path in _videos(root)}
    listings = sorted(folder.glob(f"*_test_split{official_split}.txt"))
    return _whole_groups(
        entry for listing in listings for entry in _hmdb_entries(root, videos, listing, f"_test_split{official_split}")
    )


def _hmdb_entries(root: Path, videos: Mapping[tuple[str, str], Path], listing: Path, ending: str) -> Iterator[Entry]:
    label = listing.stem.removesuffix(ending)
    for line in _lines(listing):
        name, _, use = line.rpartition(" ")
        if use not in _HMDB_USE:
            continue
        stem = Path(name.strip()).stem
        if (label, stem) not in videos:
            raise InputError(f"{listing} names {stem}, which is not in a folder {label!r} below {root}")
        yield _entry(root, videos[label, stem], label, _film(stem), _HMDB_USE[use])


def is_kinetics(root: Path) -> bool:
    """Whether the root holds a list with the columns of Kinetics."""
    return any(set(read_csv(path)[0]) >= _KINETICS_COLUMNS for path in _kinetics_lists(root))


def kinetics(root: Path) -> list[Entry]:
    """{train,val,validate,test}.csv (label, youtube_id, time_start, time_end, split) in the root or one folder deeper.

    Files are youtubeid_000001_000011.mp4, in class folders, split folders or flat; the group is the YouTube id. Videos
    of the lists that are not there (much of YouTube is gone) are left out, and their number is logged.
    """
    listings = _kinetics_lists(root)
    if not listings:
        raise InputError(f"{root}: no {', '.join(_KINETICS_LISTS)} with the columns of Kinetics")
    videos = {path.stem: path for path in _videos(root)}
    found = [_kinetics_entry(root, videos, *row) for listing in listings for row in _kinetics_rows(listing)]
    present = [entry for entry in found if entry is not None]
    if len(present) < len(found):
        LOG.warning("%s: %d of %d listed videos are not there", root, len(found) - len(present), len(found))
    return _whole_groups(present)


def _kinetics_lists(root: Path) -> list[Path]:
    return [path for name in _KINETICS_LISTS for place in ("", "*/") for path in sorted(root.glob(f"{place}{name}"))]


def _kinetics_rows(listing: Path) -> Iterator[tuple[Mapping[str, str | None], str, str]]:
    names, rows = read_csv(listing)
    missing = sorted(_KINETICS_COLUMNS - set(names))
    if missing:
        raise InputError(f"{listing} has no column {' and '.join(missing)}: is it a list of Kinetics?")
    for number, row in enumerate(rows, start=2):
        yield row, listing.stem, f"{listing} line {number}"


def _kinetics_entry(
    root: Path, videos: Mapping[str, Path], row: Mapping[str, str | None], listed: str, where: str
) -> Entry | None:
    name = row["youtube_id"] or ""
    try:
        start, end = (int(float(row[column] or "")) for column in ("time_start", "time_end"))
    except ValueError:
        raise InputError(f"{where}: time_start and time_end must be seconds") from None
    path = videos.get(f"{name}_{start:06d}_{end:06d}", videos.get(name))
    if path is None:
        return None
    return _entry(root, path, row.get("label") or None, name, split_name(row.get("split") or listed, where))


def _whole_groups(entries: Iterable[Entry]) -> list[Entry]:
    """A published split is kept even where it tears a group: its sides become groups of their own, with a warning."""
    found = list(entries)
    sides: dict[str, set[str | None]] = {}
    for entry in found:
        sides.setdefault(entry.group, set()).add(entry.split)
    torn = {group for group, splits in sides.items() if len(splits) > 1}
    if torn:
        LOG.warning("the official split has %d groups on two sides, for example %s", len(torn), min(torn))
    return [replace(e, group=f"{e.group} ({e.split})") if e.group in torn else e for e in found]


def _entry(root: Path, path: Path, label: str | None, group: str, split: str) -> Entry:
    uri = path.relative_to(root).as_posix()
    return Entry(uri, uri, label, group, split)


def _annotations(root: Path, folder: str, pattern: str) -> Path:
    for place in (root / folder, root.parent / folder, root):
        if place.is_dir() and any(place.glob(pattern)):
            return place
    raise InputError(f"{root}: no {folder}/{pattern} there or beside it; put the official split files there")


def _videos(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and is_video(path))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} not found")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _film(stem: str) -> str:
    """HMDB51 names end in visible parts, camera, people, view, quality and clip number: _u_cm_np1_fr_goo_0."""
    return re.sub(r"_[a-z]_[a-z]{2}_np\d+_[a-z]{2}_[a-z]{3}_\d+$", "", stem)
