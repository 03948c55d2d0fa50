"""Work in a process of its own: answers, log records and errors come back, and it ends with its parent."""

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


def broken() -> None:
    raise ZeroDivisionError


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def endless(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(600)


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


@pytest.mark.parametrize(("work", "code"), [(broken, 1), (killed, -9)])
def test_a_process_that_dies_is_a_failed_job(work: object, code: int) -> None:
    with pytest.raises(JobError, match=f"ended with code {code} "):
        apart(work)  # type: ignore[arg-type]


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    imports = "from pipeline.flow.apart import apart; from tests.unit.flow.test_apart import endless"
    parent = subprocess.Popen([sys.executable, "-c", f"{imports}; apart(endless, {str(note)!r})"])
    child = _wait_for(lambda: int(note.read_text()))
    parent.kill()
    parent.wait()
    assert _wait_for(lambda: not _lives(child))


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
