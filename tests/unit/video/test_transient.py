"""What happens to the world is never put down to a file, and what is wrong with a file never stops the job."""

import errno
import resource
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.video import process
from pipeline.video.handle import REASONS, DecodeError, Limits
from pipeline.video.packets import Packets, av_errors
from pipeline.video.pyav_reader import PyAVReader
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import damaged, frame_number, write_video

POLICY = ViewPolicy("eval", (48, 64), 8)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]
HOOKS = "tests.support.videos:"


def copy(mp4: Path, target: Path) -> Path:
    target.write_bytes(mp4.read_bytes())
    return target


def first_number(outcome: object) -> int:
    assert isinstance(outcome, list), outcome
    return frame_number(outcome[0].frames[0])


def failure_of(outcome: object) -> DecodeFailure:
    assert isinstance(outcome, DecodeFailure), outcome
    return outcome


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
def test_a_video_whose_child_others_end_is_tried_again_with_the_same_reader(tmp_path: Path, mp4: Path, number: int):
    bad = copy(mp4, tmp_path / f"bad_{int(number)}_2.mp4")
    with DecodeChild(HOOKS + "signalled") as child:
        outcome = child.decode(bad, VIEWS, POLICY)
    assert first_number(outcome) == 11
    assert isinstance(outcome, list)
    assert outcome[0].reader == "misbehaving"
    assert len(list(tmp_path.glob("sent_*"))) == 2


def test_a_stopped_child_is_no_hang_of_the_decoder(tmp_path: Path, mp4: Path):
    bad = copy(mp4, tmp_path / f"bad_{int(signal.SIGSTOP)}_1.mp4")
    with DecodeChild(HOOKS + "signalled", deadline=3) as child:
        outcome = child.decode(bad, VIEWS, POLICY)
    assert isinstance(outcome, list), outcome
    assert outcome[0].reader == "misbehaving"


def test_when_others_end_every_child_the_world_is_to_blame(tmp_path: Path, mp4: Path):
    bad = copy(mp4, tmp_path / "bad_9_99.mp4")
    with DecodeChild(HOOKS + "signalled") as child:
        with pytest.raises(OSError, match="ended by others") as caught:
            child.decode(bad, VIEWS, POLICY)
        assert caught.value.errno == errno.ENOMEM
        assert "bad_9_99.mp4" in str(caught.value)
        assert len(list(tmp_path.glob("sent_*"))) == 3
        assert first_number(child.decode(mp4, VIEWS, POLICY)) == 11


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_a_crash_is_the_files_fault_and_the_second_reader_has_a_try(tmp_path: Path, mp4: Path, number: signal.Signals):
    bad = copy(mp4, tmp_path / f"bad_{int(number)}_1.mp4")
    with DecodeChild(HOOKS + "signalled", fallback="pyav") as child:
        outcome = child.decode(bad, VIEWS, POLICY)
    assert isinstance(outcome, list), outcome
    assert outcome[0].reader == "pyav"
    with DecodeChild(HOOKS + "signalled", fallback=None) as child:
        failure = failure_of(child.decode(copy(mp4, tmp_path / f"bad_{int(number)}_2.mp4"), VIEWS, POLICY))
    assert (failure.reason, number.name in failure.message) == ("crash", True)


def test_the_time_in_which_this_process_was_stopped_is_not_charged(monkeypatch: pytest.MonkeyPatch):
    now = chain([100.0, 100.5, 5000.0, 5000.25])
    monkeypatch.setattr("pipeline.video.process.time.monotonic", lambda: next(now))
    clock = process._Clock(20.0)
    left = []
    for _ in range(3):
        clock.charge()
        left.append(clock.left)
    assert left == [19.5, 18.5, 18.25]


def test_a_child_that_never_stops_to_talk_meets_the_deadline(tmp_path: Path, mp4: Path):
    bad = copy(mp4, tmp_path / "bad.mp4")
    with DecodeChild(HOOKS + "rambling", None, deadline=1.0) as child:
        failure = failure_of(child.decode(bad, VIEWS, POLICY))
    assert failure.reason == "deadline"
    assert "and so on" in failure.message


def test_the_time_that_a_reader_takes_to_load_is_charged_to_no_video(mp4: Path):
    with DecodeChild(HOOKS + "slow_to_load", None, deadline=1.5) as child:
        assert first_number(child.decode(mp4, VIEWS, POLICY)) == 11


def test_too_many_open_files_are_no_fact_about_the_file(mp4: Path):
    with DecodeChild("pyav", None) as child:
        child.decode(mp4, VIEWS, POLICY)
        assert child.pid is not None
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(OSError, match="Too many open files") as caught:
            child.decode(mp4, VIEWS, POLICY)
    assert caught.value.errno == errno.EMFILE


def test_a_machine_without_memory_is_no_fact_about_the_file(mp4: Path, tmp_path: Path):
    large = write_video(tmp_path / "large.mov", frames=1, size=(4320, 7680), codec="mjpeg")
    with DecodeChild("pyav", None) as child:
        child.decode(mp4, VIEWS, POLICY)
        used = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        assert child.pid is not None
        resource.prlimit(child.pid, resource.RLIMIT_AS, (used + (60 << 20),) * 2)
        with pytest.raises(OSError, match="Cannot allocate memory") as caught:
            child.decode(large, VIEWS, POLICY)
    assert caught.value.errno == errno.ENOMEM


def test_a_file_that_opens_and_cannot_be_read_is_a_storage_error(child: DecodeChild):
    with pytest.raises(OSError) as caught:
        child.decode("/proc/self/mem", VIEWS, POLICY)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.ETIMEDOUT])
def test_errors_of_the_world_are_told_from_facts_though_ffmpeg_reports_them(number: int):
    with pytest.raises(OSError, match=r"video\.mp4") as caught, av_errors("/x/video.mp4"):
        av.error.err_check(-number)
    assert caught.value.errno == number
    assert not isinstance(caught.value, av.FFmpegError)


def test_what_ffmpeg_says_about_files_is_a_fact():
    for code in (av.error.tag_to_code(b"INDA"), errno.EIO, errno.EINVAL):
        with pytest.raises(DecodeError) as caught, av_errors("/x/video.mp4"):
            av.error.err_check(-code)
        assert caught.value.reason == "unreadable"


def test_a_shortage_of_memory_is_not_taken_for_a_lost_frame(mp4: Path):
    class Starved:
        codec_context = type("Context", (), {"flush_buffers": lambda self: None})()

        def decode(self, packet: Any) -> None:
            av.error.err_check(-errno.ENOMEM)

    packets = Packets(str(mp4), Limits())
    packets.stream = Starved()
    with pytest.raises(MemoryError):
        next(packets.decoded(0))


def test_a_planned_file_that_is_gone_is_named_and_the_message_says_what_follows(child: DecodeChild, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"the plan names it.*buries what is gone.*gone\.mp4"):
        child.decode(tmp_path / "gone.mp4", VIEWS, POLICY)


def test_a_missing_extra_is_named_before_any_video_is_touched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.video.reader.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"install stagedkd\[torchcodec\]"):
        DecodeChild("torchcodec")
    with pytest.raises(ConfigError, match=r"set precompute\.reader to pyav"):
        DecodeChild("decord")


# --- each reason, from a file or from a reader that misbehaves


def text(folder: Path, mp4: Path) -> Path:
    path = folder / "page.mp4"
    path.write_text("<html>not found</html>")
    return path


def sound(folder: Path, mp4: Path) -> Path:
    with av.open(str(folder / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return folder / "sound.wav"


def remuxed(source: Path, target: Path, options: dict[str, str], *, frames: bool = True) -> Path:
    with av.open(str(source)) as before, av.open(str(target), "w", options=options) as after:
        stream = before.streams.video[0]
        copied = after.add_stream_from_template(stream)
        after.start_encoding()
        for packet in before.demux(stream):
            if packet.size and frames:
                packet.stream = copied
                after.mux(packet)
    return target


def encrypted(folder: Path, mp4: Path) -> Path:
    keys = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return remuxed(mp4, folder / "secret.mp4", {"encryption_scheme": "cenc-aes-ctr", **keys})


def half(folder: Path, mp4: Path) -> Path:
    return damaged(remuxed(mp4, folder / "whole.mp4", {"movflags": "faststart"}), folder / "half.mp4", keep=0.6)


def without_frames(folder: Path, mp4: Path) -> Path:
    return remuxed(mp4, folder / "init.mp4", {"movflags": "empty_moov+frag_keyframe"}, frames=False)


def of_no_known_codec(folder: Path, mp4: Path) -> Path:
    (folder / "codec.mp4").write_bytes(mp4.read_bytes().replace(b"avc1", b"zzz1"))
    return folder / "codec.mp4"


def bad_name(folder: Path, mp4: Path) -> Path:
    return copy(mp4, folder / "bad.mp4")


def many(folder: Path, mp4: Path) -> Path:
    return mp4


CASES: dict[str, tuple[Callable[[Path, Path], Path], dict[str, Any]]] = {
    "unreadable": (text, {}),
    "no_video": (sound, {}),
    "encrypted": (encrypted, {}),
    "truncated": (half, {}),
    "zero_frames": (without_frames, {}),
    "deadline": (bad_name, {"reader": HOOKS + "hanging", "fallback": None, "deadline": 1.0}),
    "crash": (bad_name, {"reader": HOOKS + "aborting", "fallback": None}),
    "codec": (of_no_known_codec, {}),
    "too_large": (many, {"limits": Limits(frames=29)}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_has_its_files_and_the_next_video_is_fine(tmp_path: Path, mp4: Path, reason: str):
    make, settings = CASES[reason]
    with DecodeChild(**settings) as child:
        failure = failure_of(child.decode(make(tmp_path, mp4), VIEWS, POLICY))
        assert (failure.reason, failure.attempts) == (reason, len(child.readers))
        assert str(tmp_path) not in failure.message
        child.limits, child.deadline = Limits(), 20.0
        assert first_number(child.decode(mp4, VIEWS, POLICY)) == 11


def test_frames_of_strange_pixel_formats_do_not_stop_the_job(tmp_path: Path):
    """What cannot be converted is a fact about the file."""
    for codec, pixels, suffix in (
        ("ffv1", "gray16le", "mkv"),
        ("ffv1", "yuv444p12le", "mkv"),
        ("rawvideo", "pal8", "avi"),
    ):
        path = tmp_path / f"{pixels}.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            frame = av.VideoFrame(64, 48, pixels)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux([*stream.encode(frame), *stream.encode(None)])
        with PyAVReader().open(path) as handle:
            assert [each.frame.shape for each in handle.stream([0])] == [(48, 64, 3)]
