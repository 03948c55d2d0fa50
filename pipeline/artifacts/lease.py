"""A lease on an artefact's folder, so that two jobs do not make the same thing. It only saves work: markers alone
(commit.py) decide what is right.

`lease.json` is the heartbeat of the present owner; `lease.<epoch>.claim`, created if absent, decides who becomes the
owner of an epoch. So of several jobs that find a dead owner exactly one takes over, and an owner that slept through its
epoch (a stopped process, a lost network) finds the next claim when it wakes. Nobody compares clocks: to find out
whether an owner lives one watches whether its heartbeat changes.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.artifacts.files import create_if_absent, listing, make_folder, read_if_present, remove, replace, size_of
from pipeline.artifacts.identity import canonical_json
from pipeline.artifacts.layout import read_json
from pipeline.errors import JobError

_LEAVING = 3.0  # seconds for a renewal that is under way


@dataclass(frozen=True)
class _State:
    """What a visitor sees: the highest claim (0: none yet) and the heartbeat of that epoch's owner."""

    claim: int
    owner: str
    beat: int | None
    released: bool

    @property
    def free(self) -> bool:
        return self.claim == 0 or self.released


class Lease:
    """`with Lease(folder, owner) as lease:` renews it in the background; `lease.check()` before commits.

    Entering: a free lease is taken at once. One that is held is watched for `duration` seconds: renewed meanwhile,
    JobError names its owner; not renewed, it is taken over with epoch + 1. `clock` counts seconds.
    """

    def __init__(
        self,
        folder: Path,
        owner: str,
        *,
        duration: float = 30.0,
        renew: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert 0 < renew < duration, f"renew {renew} s must be shorter than duration {duration} s"
        self.folder, self.owner = folder, owner
        self.duration, self.renew, self.clock = duration, renew, clock
        self.epoch = 0
        self._beat = 0
        self._seen: _State | None = None
        self._trouble: OSError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        make_folder(self.folder)
        self._acquire()
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"lease {self.owner}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LEAVING)
            if self._thread.is_alive() or self._trouble is not None:
                return  # the store is away: what is not renewed expires, and nobody has to wait for the store here
        if self._held():
            self._write(released=True)

    def check(self) -> None:
        """JobError where somebody took over: what this job has not committed by now it must not commit any more."""
        if not self._held():
            raise JobError(
                f"{self.folder}: the lease (epoch {self.epoch}) of {self.owner} was not renewed in time and "
                f"{self._state().owner or 'somebody'} took over; this job stops, what it committed stays"
            ) from self._trouble

    def look(self) -> None:
        """Watch whoever holds it now, so that entering need not: several leases are watched side by side and then
        entered in their order. JobError as on entering."""
        self._seen = self._watched()

    def _acquire(self) -> None:
        while True:
            state = self._watched()
            if create_if_absent(self._claim(state.claim + 1), self.owner.encode()):
                self.epoch = state.claim + 1
                self._write(released=False)
                self._remove_older_claims()
                return

    def _watched(self) -> _State:
        """What may be followed by the next epoch: who stands as he did after a whole watch is not watched again."""
        state = self._state()
        return state if state.free or state == self._seen else self._watch(state)

    def _watch(self, seen: _State) -> _State:
        """Returns once `seen` may be followed by the next epoch; JobError as soon as its owner shows that it lives."""
        end = self.clock() + self.duration
        while True:
            over = self.clock() >= end  # before the look, so that the last look is made after the whole time
            state = self._state()
            if state.free:
                return state
            if state != seen:
                raise JobError(
                    f"{self.folder} is being written by {state.owner} (lease epoch {state.claim}), which is alive. "
                    "Wait until it ends, or stop it; the same command then goes on from what is committed."
                )
            if over:
                return state
            time.sleep(self.duration / 40)

    def _state(self) -> _State:
        record = read_json(self.folder / "lease.json") or {}
        claims = [int(path.name.split(".")[1]) for path in listing(self.folder, "lease.*.claim")]
        claim = max([*claims, record.get("epoch", 0)])
        if record.get("epoch") == claim:
            return _State(claim, record["owner"], record["beat"], record["released"])
        owner = (read_if_present(self._claim(claim)) or b"").decode()
        return _State(claim, owner, None, False)

    def _held(self) -> bool:
        """The next claim first: it stands before ours is removed, and goes after ours. So whatever happens between the
        two looks (this process may be stopped there), one of them sees that ours was followed."""
        return size_of(self._claim(self.epoch + 1)) is None and size_of(self._claim(self.epoch)) is not None

    def _claim(self, epoch: int) -> Path:
        return self.folder / f"lease.{epoch:08d}.claim"

    def _write(self, released: bool) -> None:
        self._beat += 1
        record = {"owner": self.owner, "epoch": self.epoch, "beat": self._beat, "released": released}
        replace(self.folder / "lease.json", canonical_json(record).encode())

    def _remove_older_claims(self) -> None:
        """The oldest first. The owner of epoch n, stopped and woken, looks for claims n + 1 and n (_held): were n + 1
        removed before n, he would find his own alone, for good where this process is killed in between, and go on."""
        for path in listing(self.folder, "lease.*.claim"):  # sorted, and epochs have eight digits
            if path < self._claim(self.epoch):
                remove(path)

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self.renew):
            try:
                if not self._held():
                    return
                self._write(released=False)
                self._trouble = None
            except OSError as error:
                self._trouble = error  # the next round tries again; check() names it where the lease was lost by it
