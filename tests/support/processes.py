"""The processes of a running precompute, found in /proc: driver, decode children, actors, the raylet of a session.

Ray's workers belong to their node, not to the driver: they are told apart by the session and the job's number, which
stand in the path of the log that a worker writes to and in that of the driver's own log.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

CHILD = "pipeline.video.child"
MAP_WORKER = "ray::MapWorker"
T = TypeVar("T")
_DRIVER_LOG = re.compile(r"(.*)/python-core-driver-([0-9a-f]{8})f{48}_(\d+)\.log")
_WORKER_LOG = re.compile(r"(.*)/worker-[0-9a-f]+-([0-9a-f]{8})-\d+\.(out|err)")
Job = tuple[str, str]


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def command(pid: int) -> str:
    """The command line, '' for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """The parent's process id, 0 for a process that is gone."""
    return int((_stat(pid) or ["", "0"])[1])


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    return (_stat(pid) or ["X"])[0] not in "ZX"


def stopped(pid: int) -> bool:
    return (_stat(pid) or [""])[0] == "T"


def ticks(pid: int) -> int:
    """The processor time that it used so far, in clock ticks."""
    found = _stat(pid)
    return int(found[11]) + int(found[12]) if found else 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def children(pid: int) -> list[int]:
    return [each for each in pids() if parent(each) == pid]


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [each for child in found for each in descendants(child)]


def job_of(driver: int) -> Job | None:
    """The driver's Ray session and the number of its job, None before it joined."""
    for name in _open_files(driver):
        match = _DRIVER_LOG.search(name)
        if match and int(match[3]) == driver:
            return match[1], match[2]
    return None


def _open_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
    except OSError:
        return []


class Cast:
    """Who can be killed in the run of one driver."""

    def __init__(self, driver: int) -> None:
        self.driver = driver

    def workers(self) -> list[int]:
        """Map workers of this driver's graph that are alive."""
        job = job_of(self.driver)
        workers = [pid for pid in pids() if command(pid).startswith(MAP_WORKER) and alive(pid)]
        return [pid for pid in workers if job is not None and _job_of_worker(pid) == job]

    def decode_children(self) -> list[int]:
        mine = set(self.workers())
        return [pid for pid in pids() if parent(pid) in mine and CHILD in command(pid) and alive(pid)]

    def decode_actors(self) -> list[int]:
        return sorted({parent(pid) for pid in self.decode_children()} - {0})

    def teacher_actors(self) -> list[int]:
        """The other map workers; only meaningful once every decode actor has its child."""
        decoders = set(self.decode_actors())
        return [pid for pid in self.workers() if pid not in decoders] if decoders else []

    def raylets(self) -> list[int]:
        """The node of the driver's own session; none where it joined another's."""
        return [pid for pid in descendants(self.driver) if "/raylet/raylet" in command(pid).split(" ")[0]]


def _job_of_worker(pid: int) -> Job | None:
    matches = (_WORKER_LOG.search(name) for name in _open_files(pid))
    return next(((match[1], match[2]) for match in matches if match), None)


def wait_for(seen: Callable[[], T], what: str, *, timeout: float = 300, pause: float = 0.1) -> T:
    """What `seen()` gives as soon as that is true. AssertionError after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (found := seen()):
        assert time.monotonic() < until, f"not seen within {timeout:g} s: {what}"
        time.sleep(pause)
    return found


def send(pid: int, number: int = signal.SIGKILL) -> bool:
    """Whether the process was still there to be sent the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
