"""Garbage of one artefact: what no marker, snapshot or compaction record names, and what a record replaces.

Safe beside a running reader: it deletes no marker, no snapshot and nothing that they name, but small files whose rows a
compacted file of the right size holds, under a record older than the grace period. A reader whose file vanishes looks
into the records (commit.read_object), and into a shard's marker where that was redone (dataset.Artefact). Names are
never used again, so what it finds is what it asked for.

Safe beside a running writer: data is written before the marker that names it, so in between it looks like garbage.
Three things stand before that. Files are listed before markers are read: what is committed meanwhile is seen as named.
Nothing younger than the grace period is touched, and a job commits within minutes of writing. And files are deleted
under the artefact's own lease (and that of compaction): a living writer keeps it, and the artefact is left alone; one
that was stopped and overtaken finds that out before it commits (Lease.check). `commit` looks for the data once more, so
what remains is a writer stopped between that look and its marker, for longer than the grace period: its readers are
told which marker to delete.

Safe to kill anywhere: a record that nobody needs goes before its files, other garbage is named by nobody, and the next
gc finds the rest.
"""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.commit import DataObject, Marker
from pipeline.artifacts.compacted import PREFIX, Place, places
from pipeline.artifacts.files import read_many, remove, remove_empty_folders, walk
from pipeline.artifacts.layout import parse_json
from pipeline.artifacts.lease import Lease

SNAPSHOTS = "snapshots"
COMPACTION = "compaction"  # the folder, in an artefact, of the lease of compaction
LOST, TEMPORARY, REPLACED = "lost attempts", "temporary files", "replaced by compaction"
KEPT = re.compile(r"about\.json|workspace\.json|lease\.json|lease\.\d+\.claim")
MARKER = re.compile(r"[a-z]+(-[a-z0-9]+)*\.json")
ATTEMPT = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Waste:
    """A file that can go: its path, bytes, and which kind of garbage it is."""

    path: Path
    size: int
    kind: str


class _Contents:
    """One artefact as its listing, its markers and its snapshots show it, in this order."""

    def __init__(self, folder: Path, before: float) -> None:
        self.folder, self.before = folder, before
        self.files = {str(stored.path): stored for stored in walk(folder)}
        self.named: dict[str, DataObject] = {}
        self.keepers: set[str] = set()  # markers and snapshots
        self.attempts: set[str] = set()  # folders of committed attempts, with all that is in them
        self.records: dict[str, list[Place]] = {}  # by number
        stored = [stored for stored in self.files.values() if self._may_name(stored.path)]
        for one, data in zip(stored, read_many([one.path for one in stored]), strict=True):
            if data is not None:
                self._take(one.path, parse_json(data, one.path))
        self.records = dict(sorted(self.records.items()))

    def stays(self, path: Path) -> bool:
        """Whether a file that nothing names is no garbage all the same."""
        committed = any(str(above) in self.attempts for above in path.parents)
        return committed or str(path) in self.keepers or bool(KEPT.fullmatch(path.name))

    def old(self, path: str) -> bool:
        return self.files[path].modified < self.before

    def newest(self, *, old: bool) -> dict[str, str]:
        """By sha256 of an object the compacted file that holds its rows, of the newest record (older than `before`)."""
        found: dict[str, str] = {}
        for path, held in self.records.items():
            if self.old(path) or not old:
                found |= {place.sha256: name for place in held if (name := self._there(place))}
        return found

    def _there(self, place: Place) -> str | None:
        path = str(self.folder / place.file.name)
        return path if path in self.files and self.files[path].size == place.file.size else None

    def _may_name(self, path: Path) -> bool:
        inside = path.parent.name
        if path.name.startswith("."):
            return False  # a temporary file, whole or not: what it was to become does not exist
        if path.parent != self.folder and (ATTEMPT.fullmatch(inside) or inside == COMPACTION):
            return False
        return inside == SNAPSHOTS or (bool(MARKER.fullmatch(path.name)) and not KEPT.fullmatch(path.name))

    def _take(self, path: Path, value: Mapping[str, Any]) -> None:
        pinned = path.parent.name == SNAPSHOTS
        markers = [Marker.from_json(item, str(path)) for item in (value["shards"] if pinned else [value])]
        home = path.parent.parent if pinned else path.parent
        if path.name.startswith(PREFIX):
            self.records[str(path)] = places(markers[0])
            return
        for marker in markers:
            self.attempts.add(str(home / marker.attempt))
            named = (*marker.objects, *([marker.quarantine] if marker.quarantine else ()))
            self.named |= {str(home / obj.name): obj for obj in named}
        self.keepers.add(str(path))


def garbage(folder: Path, before: float) -> list[Waste]:
    """What can go from the artefact in `folder`, of files written last before the time `before` (seconds since 1970).

    Sorted so that a kill between two deletions leaves nothing that looks whole and is not.
    """
    contents = _Contents(folder, before)
    needed = {obj.sha256 for obj in contents.named.values()}
    old, newest = contents.newest(old=True), contents.newest(old=False)
    held = {found[sha256] for found in (old, newest) for sha256 in needed & found.keys()}
    records = {path: {str(folder / place.file.name) for place in found} for path, found in contents.records.items()}
    dead = {path for path, files in records.items() if contents.old(path) and not files & held}
    known = {path for files in records.values() for path in files}
    found = []
    for path, stored in contents.files.items():
        kind = None
        if path in contents.named:
            kind = REPLACED if contents.named[path].sha256 in old else None
        elif path in records or path in known:
            kind = REPLACED if path in dead or (path in known - held) else None
        elif not contents.stays(stored.path):
            kind = TEMPORARY if stored.path.name.startswith(".") else LOST
        if kind is not None and contents.old(path):
            found.append(Waste(stored.path, stored.size, kind))
    return sorted(found, key=lambda waste: (waste.path.suffix != ".json", str(waste.path)))


def collect(folder: Path, before: float, owner: str, *, duration: float = 30.0, renew: float = 10.0) -> list[Waste]:
    """Delete the garbage of one artefact; returns what went. JobError where a living job writes there."""
    if not garbage(folder, before):
        return []
    with ExitStack() as stack:
        leases = [
            stack.enter_context(Lease(place, owner, duration=duration, renew=renew))
            for place in (folder, folder / COMPACTION)
        ]
        gone = garbage(folder, before)  # again: what was listed before the lease was ours may have been committed
        for waste in gone:
            for lease in leases:
                lease.check()
            remove(waste.path)
    for inside in {waste.path.parent for waste in gone} - {folder}:
        remove_empty_folders(inside)
    return gone


def remove_artefact(folder: Path, owner: str, *, duration: float = 30.0, renew: float = 10.0) -> None:
    """Delete a whole artefact under its lease. JobError where a living job writes there.

    Markers go first: from then on it does not exist, and a kill leaves garbage. The lease goes last.
    """
    with Lease(folder, owner, duration=duration, renew=renew) as lease:
        stored = sorted(walk(folder), key=lambda one: one.path.suffix != ".json" or one.path.name == "about.json")
        for one in stored:
            if one.path.parent != folder or not one.path.name.startswith("lease."):
                lease.check()
                remove(one.path)
    # Ours alone: somebody who begins to make it again has a lease by now.
    for name in ("lease.json", f"lease.{lease.epoch:08d}.claim"):
        remove(folder / name)
    remove_empty_folders(folder)
