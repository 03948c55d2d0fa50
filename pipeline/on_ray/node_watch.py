"""Notices that the Ray node under a driver died.

Ray itself ends such a driver within some 15 s, without a word that a user would understand and without giving anything
back; so the driver's main thread is told first.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from types import FrameType

from pipeline.errors import JobError

LOG = logging.getLogger(__name__)
# What the main thread has to leave its work and give back its leases.
GRACE = 8.0
MESSAGE = (
    "the Ray node of this machine (its raylet) died: killed by hand, or by the system when memory ran out; the same "
    "command goes on from what is committed"
)


class NodeWatch:
    """Holds a connection to the raylet's socket. When it breaks and nobody answers there any more, JobError is raised
    in the main thread; where that does not come to an end, the process ends with code 1.

    Does nothing in a driver that did not start it in its main thread.
    """

    def __init__(self, raylet: str) -> None:
        self.raylet, self.dead = raylet, False
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR2, _raise)
            threading.Thread(target=self._watch, name="node watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer: what Ray ends from now on is meant to end."""
        self._stopped.set()

    def _watch(self) -> None:
        while _outlived(self.raylet):
            pass
        if self._stopped.is_set():
            return
        self.dead = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        if not self._stopped.wait(GRACE):
            LOG.error("%s", MESSAGE)
            os._exit(JobError.exit_code)


def _outlived(raylet: str) -> bool:
    """Waits until a connection breaks; False where there was nobody to connect to."""
    with socket.socket(socket.AF_UNIX) as line:
        if line.connect_ex(raylet):
            return False
        with contextlib.suppress(ConnectionError):  # as good as an end
            line.recv(1)
    return True


def _raise(number: int, frame: FrameType | None) -> None:
    raise JobError(MESSAGE)
