import os
import time
from pathlib import Path

import pytest

from pipeline.artifacts.collect import LOST, REPLACED, TEMPORARY, Waste, collect, garbage, remove_artefact
from pipeline.artifacts.commit import new_attempt, read_markers, shard_name, write_bytes, write_table
from pipeline.artifacts.compact import compact
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.layout import write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.snapshot import pin
from pipeline.errors import InputError, JobError
from tests.unit.artifacts.tables import frames_table, put

FAST = {"duration": 0.3, "renew": 0.1}
LATER = 4e9  # as if everything were old


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five shards under a released lease, and one pinned snapshot."""
    write_about(tmp_path, {"key": "abc"})
    with Lease(tmp_path, "precompute"):
        for number in range(5):
            put(tmp_path, number, frames_table([f"v{number}"]), frames_table([f"w{number}"]), quarantined=[])
    pin(tmp_path)
    return tmp_path


def names(waste: list[Waste]) -> dict[str, str]:
    return {one.path.name: one.kind for one in waste}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def leave_garbage(folder: Path) -> dict[str, str]:
    """What killed attempts leave: a lost table, a part of no shard, hidden temporaries, an attempt's folder."""
    lost = f"{shard_name(1)}.{new_attempt()}.parquet"
    part = f"{shard_name(9)}.part-00000.{new_attempt()}.parquet"
    write_table(folder, lost, frames_table(["lost"]))
    write_table(folder, part, frames_table(["part"]))
    (folder / ".shard-00000002.json.0123456789ab.tmp").write_bytes(b"{")
    inside = folder / new_attempt()
    inside.mkdir()
    (inside / "model.safetensors").write_bytes(b"half")
    return {lost: LOST, part: LOST, ".shard-00000002.json.0123456789ab.tmp": TEMPORARY, "model.safetensors": LOST}


def test_only_what_nothing_names_goes(folder: Path) -> None:
    before, table = files(folder), open_dataset(folder, check=True).table()
    expected = leave_garbage(folder)
    assert names(garbage(folder, LATER)) == expected
    assert names(collect(folder, LATER, "gc", **FAST)) == expected
    assert files(folder) - {"compaction/lease.json", "compaction/lease.00000001.claim"} - before == {
        "lease.00000002.claim"
    }
    assert before - files(folder) == {"lease.00000001.claim"}
    assert open_dataset(folder, check=True).table().equals(table)
    assert not garbage(folder, LATER)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"compaction", "snapshots"}


def test_nothing_young_goes(folder: Path) -> None:
    leave_garbage(folder)
    old = next(path for path in folder.glob(f"{shard_name(9)}*"))
    os.utime(old, (time.time() - 7200,) * 2)
    assert [waste.path for waste in garbage(folder, time.time() - 3600)] == [old]


def test_a_living_job_is_left_alone_and_named(folder: Path) -> None:
    leave_garbage(folder)
    before = files(folder)
    with Lease(folder, "host:7", **FAST), pytest.raises(JobError, match="host:7"):
        collect(folder, LATER, "gc", **FAST)
    assert before - files(folder) == {"lease.00000001.claim"}


def test_a_running_compaction_is_left_alone(folder: Path) -> None:
    write_bytes(folder, f"compacted-00000000.file-00000.{new_attempt()}.parquet", b"half")
    with Lease(folder / "compaction", "host:8", **FAST), pytest.raises(JobError, match="host:8"):
        collect(folder, LATER, "gc", **FAST)
    assert len(list(folder.glob("compacted-*"))) == 1
    assert names(collect(folder, LATER, "gc", **FAST)).popitem()[1] == LOST


def test_small_files_go_once_the_record_that_replaces_them_is_old(folder: Path) -> None:
    table = open_dataset(folder).table()
    small = {path.name for path in folder.glob("shard-*.parquet")}
    for path in folder.iterdir():
        os.utime(path, (time.time() - 9000,) * 2)
    compact(folder)
    assert not garbage(folder, time.time() - 3600)
    assert names(garbage(folder, LATER)) == dict.fromkeys(small, REPLACED)
    collect(folder, LATER, "gc", **FAST)
    assert not list(folder.glob("shard-*.parquet"))
    assert len(read_markers(folder, "shard-")) == 5
    assert open_dataset(folder, check=True).table().equals(table)
    assert not garbage(folder, LATER)


def test_a_compacted_file_goes_once_a_newer_one_holds_all_that_is_needed_of_it(folder: Path) -> None:
    compact(folder)
    collect(folder, LATER, "gc", **FAST)
    put(folder, 5, frames_table(["late"]), quarantined=["late"])
    table = open_dataset(folder).table()
    compact(folder)
    record = folder / "compacted-00000001.json"
    first = list(folder.glob("compacted-00000000.*"))
    young = names(garbage(folder, record.stat().st_mtime))
    assert not young.keys() & {path.name for path in first}, "the newer record is still young"
    gone = names(collect(folder, LATER, "gc", **FAST))
    assert gone.keys() >= {path.name for path in first}
    assert len(first) == 3
    assert len(list(folder.glob("compacted-*.parquet"))) == 2
    assert open_dataset(folder, check=True).table().equals(table)


def test_small_files_stay_where_the_large_one_is_not_whole(folder: Path) -> None:
    compact(folder)
    for path in folder.glob("compacted-*.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    assert not any(name.startswith("shard-") for name in names(garbage(folder, LATER)))


def test_what_a_pinned_snapshot_names_stays_though_its_shard_was_redone(folder: Path) -> None:
    snapshot = pin(folder)
    (folder / f"{shard_name(3)}.json").unlink()
    put(folder, 3, frames_table(["other"]))
    table = open_dataset(folder, snapshot.digest).table()
    assert not garbage(folder, LATER)
    assert open_dataset(folder, snapshot.digest).table().equals(table)


def test_checkpoints_below_the_artefact_are_named_by_their_own_markers(folder: Path) -> None:
    inside = folder / "checkpoints"
    put(inside, 7, frames_table(["checkpoint"]))
    write_bytes(inside, "step-00000008.lost.pt", b"half")
    assert names(garbage(folder, LATER)) == {"step-00000008.lost.pt": LOST}


def test_a_damaged_marker_stops_it_before_anything_goes(folder: Path) -> None:
    leave_garbage(folder)
    before = files(folder)
    (folder / f"{shard_name(2)}.json").write_text("{}")
    with pytest.raises(InputError, match=shard_name(2)):
        collect(folder, LATER, "gc", **FAST)
    assert files(folder) == before


def test_a_whole_artefact_goes_markers_first_and_nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(folder)
    gone: list[str] = []
    from pipeline.artifacts import collect as module

    original = module.remove

    def noted(path: Path) -> None:
        gone.append(path.name)
        original(path)

    monkeypatch.setattr(module, "remove", noted)
    remove_artefact(folder, "gc", **FAST)
    assert not folder.exists()
    data = [index for index, name in enumerate(gone) if name.endswith(".parquet")]
    markers = [index for index, name in enumerate(gone) if name.startswith("shard-") and name.endswith(".json")]
    assert max(markers) < min(data)
    assert gone.index("about.json") > max(markers)


def test_a_living_artefact_is_not_removed(folder: Path) -> None:
    with Lease(folder, "host:7", **FAST), pytest.raises(JobError, match="host:7"):
        remove_artefact(folder, "gc", **FAST)
    assert len(read_markers(folder, "shard-")) == 5
