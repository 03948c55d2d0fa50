"""A disk or a mount with trouble: what passes is waited out, what lasts is said, nothing is half there."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import files
from pipeline.artifacts.commit import Marker, commit, read_markers, read_object, write_table
from pipeline.artifacts.files import (
    contents,
    create_if_absent,
    folders,
    listing,
    make_folder,
    publish,
    read_if_present,
    remove,
    replace,
    size_of,
    walk,
)
from pipeline.errors import StorageError
from tests.unit.artifacts.test_commit import frames_table


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


def shaky(call: Callable[..., Any], number: int, times: int) -> Callable[..., Any]:
    """`call`, which fails with errno `number` so many times first."""
    left = [times]

    def fails(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return call(*arguments, **named)

    return fails


OPERATIONS = {
    "os.link": lambda path: create_if_absent(path, b"new"),
    "os.replace": lambda path: replace(path, b"new"),
    "pathlib.Path.write_bytes": lambda path: create_if_absent(path, b"new"),
    "pathlib.Path.read_bytes": read_if_present,
    "pathlib.Path.stat": size_of,
    "os.scandir": lambda path: listing(path.parent),
    "pathlib.Path.unlink": remove,
}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC])
@pytest.mark.parametrize("name", OPERATIONS)
def test_writing_reading_listing_and_removing_wait_until_trouble_passes(
    name: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pauses: list[float],
) -> None:
    path, act = tmp_path / "file", OPERATIONS[name]
    path.write_bytes(b"old")
    at = tmp_path / "new" if name in ("os.link", "pathlib.Path.write_bytes") else path
    module, _, attribute = name.rpartition(".")
    owner = os if module == "os" else Path
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        fails = shaky(getattr(owner, attribute), number, 2)
        patch.setattr(owner, attribute, lambda *arguments, **named: fails(*arguments, **named))
        act(at)
    assert pauses == [0.5, 1.0]
    assert os.strerror(number) in caplog.text
    assert f"{tmp_path}" in caplog.text
    if name == "pathlib.Path.unlink":
        assert not path.exists()
    elif name in ("os.link", "pathlib.Path.write_bytes", "os.replace"):
        assert at.read_bytes() == b"new"
    assert not [each for each in os.listdir(tmp_path) if each.endswith(".tmp")]


WALKS: dict[str, Callable[[Path], list[str]]] = {
    "folders": lambda folder: [found.name for found in folders(folder)],
    "walk": lambda folder: [str(found.path.relative_to(folder)) for found in walk(folder)],
    "contents": lambda folder: sorted(name for name, _, _ in contents(folder)),
}
FILES = ["b", "z", "a/1", "a/deep/2"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", WALKS)
def test_walking_a_tree_waits_and_misses_nothing(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    whole = WALKS[name](tree)
    assert whole == {"folders": ["a"], "walk": FILES, "contents": sorted(FILES)}[name]
    monkeypatch.setattr(os, "scandir", shaky(os.scandir, errno.EIO, 2))
    assert WALKS[name](tree) == whole
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("name", WALKS)
def test_a_folder_that_cannot_be_listed_is_never_taken_for_an_empty_one(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tree if name == "folders" else tree / "a"
    scan = os.scandir

    def fails(folder: Any) -> Any:
        if Path(folder) == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(StorageError, match=f"{bad} cannot be listed: Input/output error"):
        WALKS[name](tree)


@pytest.mark.parametrize("name", WALKS)
def test_a_lacking_right_is_said_at_once(
    name: str, tree: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(os, "scandir", shaky(os.scandir, errno.EACCES, 1))
    with pytest.raises(StorageError, match=f"{tree} cannot be listed: Permission denied; give the user"):
        WALKS[name](tree)
    assert pauses == []


def test_walking_passes_over_what_went_and_over_what_is_no_file(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "nowhere").symlink_to(tree / "absent")
    (tree / "linked").symlink_to(tree / "a")
    assert WALKS["walk"](tree) == FILES
    assert WALKS["contents"](tree) == sorted([*FILES, "linked/1", "linked/deep/2"])
    assert WALKS["walk"](tree / "absent") == []
    assert [found.size for found in walk(tree)] == [len(name) for name in FILES]


def test_making_a_folder_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setattr(os, "mkdir", shaky(os.mkdir, errno.ESTALE, 2))
    make_folder(tmp_path / "new" / "deeper")
    assert (tmp_path / "new" / "deeper").is_dir()
    assert pauses == [0.5, 1.0]


def test_what_lasts_fails_the_job_by_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(files, "_sync", shaky(files._sync, errno.EIO, 99))
    with pytest.raises(StorageError, match=r"marker.json cannot be written: Input/output error, again and again"):
        create_if_absent(tmp_path / "marker.json", b"x")
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert os.listdir(tmp_path) == []


def test_what_cannot_pass_is_not_waited_for(tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        create_if_absent(tmp_path / "file" / "below", b"x")
    assert read_if_present(tmp_path / "absent") is None
    assert size_of(tmp_path / "absent") is None
    assert size_of(tmp_path) is None
    assert pauses == []


def test_a_failed_flush_means_that_all_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(path: Path) -> None:
        written.append(path)
        path.write_bytes(b"whole")

    monkeypatch.setattr(files, "_sync", shaky(files._sync, errno.EIO, 1))
    assert publish(tmp_path / "data", write) is True
    assert len(set(written)) == 2
    assert (tmp_path / "data").read_bytes() == b"whole"


def test_who_linked_and_could_not_flush_the_folder_has_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = files._sync
    flush_folder = shaky(sync, errno.EIO, 2)
    monkeypatch.setattr(files, "_sync", lambda path: (flush_folder if path.is_dir() else sync)(path))
    assert create_if_absent(tmp_path / "marker", b"mine") is True
    assert create_if_absent(tmp_path / "marker", b"second") is False


def test_a_shard_is_committed_though_the_disk_stumbles_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = frames_table(["a", "b"])
    monkeypatch.setattr(files, "_sync", shaky(files._sync, errno.EIO, 1))
    obj = write_table(tmp_path, "shard-00000001.x.parquet", table)
    monkeypatch.setattr(os, "link", shaky(os.link, errno.EIO, 1))
    assert commit(tmp_path, Marker("shard-00000001", "x", (obj,)))
    (marker,) = read_markers(tmp_path).values()
    assert read_object(tmp_path, marker.objects[0], check=True).equals(table)
    assert sorted(os.listdir(tmp_path)) == ["shard-00000001.json", "shard-00000001.x.parquet"]
