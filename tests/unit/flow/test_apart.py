"""Work in a process of its own: answers, log records and errors come back, and it ends with its parent."""

import atexit
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError, JobError
from pipeline.flow.apart import apart

LOG = logging.getLogger("tests.apart")


def answer(number: int) -> tuple[int, int]:
    LOG.info("asked for %d", number)
    LOG.debug("too much")
    return number + 1, os.getpid()


def refused() -> None:
    raise InputError("no such folder; name another")


def refused_and_slow_to_leave() -> None:
    atexit.register(time.sleep, 3)
    raise InputError("no such folder")


def broken() -> None:
    raise ZeroDivisionError


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def endless(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(600)


def with_a_child(note: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).write_text(str(child.pid))
    time.sleep(600)


def held(note: str) -> None:
    """As a lease is: taken, and given back on the way out."""
    Path(note).write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        Path(note + ".returned").touch()


def chatty() -> None:
    logging.getLogger("tests.apart.silenced").info("of no interest")


def test_answer_and_log_come_from_another_process(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        number, pid = apart(answer, 4)
    assert number == 5
    assert pid != os.getpid()
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("tests.apart", "asked for 4")]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_our_errors_come_back_as_they_are() -> None:
    with pytest.raises(InputError, match="no such folder; name another"):
        apart(refused)


def test_a_process_that_is_ended_while_it_leaves_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no such folder"):
        apart(refused_and_slow_to_leave)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("work", "code"), [(broken, 1), (killed, -9)])
def test_a_process_that_dies_is_a_failed_job(work: object, code: int) -> None:
    with pytest.raises(JobError, match=f"ended with code {code} "):
        apart(work)  # type: ignore[arg-type]


def test_levels_of_loggers_here_hold_for_what_is_said_there(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), caplog.at_level(logging.WARNING, "tests.apart.silenced"):
        apart(chatty)
    assert not caplog.records


@pytest.mark.parametrize("work", ["endless", "with_a_child"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_and_its_children_end_with_its_parent(work: str, how: signal.Signals, tmp_path: Path) -> None:
    parent, child = _start(work, tmp_path / "pid")
    parent.send_signal(how)
    parent.wait(60)
    assert _wait_for(lambda: not _lives(child))


def test_it_may_give_back_what_it_holds_when_its_parent_is_interrupted(tmp_path: Path) -> None:
    parent, child = _start("held", tmp_path / "pid")
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    assert not _lives(child)
    assert (tmp_path / "pid.returned").exists()


def _start(work: str, note: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """A parent that has `work` done apart, and the process that `work` wrote down."""
    code = f"from pipeline.flow.apart import apart; from tests.unit.flow.test_apart import {work} as work"
    # What runs in the background of a script ignores Ctrl-C, and so do its children.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    parent = subprocess.Popen([sys.executable, "-c", f"{code}; {heeds}; apart(work, {str(note)!r})"])
    return parent, _wait_for(lambda: int(note.read_text()))


def _lives(pid: int) -> bool:
    """Neither ended nor a zombie that nobody has asked for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for(look: object) -> int:
    for _ in range(600):
        try:
            if found := look():  # type: ignore[operator]
                return int(found)
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError("a minute went by")
