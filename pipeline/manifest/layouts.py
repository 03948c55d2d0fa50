"""The published annotation layouts: UCF101 and HMDB51 with their official splits, Kinetics with its CSV files."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, is_video, split_name

_UCF_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+")
_HMDB_USE = {"1": "train", "2": "test"}


def ucf101(root: Path, official_split: int) -> Iterator[Entry]:
    """UCF-101/Class/v_Class_g01_c01.avi with ucfTrainTestlist/{train,test}listNN.txt beside or below the root.

    The group is class and scene number, as the official lists keep them together.
    """
    folder = _annotations(root, "ucfTrainTestlist", f"trainlist{official_split:02d}.txt")
    videos = {path.stem: path for path in _videos(root)}
    for split in ("train", "test"):
        for line in _lines(folder / f"{split}list{official_split:02d}.txt"):
            name = Path(line.split()[0]).stem
            match = _UCF_NAME.fullmatch(name)
            if match is None:
                raise InputError(f"{folder}: {line!r} is not of the form Class/v_Class_g01_c01.avi")
            yield _entry(
                root, _found(videos, name, folder), match["label"], f"{match['label']}_{match['group']}", split
            )


def hmdb51(root: Path, official_split: int) -> Iterator[Entry]:
    """class/video.avi with testTrainMulti_7030_splits/CLASS_test_splitN.txt; 1 trains, 2 tests, 0 is left out.

    Clips cut from one film share the name up to the last `_clip-info` part; that is their group.
    """
    folder = _annotations(root, "testTrainMulti_7030_splits", f"*_test_split{official_split}.txt")
    videos = {(path.parent.name, path.stem): path for path in _videos(root)}
    for listing in sorted(folder.glob(f"*_test_split{official_split}.txt")):
        label = listing.name.removesuffix(f"_test_split{official_split}.txt")
        for line in _lines(listing):
            name, use = line.rsplit(maxsplit=1)
            if use not in _HMDB_USE:
                continue
            path = videos.get((label, Path(name).stem))
            if path is None:
                raise InputError(f"{listing} names {name}, which is not below {root / label}")
            yield _entry(root, path, label, _film(path.stem), _HMDB_USE[use])


def kinetics(root: Path) -> Iterator[Entry]:
    """{train,val,validate,test}.csv (label, youtube_id, time_start, time_end, split) and files named
    youtubeid_000001_000011.mp4, in class folders, split folders or flat. Videos of the list that were not downloaded
    are left out; the group is the YouTube id.
    """
    listings = [path for path in sorted(root.rglob("*.csv")) if path.stem in ("train", "val", "validate", "test")]
    if not listings:
        raise InputError(f"{root}: no train.csv, val.csv, validate.csv or test.csv with the columns of Kinetics")
    videos = {path.stem: path for path in _videos(root)}
    for listing in listings:
        with listing.open(newline="", encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=2):
                entry = _kinetics_row(root, videos, row, listing, number)
                if entry is not None:
                    yield entry


def _kinetics_row(
    root: Path, videos: Mapping[str, Path], row: Mapping[str, str | None], listing: Path, number: int
) -> Entry | None:
    where = f"{listing} line {number}"
    try:
        start, end = int(float(row["time_start"] or "")), int(float(row["time_end"] or ""))
        name = row["youtube_id"] or ""
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: needs youtube_id, time_start and time_end ({error!r})") from None
    path = videos.get(f"{name}_{start:06d}_{end:06d}", videos.get(name))
    if path is None:
        return None
    return _entry(root, path, row.get("label") or None, name, split_name(row.get("split") or listing.stem, where))


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


def _found(videos: Mapping[str, Path], name: str, folder: Path) -> Path:
    if name not in videos:
        raise InputError(
            f"{folder} names {name}, which is not below the root; download the whole data set or use folders"
        )
    return videos[name]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} not found")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _film(stem: str) -> str:
    """HMDB51 names end in visible parts, camera, people, view, quality and clip number: _u_cm_np1_fr_goo_0."""
    return re.sub(r"_[a-z]_[a-z]{2}_np\d+_[a-z]{2}_[a-z]{3}_\d+$", "", stem)
