"""The published annotation layouts: UCF101 and HMDB51 with their official splits, Kinetics with its CSV files."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.artifacts.files import listing, read_if_present
from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, Tree, read_csv, split_name

UCF_LISTS, HMDB_LISTS = "ucfTrainTestlist", "testTrainMulti_7030_splits"
_KINETICS_LISTS = ("train.csv", "val.csv", "validate.csv", "test.csv")
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}
_UCF_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+")
_HMDB_USE = {"1": "train", "2": "test"}
LOG = logging.getLogger(__name__)


def ucf101(tree: Tree, official_split: int) -> list[Entry]:
    """UCF-101/Class/v_Class_g01_c01.avi with ucfTrainTestlist/{train,test}listNN.txt beside or below the root.

    The group is class and scene number, as the official lists keep them together.
    """
    folder = _annotations(tree.root, UCF_LISTS, f"trainlist{official_split:02d}.txt")
    videos = {PurePosixPath(name).stem: name for name in tree.videos}
    listings = [(split, folder / f"{split}list{official_split:02d}.txt") for split in ("train", "test")]
    return _whole_groups(
        _ucf_entry(tree, videos, line, found, split) for split, found in listings for line in _lines(found)
    )


def _ucf_entry(tree: Tree, videos: Mapping[str, str], line: str, source: Path, split: str) -> Entry:
    name = Path(line.split()[0]).stem
    match = _UCF_NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{source}: {line!r} is not of the form Class/v_Class_g01_c01.avi")
    if name not in videos:
        raise InputError(
            f"{source} names {name}, which is not below {tree.root}; download all of it, or use class folders"
        )
    return tree.entry(videos[name], match["label"], f"{match['label']}_{match['group']}", split)


def hmdb51(tree: Tree, official_split: int) -> list[Entry]:
    """class/video.avi with testTrainMulti_7030_splits/CLASS_test_splitN.txt; 1 trains, 2 tests, 0 is left out.

    Clips cut from one film share the name up to its six properties; that is their group.
    """
    ending = f"_test_split{official_split}"
    folder = _annotations(tree.root, HMDB_LISTS, f"*{ending}.txt")
    paths = {name: PurePosixPath(name) for name in tree.videos}
    videos = {(path.parent.name or tree.root.name, path.stem): name for name, path in paths.items()}
    listings = listing(folder, f"*{ending}.txt")
    return _whole_groups(entry for found in listings for entry in _hmdb_entries(tree, videos, found, ending))


def _hmdb_entries(tree: Tree, videos: Mapping[tuple[str, str], str], source: Path, ending: str) -> Iterator[Entry]:
    label = source.stem.removesuffix(ending)
    for line in _lines(source):
        name, _, use = line.rpartition(" ")
        if use not in _HMDB_USE:
            continue
        stem = Path(name.strip()).stem
        if (label, stem) not in videos:
            raise InputError(f"{source} names {stem}, which is not in a folder {label!r} below {tree.root}")
        yield tree.entry(videos[label, stem], label, _film(stem), _HMDB_USE[use])


def is_kinetics(tree: Tree) -> bool:
    """Whether the root holds a list with the columns of Kinetics."""
    return any(set(read_csv(path)[0]) >= _KINETICS_COLUMNS for path in _kinetics_lists(tree))


def kinetics(tree: Tree) -> list[Entry]:
    """{train,val,validate,test}.csv (label, youtube_id, time_start, time_end, split) in the root or one folder deeper.

    Files are youtubeid_000001_000011.mp4, in class folders, split folders or flat; the group is the YouTube id. Videos
    of the lists that are not there (much of YouTube is gone) are left out, and their number is logged.
    """
    listings = _kinetics_lists(tree)
    if not listings:
        raise InputError(f"{tree.root}: no {', '.join(_KINETICS_LISTS)} with the columns of Kinetics")
    videos = {PurePosixPath(name).stem: name for name in tree.videos}
    found = [_kinetics_entry(tree, videos, *row) for source in listings for row in _kinetics_rows(source)]
    present = [entry for entry in found if entry is not None]
    if len(present) < len(found):
        LOG.warning("%s: %d of %d listed videos are not there", tree.root, len(found) - len(present), len(found))
    return _whole_groups(present)


def _kinetics_lists(tree: Tree) -> list[Path]:
    """In the root or one folder deeper."""
    near = [PurePosixPath(name) for name in tree.files if name.endswith(_KINETICS_LISTS) and name.count("/") <= 1]
    return [tree.root / path for wanted in _KINETICS_LISTS for path in near if path.name == wanted]


def _kinetics_rows(source: Path) -> Iterator[tuple[Mapping[str, str | None], str, str]]:
    names, rows = read_csv(source)
    missing = sorted(_KINETICS_COLUMNS - set(names))
    if missing:
        raise InputError(f"{source} has no column {' and '.join(missing)}: is it a list of Kinetics?")
    for number, row in enumerate(rows, start=2):
        yield row, source.stem, f"{source} line {number}"


def _kinetics_entry(
    tree: Tree, videos: Mapping[str, str], row: Mapping[str, str | None], listed: str, where: str
) -> Entry | None:
    name = row["youtube_id"] or ""
    try:
        start, end = (int(float(row[column] or "")) for column in ("time_start", "time_end"))
    except ValueError:
        raise InputError(f"{where}: time_start and time_end must be seconds") from None
    path = videos.get(f"{name}_{start:06d}_{end:06d}", videos.get(name))
    if path is None:
        return None
    return tree.entry(path, row.get("label") or None, name, split_name(row.get("split") or listed, where))


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


def _annotations(root: Path, folder: str, pattern: str) -> Path:
    for place in (root / folder, root.parent / folder, root):
        if listing(place, pattern):
            return place
    raise InputError(f"{root}: no {folder}/{pattern} there or beside it; put the official split files there")


def _lines(path: Path) -> list[str]:
    data = read_if_present(path)
    if data is None:
        raise InputError(f"{path} not found")
    return [line.strip() for line in data.decode("utf-8").splitlines() if line.strip()]


def _film(stem: str) -> str:
    """HMDB51 names end in visible parts, camera, people, view, quality and clip number: _u_cm_np1_fr_goo_0."""
    return re.sub(r"_[a-z]_[a-z]{2}_np\d+_[a-z]{2}_[a-z]{3}_\d+$", "", stem)
