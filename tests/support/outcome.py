"""What a finished precompute stored, in a form that two workspaces can be compared by: keys, digests, every value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts.commit import read_object
from pipeline.artifacts.dataset import Artefact
from pipeline.artifacts.layout import read_about
from pipeline.artifacts.snapshot import committed
from pipeline.manifest.plan import read_plan

Key = tuple[str, int]


@dataclass(frozen=True)
class Stored:
    """One artefact: the digest of its snapshot, its rows, and who is in quarantine for which reason."""

    digest: str
    table: pa.Table
    quarantine: dict[str, str]

    @property
    def keys(self) -> list[Key]:
        return list(zip(self.table["clip_id"].to_pylist(), self.table["view_id"].to_pylist(), strict=True))


def outcome(store: Path, kinds: tuple[str, ...] = ("frames", "targets")) -> dict[tuple[str, str], Stored]:
    """Every artefact of `kinds` below a store, by kind and key; AssertionError where one is not what was planned."""
    found = {}
    for folder in (folder for kind in kinds for folder in sorted((store / kind).iterdir())):
        stored = read(folder)
        check_complete(stored, store / "plan" / plan_key(store, folder))
        found[folder.parent.name, folder.name] = stored
    return found


def read(folder: Path) -> Stored:
    """The rows that a reader sees, every file checked against the sha256 of its marker."""
    snapshot = committed(folder)
    quarantine: dict[str, str] = {}
    for marker in snapshot.shards:
        if marker.quarantine is not None:
            rows = read_object(folder, marker.quarantine, check=True).to_pylist()
            quarantine |= {row["video_id"]: row["reason"] for row in rows}
    return Stored(snapshot.digest, Artefact(snapshot, check=True).table(), quarantine)


def plan_key(store: Path, folder: Path) -> str:
    """The plan that an artefact was made from; targets name their frames, and frames their plan."""
    inputs: dict[str, Any] = read_about(folder)["inputs"]
    return str(inputs["plan"]) if "plan" in inputs else plan_key(store, store / "frames" / str(inputs["frames"]))


def check_complete(stored: Stored, plan: Path) -> None:
    """Rows ∪ quarantine ∪ tombstones = plan, and no row twice."""
    planned = read_plan(plan)
    wanted = {
        (clip, view): video
        for shard, table in planned.shards.items()
        for clip, view, video in zip(*map(pa.ChunkedArray.to_pylist, _columns(table)), strict=True)
        if (video, shard) not in planned.tombstones
    }
    keys = stored.keys
    assert len(keys) == len(set(keys)), "a view is stored twice"
    assert set(keys) == {key for key, video in wanted.items() if video not in stored.quarantine}
    assert set(stored.quarantine) <= set(wanted.values())


def _columns(table: pa.Table) -> list[pa.ChunkedArray]:
    return [table[name] for name in ("clip_id", "view_id", "video_id")]


def assert_same(got: dict[tuple[str, str], Stored], wanted: dict[tuple[str, str], Stored]) -> None:
    """Same keys of artefacts, same digests, same rows bit for bit, same quarantine."""
    assert got.keys() == wanted.keys()
    for name, stored in wanted.items():
        assert got[name].quarantine == stored.quarantine, name
        assert got[name].table.equals(stored.table, check_metadata=True), name
        assert got[name].digest == stored.digest, name
