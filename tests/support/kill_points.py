"""Processes that are killed at the n-th operation of the commit protocol (protocol.py), and what stands after a second.

    python -m tests.support.kill_points '{"base": FOLDER-or-ADDRESS, "numbers": [1, 2], "looks": true, "lease": 0.05}'

For every n: a fresh copy of the prepared artefacts, a forked child that does the work and kills itself (SIGKILL) at its
n-th operation on the store, a second child that does the same work again and says what stands then. One line of JSON
each: n, where it was killed, and how what stands differs from an undisturbed run. Python and pyarrow are imported once;
this process itself starts no thread and reads no table.
"""

import gc
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts.places import is_remote, place
from tests.support.protocol import ARTEFACTS, clean, prepare, state, work

CHANGES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
LOOKS = {"os.listdir", "os.scandir"}


def changes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an operation is about to change a folder: no look, and what it makes or removes is not so already."""
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if event in ("os.mkdir", "os.remove"):
        return os.path.exists(arguments[0]) == (event == "os.remove")
    return event not in LOOKS


class Killed:
    """Kills this process at its n-th operation below a folder (audit events of Python), or at its n-th event of
    requests to an object store (before one is sent, and when its answer is there but nobody has seen it).

    `looks` counts operations that change nothing, too: in a folder the same stands before each of them as before the
    next change. `torn`: a temporary file that the operation is about is cut to half first, as if the writer had died
    in the middle.
    """

    def __init__(self, base: Path, at: int, *, looks: bool = True, torn: bool = False, tell: int = 2) -> None:
        self.base, self.at, self.looks, self.torn, self.tell, self.count = str(base), at, looks, torn, tell, 0

    def arm(self) -> None:
        if is_remote(self.base):
            self._arm_requests()
        else:
            sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES | LOOKS or not str(arguments[0]).startswith(self.base):
            return
        if self.looks or changes(event, arguments):
            self._step(f"{event} {str(arguments[0]).removeprefix(self.base)}", str(arguments[0]))

    def _arm_requests(self) -> None:
        from aiobotocore.session import AioSession

        original, killer = AioSession.__init__, self

        def counted(session: Any, *arguments: Any, **named: Any) -> None:
            original(session, *arguments, **named)
            session.register("before-send.s3", killer._before)
            session.register("response-received.s3", killer._after)

        AioSession.__init__ = counted

    def _before(self, request: Any, **rest: Any) -> None:
        self._step(f"before {request.method} {str(request.url).partition('?')[0].rpartition('/bkt/')[2]}", "")

    def _after(self, **rest: Any) -> None:
        self._step("answered", "")

    def _step(self, what: str, path: str) -> None:
        self.count += 1
        if self.count == self.at:
            os.write(self.tell, what.encode())
            # Once it is linked to its name it is no temporary file any more, but the thing itself.
            if self.torn and path.endswith(".tmp") and os.path.exists(path) and os.stat(path).st_nlink == 1:
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def forked(job: Callable[[int], None]) -> tuple[int, bytes]:
    """Run `job` in a child of its own, with a pipe to write to; returns its status and what it wrote."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 1
        try:
            job(into)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


def undisturbed(base: Path, looks: bool) -> dict[str, Any]:
    """What stands after a run that nothing disturbs, and how many operations it made."""

    def job(into: int) -> None:
        killed = Killed(base, -1, looks=looks)
        killed.arm()
        prepare(base)
        killed.count = 0
        work(base, "undisturbed", duration=60, renew=30)
        os.write(into, json.dumps({"operations": killed.count, "state": state(base)}).encode())

    status, said = forked(job)
    assert status == 0, status
    return dict(json.loads(said))


def kill_at(base: Path, prepared: Path | None, number: int, looks: bool, lease: float) -> dict[str, Any]:
    """Kill a run at operation `number`, do its work again in another process; returns what stands then."""

    def first(into: int) -> None:
        killed = Killed(base, -1, looks=looks, torn=number % 2 == 1, tell=into)
        killed.arm()
        if prepared is None:
            prepare(base)
        killed.count, killed.at = 0, number
        work(base, f"killed at {number}", duration=60, renew=30)

    def second(into: int) -> None:
        work(base, "second", duration=lease, renew=lease * 0.7)
        clean(base, ARTEFACTS, "second", duration=lease, renew=lease * 0.7)  # the short scenario cleans frames alone
        os.write(into, json.dumps(state(base)).encode())

    if prepared is not None:
        shutil.copytree(prepared, base)
    status, where = forked(first)
    ended, said = forked(second)
    return {"n": number, "killed": status == signal.SIGKILL, "where": where.decode(), "status": ended} | (
        {"state": json.loads(said)} if ended == 0 else {}
    )


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{name}: {expected[name]} -> {found[name]}" for name in expected if expected[name] != found[name]]


def main(order: dict[str, Any]) -> None:
    """Kill at each of `numbers`; without them, only say what an undisturbed run does."""
    base, looks, lease = place(order["base"]), bool(order["looks"]), float(order["lease"])
    if is_remote(base):
        import s3fs  # noqa: F401  (imported once, before the forks)
    gc.freeze()  # or every child copies all pages in which the collector counts
    gc.disable()
    mine = base / f"run-{os.getpid()}"
    whole = undisturbed(mine / "undisturbed", looks)
    print(json.dumps(whole), flush=True)
    prepared = None
    if not is_remote(base) and order["numbers"]:
        prepared = mine / "prepared"
        assert forked(lambda into: prepare(prepared))[0] == 0
    for number in order["numbers"]:
        done = kill_at(mine / f"n{number}", prepared, number, looks, lease)
        wrong = differences(whole["state"], done.pop("state")) if "state" in done else ["the second run failed"]
        print(json.dumps(done | {"wrong": wrong}), flush=True)
        if not is_remote(base) and not wrong:
            shutil.rmtree(mine / f"n{number}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
