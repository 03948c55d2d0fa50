"""Arms that take turns on the cores: all others are stopped, so that a machine that slows down slows every arm alike.

Each arm is a tree of processes. In every cycle each has one turn; what counts as an arm's time is its own turns.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from jobs.bench.processes import tree


def pause(root: int) -> None:
    """SIGSTOP for `root` and all its descendants, those that are started meanwhile among them."""
    stopped: set[int] = set()
    while fresh := tree(root).keys() - stopped:
        _send_all(fresh, signal.SIGSTOP)
        stopped |= fresh


def resume(root: int) -> None:
    """Let `root` and its descendants go on."""
    _send_all(tree(root).keys(), signal.SIGCONT)


class Turns:
    """Turns of `seconds` each, or a part of that. An arm may have several trees (workers without a common parent)."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._parts: dict[str, float] = {}
        self._roots: dict[str, list[int]] = {}
        self._had: dict[str, list[tuple[float, float]]] = {}
        self._now: tuple[str, float] | None = None

    def add(self, arm: str, *roots: int, part: float = 1.0) -> None:
        """Pause the arm until its first turn; it has `part` of a turn each time."""
        self._roots[arm], self._had[arm], self._parts[arm] = list(roots), [], part
        for root in roots:
            pause(root)

    def run(self, going: Callable[[str], bool], awaited: tuple[str, ...]) -> None:
        """Cycles until none of the `awaited` arms is going any more; an arm that is not has no further turn."""
        while any(map(going, awaited)):
            for arm in self._roots:
                if going(arm) and any(map(going, awaited)):
                    with self.turn(arm):
                        until = time.monotonic() + self.seconds * self._parts[arm]
                        while going(arm) and (left := until - time.monotonic()) > 0:
                            time.sleep(min(0.1, left))

    def until(self, arm: str, done: Callable[[], bool]) -> None:
        """One turn that takes as long as it takes: what starts (Ray, most of all) gives up where it is paused."""
        with self.turn(arm):
            while not done():
                time.sleep(0.1)

    @contextlib.contextmanager
    def turn(self, arm: str) -> Iterator[None]:
        """The arm works, and the time counts as its own."""
        began = time.time()
        self._now = arm, began
        for root in self._roots[arm]:
            resume(root)
        try:
            yield
        finally:
            for root in self._roots[arm]:
                pause(root)
            self._had[arm].append((began, time.time()))
            self._now = None

    def active(self, arm: str, begin: float, end: float) -> float:
        """Seconds of the arm's own turns between two moments of time.time()."""
        had = list(self._had[arm])
        if self._now is not None and self._now[0] == arm:
            had.append((self._now[1], time.time()))
        return sum(max(0.0, min(end, last) - max(begin, first)) for first, last in had)

    def release(self) -> None:
        """Let everything go on, to its end."""
        for roots in self._roots.values():
            for root in roots:
                resume(root)


def _send_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
