"""Trouble of the world, not of a file: it is tried again, then the job fails, and nobody lands in quarantine for it."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifacts.commit import read_markers, read_object
from tests.integration.precompute.conftest import Artefacts, Ended, Run, Stage, plays
from tests.support.outcome import assert_same, outcome
from tests.support.processes import wait_for

GONE = "class_1/v037.mp4"


def storage_fails(stage: Stage) -> Ended:
    """After the scan a file is moved away, then a folder stands in its place; at last it is there again."""
    root = Path(shutil.copytree(stage.root, stage.folder / "away" / "clips"))
    workspace, drivers = stage.workspace("away-runs"), []
    for trouble in (_moved_away, _folder_in_place):
        run = stage.start(workspace, manifest__root=root)
        _scanned(run)
        with trouble(root / GONE):
            drivers.append(run.end())
    drivers.append(stage.finish(workspace, manifest__root=root))
    return Ended(workspace, drivers=drivers)


def disk_full(stage: Stage) -> Ended:
    """The store lies on a file system that is too small; it is enlarged, and the same command completes."""
    workspace = stage.workspace("full")
    with small_disk(workspace / "store", "900k") as store:
        first = stage.finish(workspace)
        subprocess.run(["mount", "-o", "remount,size=64m", str(store)], check=True)
        second = stage.finish(workspace)
        shutil.copytree(store, stage.folder / "full-kept" / "store")
    return Ended(stage.folder / "full-kept", drivers=[first, second])


def _scanned(run: Run) -> None:
    """Wait until the scan of the folder is over, and nothing is decoded yet."""
    wait_for(lambda: "shards to do" in run.said() or run.process.poll() is not None, "the end of the scan")


@contextlib.contextmanager
def _moved_away(path: Path) -> Iterator[None]:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    yield
    aside.rename(path)


@contextlib.contextmanager
def _folder_in_place(path: Path) -> Iterator[None]:
    with _moved_away(path):
        path.mkdir()
        yield
        path.rmdir()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def quarantined(store: Path) -> dict[str, str]:
    """Who is in quarantine for what, in any committed shard."""
    found: dict[str, str] = {}
    for folder in store.glob("frames/*"):
        for marker in read_markers(folder, "shard-").values():
            assert marker.quarantine is not None
            found |= {row["video_id"]: row["reason"] for row in read_object(folder, marker.quarantine).to_pylist()}
    return found


@plays(storage_fails)
def test_a_file_that_storage_does_not_give_fails_the_job_and_is_decoded_by_the_next(
    ended: Ended, wanted: Artefacts
) -> None:
    missing, folder, last = ended.drivers
    for failed in (missing, folder):
        assert failed.code == 1, failed.err[-3000:]
        assert GONE in failed.err
        assert "goes on from" in failed.err
    assert last.code == 0, last.err[-3000:]
    assert GONE not in quarantined(ended.workspace / "store")
    got = outcome(ended.workspace / "store")
    rows = [sorted(stored.table.num_rows for stored in artefacts.values()) for artefacts in (got, wanted)]
    assert rows[0] == rows[1]


@plays(disk_full)
def test_a_full_disk_fails_the_job_and_the_next_completes(ended: Ended, wanted: Artefacts) -> None:
    first, second = ended.drivers
    assert first.code == 1, first.err[-3000:]
    assert "No space left" in first.err
    assert second.code == 0, second.err[-3000:]
    assert_same(outcome(ended.workspace / "store"), wanted)
