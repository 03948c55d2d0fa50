"""Work in a process of its own that ends with it: what it took of memory is given back whole.

Scanning 100,000 videos and comparing them with their plans takes some 150 MB for seconds. A driver that did so itself
would hold most of them for the days that follow: Python and Arrow give back little of what they once had.
"""

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipeline.errors import JobError, StagedKDError

Answer = TypeVar("Answer")
GRACE = 5.0  # seconds in which it may give back what it holds (leases)


def apart(work: Callable[..., Answer], *arguments: Any) -> Answer:
    """`work(*arguments)`, all of which can be pickled, in a new process; its log records and errors come back.

    JobError where the process dies, or fails with an error that is not one of ours. It ends when this one does, and
    what it started ends with it.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_main, args=(sender, logging.getLogger().level, work, arguments))
    process.start()
    pid = process.pid
    assert pid is not None
    sender.close()
    try:
        while True:
            said = receiver.recv()
            if isinstance(said, logging.LogRecord):
                _log(said)
            elif isinstance(said, StagedKDError):
                raise said
            else:
                process.join(GRACE)
                return said[0]
    except EOFError as error:
        process.join()
        raise JobError(
            f"the process for {work.__name__} ended with code {process.exitcode} (-9: killed, mostly for want of "
            "memory); the log says more, where it could; the same command goes on from what is done"
        ) from error
    finally:
        receiver.close()
        process.terminate()  # it has answered, or nobody waits for it any more
        process.join(GRACE)
        with contextlib.suppress(ProcessLookupError):  # it ended before it had a group, or nothing of it is left
            os.killpg(pid, signal.SIGKILL)
        process.kill()
        process.join()


def _log(record: logging.LogRecord) -> None:
    """As if it had been said here: this process knows the levels of its loggers."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _main(sender: Connection, level: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()  # Ctrl-C is the parent's to answer; and whatever this one starts can be ended with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leases are given back
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(_Through(sender))
    try:
        answer: Any = (work(*arguments),)
    except StagedKDError as error:
        answer = error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it holds nothing any more, and may be ended while it leaves
    sender.send(answer)


def _end_with_parent() -> None:
    """Whatever it is at: a kill at any moment leaves nothing half-written."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


class _Through(QueueHandler):
    """Log records as messages of the connection."""

    def __init__(self, sender: Connection) -> None:
        super().__init__(queue.SimpleQueue())  # not used
        self._sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        self._sender.send(record)
