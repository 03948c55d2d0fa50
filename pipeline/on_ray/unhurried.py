"""Keeps the driver, and what reads from it, from looking for finished work more often than it pays.

Ray Data 2.60 runs through its whole scheduling loop ten times a second even where nothing happens, which takes several
percent of a slow core for ever. Between two looks this pauses for most of the time that usually goes by between two
finished tasks. An actor has a second task waiting, so that none is idle for it, not even a single one; where tasks
finish all the time, there is no pause to speak of. Whoever reads the rows looks a hundred times a second while there
are none: some 8 ms of a processor in every second.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ray.data import DataContext
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback

SHARE = 0.75  # of the mean time between finished tasks
LONGEST = 1.0  # seconds
LOOK = 0.1  # seconds between two looks of the reader; rows that came meanwhile are all taken at the next
MEMORY = 0.9  # of the mean's past, at each new finish that came later than it; an earlier one counts at once


class Unhurried(ExecutionCallback):
    """Called by Ray Data at every step of its scheduling loop."""

    def __init__(self) -> None:
        self._finished = 0
        self._seen: float | None = None
        self._between = 0.0

    def on_execution_step(self, executor: Any) -> None:
        """`executor`: Ray's; its topology maps operators to their states."""
        states = (getattr(executor, "_topology", None) or {}).values()
        time.sleep(self.pause(sum(state.num_completed_tasks for state in states), time.monotonic()))

    def pause(self, finished: int, now: float) -> float:
        """Seconds to wait, where so many tasks are finished at the second `now`."""
        if finished > self._finished:
            if self._seen is not None:
                fresh = (now - self._seen) / (finished - self._finished)
                self._between = min(fresh, MEMORY * self._between + (1.0 - MEMORY) * fresh)
            self._finished, self._seen = finished, now
        return min(LONGEST, SHARE * self._between)


def do_not_hurry(context: DataContext) -> None:
    """Register the callback for executions under this context, once."""
    if Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Unhurried)


class _Clock:
    """The module `time`, but for short sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(max(LOOK, seconds))


@contextlib.contextmanager
def unhurried_reader() -> Iterator[None]:
    """For graphs that are read meanwhile; the reader's loop has the only sleep of its module."""
    module: Any = streaming_executor_state
    module.time = _Clock()
    try:
        yield
    finally:
        module.time = time
