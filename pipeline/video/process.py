"""A child process that answers messages, one request at a time, each with a deadline, and can be killed."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pipeline
from pipeline.errors import JobError
from pipeline.video.wire import Message, encode, receive

# Loading Python and NumPy takes 0.2 s, on a crowded machine many times that; it is not charged to a video.
_START_SECONDS = 120.0
_KILL_SECONDS = 10.0
_TAIL_BYTES = 2000


class Overrun(Exception):
    """The child did not answer in time."""


class Gone(Exception):
    """The child ended before it answered."""


class ChildProcess:
    """`python -m MODULE ARGUMENTS`, started at once; it says that it is ready with a first message.

    JobError where it does not start. Only one thread at a time may use it.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._tail = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(environment),
        )
        for pipe in self._pipes():
            os.set_blocking(pipe.fileno(), False)
        self._stdin, self._stdout, self._stderr = (pipe.fileno() for pipe in self._pipes())
        self._listening = True
        self._expect_ready(module)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def ask(self, request: dict[str, Any], seconds: float) -> Message:
        """The answer to a request. Overrun after `seconds`, Gone where the child dies: kill it then."""
        until = time.monotonic() + seconds
        self._tail = b""
        self._write(encode(request), until)
        return receive(partial(self._read, until=until))

    def alive(self) -> bool:
        """False once the child has ended, for whatever reason."""
        return self._process.poll() is None

    def tail(self) -> str:
        """The end of what the child wrote to stderr during the last request."""
        return self._tail.decode(errors="replace").strip()

    def kill(self) -> str:
        """End the child with SIGKILL; tells how it ended: `killed by us`, `signal SIGABRT`, `exit code 3`."""
        code = self._process.poll()
        if code is None and self._closed_stdout():
            code = self._wait(_KILL_SECONDS)
        self._process.kill()
        self._wait(_KILL_SECONDS)
        self._drain()
        for pipe in self._pipes():
            pipe.close()
        return _ending(code)

    def _expect_ready(self, module: str) -> None:
        try:
            receive(partial(self._read, until=time.monotonic() + _START_SECONDS))
        except (Overrun, Gone) as error:
            ending = self.kill()
            raise JobError(f"python -m {module} did not start ({ending}): {self.tail()}") from error

    def _pipes(self) -> list[IO[bytes]]:
        pipes = [self._process.stdin, self._process.stdout, self._process.stderr]
        return [pipe for pipe in pipes if pipe is not None]

    def _write(self, parts: Sequence[memoryview], until: float) -> None:
        for part in parts:
            left = part.cast("B")
            while left:
                self._await(self._stdin, select.POLLOUT, until)
                try:
                    left = left[os.write(self._stdin, left) :]
                except BrokenPipeError as error:
                    raise Gone from error

    def _read(self, size: int, until: float) -> bytearray:
        data, done = bytearray(size), 0
        while done < size:
            self._await(self._stdout, select.POLLIN, until)
            count = os.readv(self._stdout, [memoryview(data)[done:]])
            if not count:
                raise Gone
            done += count
        return data

    def _await(self, pipe: int, event: int, until: float) -> None:
        """Wait until the pipe is ready; meanwhile take what the child writes to stderr, or it would block."""
        while True:
            poll = select.poll()  # not select(): a worker may have more than 1024 open files
            poll.register(pipe, event)
            if self._listening:
                poll.register(self._stderr, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
            if self._stderr in ready:
                self._drain()
            if pipe in ready:
                return
            if not ready:
                raise Overrun

    def _drain(self) -> None:
        while self._listening:
            try:
                chunk = os.read(self._stderr, 1 << 16)
            except BlockingIOError:
                return
            self._listening = bool(chunk)
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]

    def _closed_stdout(self) -> bool:
        poll = select.poll()
        poll.register(self._stdout, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def _wait(self, seconds: float) -> int | None:
        """The exit code; None where the process cannot be ended, as in a system call on dead storage."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """One thread per library, and this very package importable."""
    home = str(Path(pipeline.__path__[0]).parent)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, **extra, "PYTHONPATH": os.pathsep.join(paths)}


def _ending(code: int | None) -> str:
    if code is None:
        return "killed by us"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
