"""Snapshots: immutable lists of committed shards that a reader pins, so that writing may go on while others read.

The digest covers values only: sorted shard ids with the sha256 of each data object, and the tombstones of those shards.
Attempt names, facts and quarantine files stay out, so a shard redone with equal values gives the equal digest.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.artifacts.commit import Marker, read_markers
from pipeline.artifacts.files import create_if_absent, listing, read_many
from pipeline.artifacts.identity import canonical_json, digest
from pipeline.artifacts.layout import SCHEMA, check_version, parse_json, read_json
from pipeline.errors import InputError


@dataclass(frozen=True)
class Snapshot:
    """Committed shards of `folder`, sorted by id, and the (video_id, shard_id) pairs among them that are left out."""

    folder: Path
    digest: str
    shards: tuple[Marker, ...]
    tombstones: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, folder: Path, markers: Iterable[Marker], tombstones: Collection[tuple[str, str]]) -> Self:
        """Tombstones of shards that are not among `markers` change nothing and are dropped."""
        shards = tuple(sorted(markers, key=lambda marker: marker.shard_id))
        ids = {marker.shard_id for marker in shards}
        kept = frozenset((video_id, shard_id) for video_id, shard_id in tombstones if shard_id in ids)
        return cls(folder, _digest(shards, kept), shards, kept)

    @property
    def path(self) -> Path:
        return self.folder / "snapshots" / f"{self.digest}.json"


def committed(
    folder: Path, *, shards: Collection[str] | None = None, tombstones: Collection[tuple[str, str]] = frozenset()
) -> Snapshot:
    """What is committed now (all, or the named `shards`), without writing a file. InputError names missing shards."""
    markers = read_markers(folder, "shard-")
    wanted = markers.keys() if shards is None else set(shards)
    missing = sorted(wanted - markers.keys())
    if missing:
        raise InputError(f"{folder}: not committed: {', '.join(missing[:5])} ({len(missing)} of {len(wanted)} shards)")
    return Snapshot.of(folder, (markers[shard_id] for shard_id in wanted), tombstones)


def pin(
    folder: Path, *, shards: Collection[str] | None = None, tombstones: Collection[tuple[str, str]] = frozenset()
) -> Snapshot:
    """As `committed`, and written to `snapshots/<digest>.json` unless that exists."""
    snapshot = committed(folder, shards=shards, tombstones=tombstones)
    content = {
        "schema": SCHEMA,
        "digest": snapshot.digest,
        "shards": [marker.to_json() for marker in snapshot.shards],
        "tombstones": sorted(snapshot.tombstones),
    }
    create_if_absent(snapshot.path, canonical_json(content).encode())
    return snapshot


def buried(folder: Path) -> frozenset[tuple[str, str]]:
    """The tombstones of all snapshots that were pinned here: what is planned anew gets another shard, so one is for
    ever."""
    contents = read_many(listing(folder / "snapshots", "*.json"))
    found = (parse_json(data, folder / "snapshots") for data in contents if data is not None)
    return frozenset((video_id, shard_id) for content in found for video_id, shard_id in content["tombstones"])


def load(folder: Path, digest: str) -> Snapshot:
    """A snapshot that was pinned before: one read. InputError where there is none or its content is another."""
    path = folder / "snapshots" / f"{digest}.json"
    content = read_json(path)
    if content is None:
        raise InputError(f"{path} does not exist: no such snapshot of this artefact was pinned in this workspace")
    check_version(content.get("schema"), str(path))
    markers = [Marker.from_json(value, str(path)) for value in content["shards"]]
    snapshot = Snapshot.of(folder, markers, [(video_id, shard_id) for video_id, shard_id in content["tombstones"]])
    if snapshot.digest != digest:
        raise InputError(f"{path} is damaged: its content has the digest {snapshot.digest}; delete it and pin again")
    return snapshot


def _digest(shards: tuple[Marker, ...], tombstones: frozenset[tuple[str, str]]) -> str:
    # The objects of one shard keep their order: it is the order of its rows.
    objects = [[marker.shard_id, [obj.sha256 for obj in marker.objects]] for marker in shards]
    return digest({"shards": objects, "tombstones": sorted(tombstones)})
