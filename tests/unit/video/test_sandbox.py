import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, JobError
from pipeline.video.raster import decode_views
from pipeline.video.reader import reader_named
from pipeline.video.sandbox import DecodeChild, DecodeFailure, read_clips
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import cut_without_encoding, frame_number

POLICY = ViewPolicy("eval", (48, 64), 8, clips_per_video=3)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]
HOOKS = "tests.support.videos:"


@pytest.fixture
def bad(tmp_path: Path, mp4: Path) -> Path:
    """A good video that the misbehaving readers misbehave on."""
    path = tmp_path / "bad.mp4"
    path.write_bytes(mp4.read_bytes())
    return path


def ask(hook: str, path: Path, *, fallback: str | None = None, deadline: float = 20.0) -> tuple:
    """The outcome of a reader that misbehaves on `bad`, and the outcome of the same child for a good video after it."""
    with DecodeChild(HOOKS + hook, fallback, deadline) as child:
        return child.decode(path, VIEWS, POLICY), child


def pid_of(child: DecodeChild) -> int:
    assert child.pid is not None
    return child.pid


def readers(outcome: object) -> set[str]:
    assert isinstance(outcome, list), outcome
    return {view.reader for view in outcome}


def numbers(outcome: object) -> list[list[int]]:
    assert isinstance(outcome, list), outcome
    return [[frame_number(frame) for frame in view.frames] for view in outcome]


def test_the_child_gives_what_the_reader_gives_here(child: DecodeChild, videos: dict[str, Path]):
    for path in videos.values():
        apart, here = child.decode(path, VIEWS, POLICY), decode_views(path, VIEWS, POLICY, reader_named("decord"))
        assert isinstance(apart, list), apart
        for one, other in zip(apart, here, strict=True):
            for name in ("frames", "times", "indices", "crop"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert (one.clip_id, one.view_id, one.flip, one.reader) == (other.clip_id, other.view_id, False, "decord")


def test_one_child_serves_many_videos(child: DecodeChild, videos: dict[str, Path]):
    child.decode(videos["vp9.webm"], VIEWS, POLICY)
    pid = child.pid
    for path in videos.values():
        child.decode(path, VIEWS, POLICY)
    assert child.pid == pid


@pytest.mark.parametrize(("limit", "children"), [({"renew_after": 2}, 3), ({"renew_bytes": 1}, 5), ({}, 1)])
def test_a_child_that_did_its_share_is_replaced_and_nothing_changes(mp4: Path, limit: dict[str, int], children: int):
    policy = ViewPolicy("train", (16, 16), 2)
    views = [draw(policy, "v#1of1", 0)]
    with DecodeChild(**limit) as child:
        outcomes, pids = [], []
        for _ in range(5):
            outcomes.append(child.decode(mp4, views, policy))
            pids.append(pid_of(child))
    assert len(dict.fromkeys(pids)) == children
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    for (view,) in outcomes:
        np.testing.assert_array_equal(view.frames, outcomes[0][0].frames)


def test_a_file_that_decord_refuses_comes_from_pyav(child: DecodeChild, videos: dict[str, Path], tmp_path: Path):
    cut = cut_without_encoding(videos["mpeg4_b_frames.mp4"], tmp_path / "cut.mp4", key=1)
    outcome = child.decode(cut, VIEWS, POLICY)
    assert numbers(outcome) == [list(range(start, start + 8)) for start in (13, 17, 20)]
    assert readers(outcome) == {"pyav"}


def test_a_crash_costs_that_reader_alone(bad: Path, mp4: Path):
    with DecodeChild(HOOKS + "aborting", fallback="pyav") as child:
        assert numbers(child.decode(bad, VIEWS, POLICY))[0] == list(range(3, 11))
        assert numbers(child.decode(mp4, VIEWS, POLICY))[0] == list(range(3, 11))


def test_a_crash_without_a_second_reader_is_a_failure_and_the_next_video_is_fine(bad: Path, mp4: Path):
    with DecodeChild(HOOKS + "aborting", fallback=None) as child:
        failure = child.decode(bad, VIEWS, POLICY)
        assert isinstance(failure, DecodeFailure)
        assert (failure.reason, failure.attempts) == ("crash", 1)
        assert "SIGABRT" in failure.message
        assert asdict(failure)["reader"] == HOOKS + "aborting"
        assert numbers(child.decode(mp4, VIEWS, POLICY))[1] == list(range(11, 19))


def test_a_hang_ends_at_the_deadline_and_leaves_no_process(bad: Path, mp4: Path):
    with DecodeChild(HOOKS + "hanging", fallback=None, deadline=20) as child:
        child.decode(mp4, VIEWS, POLICY)
        child.deadline, pid, start = 0.5, pid_of(child), time.monotonic()
        failure = child.decode(bad, VIEWS, POLICY)
        assert time.monotonic() - start < 10
        assert isinstance(failure, DecodeFailure)
        assert failure.reason == "deadline"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        child.deadline = 20
        assert numbers(child.decode(mp4, VIEWS, POLICY))[2] == list(range(18, 26))


def test_chatter_does_not_disturb_the_protocol(bad: Path, mp4: Path):
    with DecodeChild(HOOKS + "chattering", fallback=None) as child:
        failure = child.decode(bad, VIEWS, POLICY)
        assert isinstance(failure, DecodeFailure)
        assert failure.message == "gave up after much noise"
        assert numbers(child.decode(mp4, VIEWS, POLICY))[0] == list(range(3, 11))


def test_the_last_words_of_a_killed_child_are_kept(bad: Path):
    failure, _ = ask("quitting", bad)
    assert isinstance(failure, DecodeFailure)
    assert failure.message == "the decoder ended with exit code 7 (my last words)"


def test_storage_errors_are_never_a_failure(tmp_path: Path, bad: Path, child: DecodeChild):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        child.decode(tmp_path / "gone.mp4", VIEWS, POLICY)
    with pytest.raises(IsADirectoryError):
        child.decode(tmp_path, VIEWS, POLICY)
    for number, kind in ((errno.EACCES, PermissionError), (errno.EIO, OSError)):
        path = bad.rename(tmp_path / f"bad_{number}.mp4")
        with pytest.raises(kind, match=os.strerror(number)) as caught:
            ask("without_storage", path, fallback="pyav")
        assert caught.value.errno == number
        bad = path


def test_a_file_that_cannot_be_read_through_is_a_storage_error(tmp_path: Path):
    """A FIFO without a writer stalls as dead storage does."""
    os.mkfifo(tmp_path / "stalled.mp4")
    with DecodeChild(deadline=0.5) as child, pytest.raises(TimeoutError, match="stalls"):
        child.decode(tmp_path / "stalled.mp4", VIEWS, POLICY)


def test_a_child_that_died_between_two_videos_is_replaced(child: DecodeChild, mp4: Path):
    child.decode(mp4, VIEWS, POLICY)
    os.kill(pid_of(child), signal.SIGKILL)
    time.sleep(0.2)
    outcome = child.decode(mp4, VIEWS, POLICY)
    assert numbers(outcome)[0] == list(range(3, 11))
    assert readers(outcome) == {"decord"}


def test_too_much_memory_is_too_large(bad: Path):
    failure, _ = ask("hungry", bad)
    assert isinstance(failure, DecodeFailure)
    assert failure.reason == "too_large"


def test_defects_and_wrong_names_are_not_the_files_fault(bad: Path, mp4: Path):
    with pytest.raises(JobError, match="TypeError"):
        ask("defective", bad)
    with DecodeChild("opencv") as child, pytest.raises(ConfigError, match="'opencv'"):
        child.decode(mp4, VIEWS, POLICY)


def test_the_child_loads_nothing_heavy_and_has_one_thread(bad: Path):
    failure, _ = ask("telling_modules", bad)
    assert isinstance(failure, DecodeFailure)
    assert failure.message == "heavy: []; threads: ['1', '1', '1']"


def test_a_failure_tells_what_both_readers_said(tmp_path: Path, child: DecodeChild):
    path = tmp_path / "page.mp4"
    path.write_bytes(b"<html>not found</html>")
    failure = child.decode(path, VIEWS, POLICY)
    assert isinstance(failure, DecodeFailure)
    assert (failure.reason, failure.reader, failure.attempts) == ("unreadable", "pyav", 2)
    assert "before, decord: " in failure.message
    assert failure.reader_version.startswith("18.") or failure.reader_version
    assert str(tmp_path) not in failure.message


def test_many_views_make_messages_larger_than_a_pipe(child: DecodeChild, mp4: Path):
    policy = ViewPolicy("train", (64, 64), 8, views_per_clip=1500)
    views = [draw(policy, *key) for key in view_keys("v", policy)]
    outcome = child.decode(mp4, views, policy)
    assert isinstance(outcome, list)
    assert len({view.frames.tobytes() for view in outcome}) > 1000


def test_a_closed_child_is_gone_and_another_starts(mp4: Path):
    child = DecodeChild()
    child.decode(mp4, VIEWS, POLICY)
    pid = pid_of(child)
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert numbers(child.decode(mp4, VIEWS, POLICY))[0] == list(range(3, 11))
    child.close()


def test_a_child_ends_with_its_parent(mp4: Path):
    code = (
        "import sys; from tests.unit.video.test_sandbox import POLICY, VIEWS, DecodeChild\n"
        "child = DecodeChild(); child.decode(sys.argv[1], VIEWS, POLICY); print(child.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mp4)], capture_output=True, text=True, check=False)
    assert _ends_within(int(done.stdout), 10)


def test_a_child_that_hangs_does_not_outlive_its_parent_for_long(bad: Path, mp4: Path):
    code = (
        "import os, sys, threading; from tests.unit.video.test_sandbox import *\n"
        "child = DecodeChild(HOOKS + 'hanging', None, 20); child.decode(sys.argv[1], VIEWS, POLICY)\n"
        "print(child.pid, flush=True); child.deadline = 1\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), 9)).start(); child.decode(sys.argv[2], VIEWS, POLICY)"
    )
    done = subprocess.run([sys.executable, "-c", code, mp4, bad], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _ends_within(int(done.stdout), 15)


def test_clips_of_any_file_need_no_policy(child: DecodeChild, mp4: Path, tmp_path: Path):
    frames = read_clips(mp4, child, size=(48, 64), num_frames=8)
    assert isinstance(frames, np.ndarray)
    assert frames.shape == (3, 8, 48, 64, 3)
    assert [frame_number(clip[0]) for clip in frames] == [3, 11, 18]
    (tmp_path / "empty.mp4").touch()
    failure = read_clips(tmp_path / "empty.mp4", child, size=(48, 64), num_frames=8)
    assert isinstance(failure, DecodeFailure)
    assert failure.reason == "unreadable"


def _ends_within(pid: int, seconds: float) -> bool:
    """Whether the process is gone, or dead and not yet collected."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False
