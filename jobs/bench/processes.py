"""Processor time and memory of a driver and all that it started, read from /proc (Linux) while they run.

Kinds: driver; scan and plans (a process of its own in the first seconds); decode actor (a process that has a decode
child); decode child; teacher actor (another worker of Ray); ray (raylet, control store, dashboard, idle workers).
Shared memory (the object store) is counted apart.

Two measures of memory. A process's own: a page that n processes map counts one n-th, so that sums over processes are
right; but it moves as others come and go. Its most: the kernel's high-water mark, which no other process moves and of
which only what comes after a process's last reading is missed; whether one process grows is told by that.
"""

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
CHILD = "pipeline.video.child"
PLANNER = "multiprocessing.spawn"  # scan and plans: the only process that a driver starts so
STORE, WHOLE = "object store", "all together"


@dataclass(frozen=True)
class Process:
    """One line of the process table; `started` in seconds since boot, `cpu` in seconds."""

    pid: int
    parent: int
    started: float
    cpu: float
    command: str


@dataclass(frozen=True)
class Reading:
    """`second` on the clock of time.time(); bytes that belong to the process alone (its part of shared code included),
    its part of shared memory, and the most that it ever held (with whole shared pages)."""

    second: float
    cpu: float
    own: int
    shared: int
    most: int


def process(pid: int) -> Process | None:
    """None where it has ended."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return Process(pid, int(fields[1]), int(fields[19]) / TICK, ticks / TICK, command)


def tree(root: int) -> dict[int, Process]:
    """`root` and all its descendants that live now."""
    table = {found.pid: found for found in map(process, _pids()) if found is not None}
    children = defaultdict(list)
    for found in table.values():
        children[found.parent].append(found.pid)
    kept: dict[int, Process] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in table and pid not in kept:
            kept[pid] = table[pid]
            waiting += children[pid]
    return kept


def memory(pid: int) -> tuple[int, int, int]:
    """Bytes of own and of shared memory, each page divided by the number of processes that map it, and the high-water
    mark of resident memory; zeros once ended."""
    sizes = _sizes(pid, "smaps_rollup") | _sizes(pid, "status")
    shared = sizes.get("Pss_Shmem", 0)
    return sizes.get("Pss", 0) - shared, shared, sizes.get("VmHWM", 0)


def boot_time() -> float:
    """The second of time.time() at which the machine was started: `Process.started` counts from there."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Sampler:
    """Reads the tree of `root` each `every` seconds in a thread, from `start` to `stop`."""

    root: int
    every: float = 0.5
    with_memory: bool = True
    seen: dict[int, Process] = field(default_factory=dict)
    readings: dict[int, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> "Sampler":
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def kinds(self) -> dict[int, str]:
        """What each process that was seen is; an actor is known by the child it had."""
        with_child = {found.parent for found in self.seen.values() if CHILD in found.command}
        return {pid: _kind(found, self.root, with_child) for pid, found in self.seen.items()}

    def cpu(self, begin: float, end: float) -> dict[str, float]:
        """Processor seconds per kind between two moments of time.time(); what came before a first reading is missed."""
        used: dict[str, float] = defaultdict(float)
        kinds = self.kinds()
        for pid, readings in self.readings.items():
            inside = [reading.cpu for reading in readings if begin <= reading.second <= end]
            before = [reading.cpu for reading in readings if reading.second < begin]
            used[kinds[pid]] += (inside[-1] - (before[-1] if before else 0.0)) if inside else 0.0
        return dict(used)

    def peaks(self, begin: float = 0.0, end: float = float("inf")) -> dict[str, int]:
        """Largest memory in bytes of any one process of each kind between two moments, of the object store, and of all
        processes together with it at one moment."""
        kinds = self.kinds()
        peaks: dict[str, int] = defaultdict(int)
        store: dict[float, int] = defaultdict(int)
        whole: dict[float, int] = defaultdict(int)
        for pid, readings in self.readings.items():
            for reading in readings:
                if begin <= reading.second <= end:
                    store[reading.second] += reading.shared
                    whole[reading.second] += reading.shared + reading.own
                    peaks[kinds[pid]] = max(peaks[kinds[pid]], reading.own)
        return dict(peaks) | ({STORE: max(store.values()), WHOLE: max(whole.values())} if store else {})

    def most(self) -> dict[str, int]:
        """Largest high-water mark in bytes of any one process of each kind."""
        kinds, most = self.kinds(), defaultdict[str, int](int)
        for pid, readings in self.readings.items():
            most[kinds[pid]] = max(most[kinds[pid]], *(reading.most for reading in readings))
        return dict(most)

    def _loop(self) -> None:
        while not self._ended.wait(self.every):
            now = time.time()
            for pid, found in tree(self.root).items():
                known = self.seen.get(pid)
                if known is None or not _idle(found.command):  # Ray names its workers as they get work
                    self.seen[pid] = found
                held = memory(pid) if self.with_memory else (0, 0, 0)
                self.readings[pid].append(Reading(now, found.cpu, *held))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def _sizes(pid: int, name: str) -> dict[str, int]:
    """The lines of a file of /proc that end in kB, in bytes; none once the process has ended."""
    try:
        lines = (PROC / str(pid) / name).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def _idle(command: str) -> bool:
    return not command or command.startswith("ray::IDLE")


def _kind(found: Process, root: int, with_child: set[int]) -> str:
    if found.pid == root:
        return "driver"
    if CHILD in found.command:
        return "decode child"
    if PLANNER in found.command:
        return "scan and plans"
    if found.pid in with_child:
        return "decode actor"
    return "teacher actor" if found.command.startswith("ray::MapWorker") else "ray"
