"""The third reader gives the same frames, times and facts as the others, or hands the file on."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.video import torchcodec_reader
from pipeline.video.handle import DecodeError, Limits
from pipeline.video.reader import reader_named
from pipeline.video.sandbox import DecodeChild
from pipeline.video.torchcodec_reader import TorchcodecReader
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import WELL_FORMED, cut_without_encoding, damaged, frame_number, turned, write_video

POLICY = ViewPolicy("eval", (48, 64), 8, clips_per_video=3)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]
INSTALL = os.environ.get("STAGEDKD_TEST_INSTALL") == "1"


@pytest.fixture(scope="module")
def torchcodec() -> TorchcodecReader:
    """The reader. FFmpeg's libraries are installed where a run may do that; elsewhere its tests are skipped."""
    if INSTALL and ctypes.util.find_library("avcodec") is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "ffmpeg"], check=True)
    try:
        return TorchcodecReader()
    except (ConfigError, ImportError) as error:
        message = f"{error} (STAGEDKD_TEST_INSTALL=1 installs them)"
        if INSTALL:
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_facts_times_and_frames_are_those_of_the_second_reader(
    torchcodec: TorchcodecReader, videos: dict[str, Path], name: str
):
    with torchcodec.open(videos[name]) as handle, reader_named("pyav").open(videos[name]) as other:
        assert handle.facts == other.facts
        np.testing.assert_array_equal(handle.times, other.times)
        for order in (list(range(30)), [10, 11, 23], [29], [0, 14, 28], [3]):
            try:
                shown = list(handle.stream(order))
            except DecodeError:
                # In Matroska its seeks miss frames of open groups of pictures, and it says so.
                assert (name, order) == ("h264_open_gop.mkv", [0, 14, 28])
                continue
            assert [each.asked for each in shown] == [each.given for each in shown] == order
            assert [frame_number(each.frame) for each in shown] == order
            for one, two in zip(shown, other.stream(order), strict=True):
                assert np.abs(one.frame.astype(int) - two.frame).mean() < 1.0


def test_frames_come_in_pieces_where_they_are_large(
    torchcodec: TorchcodecReader, mp4: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torchcodec_reader, "_CHUNK_BYTES", 64 * 48 * 3 * 4 + 1)
    with torchcodec.open(mp4) as handle:
        assert [frame_number(each.frame) for each in handle.stream(range(1, 30, 2))] == list(range(1, 30, 2))


def test_a_varying_frame_rate_and_a_turned_picture_come_out_right(torchcodec: TorchcodecReader, tmp_path: Path):
    at = [0, 40, 80, 1000, 2000, 2040]
    path = write_video(tmp_path / "vfr.mp4", frames=6, milliseconds=at)
    with torchcodec.open(path) as handle:
        frames, times, indices = handle.frames_at(np.array([0.5, 0.95, 1.5, 2.036]))
    assert indices.tolist() == [2, 3, 3, 5]
    assert [frame_number(frame) for frame in frames] == [2, 3, 3, 5]
    np.testing.assert_allclose(times * 1000, [80, 1000, 1000, 2040], atol=1)
    with torchcodec.open(turned(path, tmp_path / "turned.mp4")) as handle:
        assert (handle.facts.width, handle.facts.height) == (48, 64)
        (shown,) = handle.stream([5])
    with reader_named("pyav").open(tmp_path / "turned.mp4") as other:
        np.testing.assert_allclose(shown.frame, next(other.stream([5])).frame, atol=2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("shift", [True, False])
def test_a_cut_gives_the_right_frames_or_is_handed_on(
    torchcodec: TorchcodecReader, videos: dict[str, Path], tmp_path: Path, suffix: str, shift: bool
):
    source = videos[f"mpeg4_b_frames.{suffix}"]
    cut = cut_without_encoding(source, tmp_path / f"cut.{suffix}", key=1, shift=shift)
    try:
        with torchcodec.open(cut) as handle:
            numbers = [frame_number(each.frame) for each in handle.stream(range(handle.facts.frames))]
    except DecodeError:
        return
    assert numbers == list(range(12, 30))


def test_it_works_in_a_child_and_hands_damaged_files_on(torchcodec: TorchcodecReader, mp4: Path, tmp_path: Path):
    whole = write_video(tmp_path / "whole.mp4", frames=60, gop=6)
    hurt = damaged(whole, tmp_path / "hole.mp4", hole=(0.4, 0.5))
    with DecodeChild("torchcodec") as child:
        good, bad = child.decode(mp4, VIEWS, POLICY), child.decode(hurt, VIEWS, POLICY)
    assert isinstance(good, list), good
    assert isinstance(bad, list), bad
    assert {view.reader for view in good} == {"torchcodec"}
    assert {view.reader for view in bad} == {"pyav"}
    assert [frame_number(frame) for frame in good[0].frames] == list(range(3, 11))


def test_limits_hold_for_it_too(torchcodec: TorchcodecReader, mp4: Path):
    torchcodec = TorchcodecReader(Limits(frames=29))
    with pytest.raises(DecodeError, match="allowed are 29") as caught:
        torchcodec.open(mp4)
    assert caught.value.reason == "too_large"


def test_a_machine_without_ffmpeg_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    codec = pytest.importorskip("torchcodec")
    monkeypatch.setattr(codec, "ffmpeg_major_version", None)
    with pytest.raises(ConfigError, match="apt-get install ffmpeg"):
        TorchcodecReader()


def test_it_is_loaded_in_a_child_alone(mp4: Path):
    code = (
        "import sys; from pipeline.video.sandbox import DecodeChild; DecodeChild('torchcodec')\n"
        "print(sorted({'torch', 'torchcodec', 'av', 'decord'} & set(sys.modules)))"
    )
    pytest.importorskip("torchcodec")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
