from pathlib import Path

import pytest

from pipeline.artifacts.commit import DataObject, Marker, commit, shard_name
from pipeline.artifacts.snapshot import Snapshot, committed, load, pin
from pipeline.errors import InputError
from tests.unit.artifacts.tables import frames_table, put


def test_a_shard_redone_with_equal_values_gives_the_equal_digest(tmp_path: Path) -> None:
    first = put(tmp_path, 0, frames_table(["a"]), quarantined=["x"])
    put(tmp_path, 1, frames_table(["b"]))
    before = pin(tmp_path)
    (tmp_path / "shard-00000000.json").unlink()
    again = put(tmp_path, 0, frames_table(["a"]))
    assert (again.attempt, again.facts, again.quarantine) != (first.attempt, first.facts, first.quarantine)
    assert pin(tmp_path).digest == before.digest
    (tmp_path / "shard-00000000.json").unlink()
    put(tmp_path, 0, frames_table(["c"]))
    assert pin(tmp_path).digest != before.digest


def test_the_digest_never_changes(tmp_path: Path) -> None:
    objects = {n: tuple(DataObject(f"{part}.any", 9, 9, f"{n}{part}" * 32) for part in "cab") for n in (2, 1)}
    markers = [Marker(shard_name(n), "any", objects[n]) for n in (2, 1)]
    assert (
        Snapshot.of(tmp_path, markers, {("v", shard_name(1)), ("w", shard_name(2))}).digest
        == "c1b59fbc2d68595586356534b17180089601274d783904658bed9871ab6f32af"
    )


def test_tombstones_and_shards_count_but_only_tombstones_of_these_shards(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path, n, frames_table([f"v{n}"]))
    buried = ("v1", shard_name(1))
    digests = [
        committed(tmp_path).digest,
        committed(tmp_path, tombstones={buried}).digest,
        committed(tmp_path, shards=[shard_name(0), shard_name(1)]).digest,
        committed(tmp_path, shards=[shard_name(0), shard_name(1)], tombstones={buried}).digest,
    ]
    assert len(set(digests)) == 4
    alone = committed(tmp_path, shards=[shard_name(0)], tombstones={buried})
    assert alone.tombstones == frozenset()
    assert alone.digest == committed(tmp_path, shards=[shard_name(0)]).digest


def test_a_pinned_snapshot_is_read_back_and_does_not_grow(tmp_path: Path) -> None:
    put(tmp_path, 3, frames_table(["a"]))
    put(tmp_path, 1, frames_table(["b"]), quarantined=["x"])
    pinned = pin(tmp_path, tombstones={("b", shard_name(1))})
    put(tmp_path, 2, frames_table(["c"]))
    assert load(tmp_path, pinned.digest) == pinned
    assert [marker.shard_id for marker in pinned.shards] == [shard_name(1), shard_name(3)]
    assert pinned.path == tmp_path / "snapshots" / f"{pinned.digest}.json"
    assert pin(tmp_path).digest != pinned.digest


def test_committed_writes_nothing_and_takes_shards_only(tmp_path: Path) -> None:
    put(tmp_path, 0, frames_table(["a"]))
    commit(tmp_path, Marker("step-00000004", "abc", ()))
    assert [marker.shard_id for marker in committed(tmp_path).shards] == [shard_name(0)]
    assert not (tmp_path / "snapshots").exists()


def test_what_is_missing_damaged_or_newer_is_named(tmp_path: Path) -> None:
    put(tmp_path, 0, frames_table(["a"]))
    with pytest.raises(InputError, match=rf"not committed: {shard_name(5)} \(1 of 2"):
        pin(tmp_path, shards=[shard_name(0), shard_name(5)])
    with pytest.raises(InputError, match="no such snapshot"):
        load(tmp_path, "0" * 64)
    pinned = pin(tmp_path)
    text = pinned.path.read_text()
    pinned.path.write_text(text.replace(pinned.shards[0].objects[0].sha256, "0" * 64))
    with pytest.raises(InputError, match="is damaged"):
        load(tmp_path, pinned.digest)
    pinned.path.write_text(text.replace('"schema":"1.0","shards"', '"schema":"3.0","shards"'))
    with pytest.raises(InputError, match=r"schema 3\.0"):
        load(tmp_path, pinned.digest)
