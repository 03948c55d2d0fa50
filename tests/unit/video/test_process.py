"""The pipe through which a child's frames leave."""

import fcntl
import os

import pytest

from pipeline.video.process import _room, _widen

PAGES = 16384  # Linux's default for one user: 64 MiB
MIB = 1 << 20


@pytest.mark.parametrize(("decoders", "room"), [(2, MIB), (16, MIB), (32, MIB // 2), (128, MIB // 8)])
def test_the_pipes_of_all_cores_leave_most_of_what_a_user_may_have(decoders: int, room: int) -> None:
    assert _room(PAGES, decoders) == room
    assert decoders * _room(PAGES, decoders) <= PAGES * 4096 // 4


def test_where_there_is_no_limit_a_pipe_gets_all_that_it_can_use() -> None:
    assert _room(0, 1000) == MIB


def test_a_pipe_is_widened_and_never_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    try:
        before = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
        monkeypatch.setattr("pipeline.video.process.os.cpu_count", lambda: 1 << 20)
        _widen(reader)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == before
        monkeypatch.setattr("pipeline.video.process.os.cpu_count", lambda: 1)
        _widen(reader)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == MIB
    finally:
        os.close(reader)
        os.close(writer)
