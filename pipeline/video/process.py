"""A child process that answers messages, one request at a time, each with a deadline, and can be killed."""

import contextlib
import fcntl
import mmap
import os
import resource
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
START_SECONDS = 120.0
_KILL_SECONDS = 10.0
_TAIL_BYTES = 2000
_PIPE_BYTES = 1 << 20  # the most that a user may ask of Linux; 64 KiB otherwise
_PIPE_PAGES = Path("/proc/sys/fs/pipe-user-pages-soft")  # of all pipes of a user
_BY_US = "killed by us"


# No single wait charges more than this: what goes beyond is a pause of this very process, stopped or suspended.
_SLICE_SECONDS = 0.5
_MOST_CHARGED = 1.0

# How a decoder ends by its own fault. Other signals come from somebody else, or (SIGALRM) tell that this process slept.
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


class Overrun(Exception):
    """The child did not answer in time and was killed."""


class Gone(Exception):
    """The child ended before it answered, as `ending` says; `tail` is the end of what it wrote to stderr."""

    def __init__(self, ending: str, tail: str) -> None:
        super().__init__(ending)
        self.ending, self.tail = ending, tail

    @property
    def from_outside(self) -> bool:
        """Whether somebody else ended it: the system without memory, a terminated job, an operator."""
        return self.ending.startswith("signal ") and self.ending.removeprefix("signal ") not in _CRASHES


class _Clock:
    """Seconds left, of which pauses of this process take nothing."""

    def __init__(self, seconds: float) -> None:
        self.left, self._read = seconds, time.monotonic()

    def charge(self) -> None:
        now = time.monotonic()
        self.left -= min(now - self._read, _MOST_CHARGED)
        self._read = now


class ChildProcess:
    """`python -m MODULE ARGUMENTS`, started at once; it says that it is ready with a first message.

    JobError where it does not start, Gone where it is killed meanwhile. Only one thread at a time may use it.
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
        _widen(self._stdout)
        self._listening = True
        self._expect_ready(module)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def ask(self, request: dict[str, Any], seconds: float) -> Message:
        """The answer to a request. Overrun after `seconds`, Gone where the child dies or is stopped: it is ended then.

        The time in which this process itself is stopped or suspended does not count.
        """
        clock = _Clock(seconds)
        self._tail = b""
        try:
            self._write(encode(request), clock)
            return receive(partial(self._read, clock=clock))
        except (BrokenPipeError, EOFError) as error:
            raise Gone(self.kill(), self.tail()) from error
        except TimeoutError as error:
            stopped = self._stopped()
            ending = self.kill()
            if stopped:
                raise Gone("signal SIGSTOP", self.tail()) from error
            raise (Overrun(self.tail()) if ending == _BY_US else Gone(ending, self.tail())) from error

    def alive(self) -> bool:
        """False once the child has ended, for whatever reason."""
        return self._process.poll() is None

    def resident(self) -> int:
        """Bytes of memory that the child holds; 0 where the system does not tell."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):  # no such system, or the process is gone
            return 0

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
            receive(partial(self._read, clock=_Clock(START_SECONDS)))
        except (EOFError, TimeoutError) as error:
            gone = Gone(self.kill(), self.tail())
            if gone.from_outside:
                raise gone from error
            raise JobError(f"python -m {module} did not start ({gone.ending}): {gone.tail}") from error

    def _pipes(self) -> list[IO[bytes]]:
        pipes = [self._process.stdin, self._process.stdout, self._process.stderr]
        return [pipe for pipe in pipes if pipe is not None]

    def _write(self, parts: Sequence[memoryview], clock: _Clock) -> None:
        for part in parts:
            left = part.cast("B")
            while left:
                self._await(self._stdin, select.POLLOUT, clock)
                left = left[os.write(self._stdin, left) :]

    def _read(self, size: int, clock: _Clock) -> bytearray:
        data, done = bytearray(size), 0
        while done < size:
            self._await(self._stdout, select.POLLIN, clock)
            count = os.readv(self._stdout, [memoryview(data)[done:]])
            if not count:
                raise EOFError
            done += count
        return data

    def _await(self, pipe: int, event: int, clock: _Clock) -> None:
        """Wait until the pipe is ready; meanwhile take what the child writes to stderr, or it would block."""
        while True:
            poll = select.poll()  # not select(): a worker may have more than 1024 open files
            poll.register(pipe, event)
            if self._listening:
                poll.register(self._stderr, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(1000 * max(0.0, min(clock.left, _SLICE_SECONDS)))}
            clock.charge()
            if self._stderr in ready:
                self._drain()
            if pipe in ready:
                return
            if clock.left <= 0:
                raise TimeoutError

    def _drain(self) -> None:
        try:
            chunk = os.read(self._stderr, 1 << 20) if self._listening else b""
        except BlockingIOError:
            return
        self._listening = bool(chunk)
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]

    def _stopped(self) -> bool:
        """Whether somebody stopped the child (SIGSTOP), so that it could not answer."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][:1] in ("T", "t")
        except OSError:  # no such system, or the process is gone
            return False

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


def _widen(pipe: int) -> None:
    """Room for a video's frames where the system grants it: each time that a pipe is full, two processes change places
    on cores that are busy with the teacher."""
    with contextlib.suppress(OSError, AttributeError, ValueError):  # beyond what one user may have; not Linux
        room = _room(int(_PIPE_PAGES.read_text()), os.cpu_count() or 1)
        if room > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, room)


def _room(pages: int, decoders: int) -> int:
    """Bytes for each of so many pipes, together at most a quarter of a user's `pages` (0: no limit): past that all new
    pipes of the user, whatever they are for, would get two pages."""
    return min(_PIPE_BYTES, pages * mmap.PAGESIZE // (4 * decoders)) if pages else _PIPE_BYTES


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """One thread per library, and this very package importable."""
    home = str(Path(pipeline.__path__[0]).parent)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, **extra, "PYTHONPATH": os.pathsep.join(paths)}


def _ending(code: int | None) -> str:
    if code is None:
        return _BY_US
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
