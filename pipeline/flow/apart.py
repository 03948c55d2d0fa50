"""Work in a process of its own that ends with it: what it took of memory is given back whole.

Scanning 100,000 videos and comparing them with their plans takes some 150 MB for seconds. A driver that did so itself
would hold most of them for the days that follow: Python and Arrow give back little of what they once had.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipeline.errors import JobError, StagedKDError

Answer = TypeVar("Answer")


def apart(work: Callable[..., Answer], *arguments: Any) -> Answer:
    """`work(*arguments)`, all of which can be pickled, in a new process; its log records and errors come back.

    JobError where the process dies, or fails with an error that is not one of ours. It ends when this one does.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_main, args=(sender, logging.getLogger().level, work, arguments))
    process.start()
    sender.close()
    try:
        while True:
            said = receiver.recv()
            if isinstance(said, logging.LogRecord):
                logging.getLogger(said.name).handle(said)
            elif isinstance(said, StagedKDError):
                raise said
            else:
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
        process.join()


def _main(sender: Connection, level: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it reaches the parent, too, and that ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(_Through(sender))
    try:
        sender.send((work(*arguments),))
    except StagedKDError as error:
        sender.send(error)


def _end_with_parent() -> None:
    """Whatever it is at: a kill at any moment leaves nothing half-written."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Through(QueueHandler):
    """Log records as messages of the connection."""

    def __init__(self, sender: Connection) -> None:
        super().__init__(queue.SimpleQueue())  # not used
        self._sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        self._sender.send(record)
