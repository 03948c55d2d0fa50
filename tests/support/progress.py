"""What the files of a workspace say about a running precompute, shard by shard, and when to stop and look.

The states of one shard, in the order of the commit protocol:

    parts     micro-batches of frames are written, no marker names them
    frames    the frames are committed, nothing of the targets is there
    written   … and the targets' data object is there, without a marker
    done      both are committed
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import alive, send, stopped

PARTS, FRAMES, WRITTEN, DONE = "parts", "frames", "written", "done"


@dataclass(frozen=True)
class Sight:
    """One look: states by (frames key, shard), parts on disk, hidden temporaries, and who holds a lease."""

    shards: dict[tuple[str, str], str] = field(default_factory=dict)
    parts: int = 0
    hidden_frames: int = 0
    hidden_targets: int = 0
    owners: frozenset[str] = frozenset()

    def count(self, state: str) -> int:
        return Counter(self.shards.values())[state]

    def __str__(self) -> str:
        counts = Counter(self.shards.values())
        told = [f"{counts[state]} {state}" for state in (PARTS, FRAMES, WRITTEN, DONE) if counts[state]]
        told += [f"{self.hidden_frames} hidden beside frames"] * bool(self.hidden_frames)
        told += [f"{self.hidden_targets} hidden beside targets"] * bool(self.hidden_targets)
        return f"{', '.join(told) or 'nothing yet'}; {self.parts} parts; lease {'held' if self.owners else 'free'}"


class Watcher:
    """Looks into one workspace; a look costs a few directory listings."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._frames_of: dict[str, str] = {}

    def look(self) -> Sight:
        """Targets are listed before frames: a marker that comes in between makes a shard look further, never behind."""
        targets = {name: _listing(self.store / "targets" / name) for name in _listing(self.store / "targets")}
        frames = {name: _listing(self.store / "frames" / name) for name in _listing(self.store / "frames")}
        shards: dict[tuple[str, str], str] = {}
        for key, names in frames.items():
            shards |= {(key, shard): PARTS for shard in _shards(names, ".part-")}
            shards |= {(key, shard): FRAMES for shard in _markers(names)}
        for key, names in ((key, names) for key, names in targets.items() if "about.json" in names):
            source = self._frames(key)
            shards |= {(source, shard): WRITTEN for shard in _shards(names, ".")}
            shards |= {(source, shard): DONE for shard in _markers(names)}
        return Sight(
            shards,
            sum(".part-" in name and name[0] != "." for names in frames.values() for name in names),
            _hidden(frames),
            _hidden(targets),
            frozenset(owner for key in targets if (owner := _owner(self.store / "targets" / key))),
        )

    def _frames(self, targets: str) -> str:
        if targets not in self._frames_of:
            about = json.loads((self.store / "targets" / targets / "about.json").read_text())
            self._frames_of[targets] = str(about["inputs"]["frames"])
        return self._frames_of[targets]


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _shards(names: list[str], sign: str) -> set[str]:
    """Shards of which a data object is there: `shard-00000003.<attempt>.parquet`, with `sign` behind the shard."""
    found = [name for name in names if name.endswith(".parquet") and ".quarantine." not in name and name[0] != "."]
    return {name.partition(".")[0] for name in found if name.partition(".")[2] and sign in name}


def _markers(names: list[str]) -> set[str]:
    return {name.removesuffix(".json") for name in names if name.startswith("shard-") and name.endswith(".json")}


def _hidden(folders: dict[str, list[str]]) -> int:
    return sum(name.startswith(".shard-") for names in folders.values() for name in names)


def _owner(folder: Path) -> str | None:
    """Who holds the lease on a folder, None where nobody does."""
    try:
        record = json.loads((folder / "lease.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return None if record["released"] else str(record["owner"])


def strobe(pid: int, look: Callable[[], Sight], wanted: Callable[[Sight], bool], *, flash: float = 0.002) -> Sight:
    """Let a process run for `flash` seconds at a time and look while it stands still; leaves it stopped at the first
    sight that is wanted. So no state is too short to be met. AssertionError where the process ended before."""
    while alive(pid):
        send(pid, signal.SIGSTOP)
        while alive(pid) and not stopped(pid):
            time.sleep(0.0002)
        sight = look()
        if wanted(sight):
            return sight
        send(pid, signal.SIGCONT)
        time.sleep(flash)
    raise AssertionError("the process ended before the state was seen")
