"""Frames and times of every odd file, reader by reader, against those of the ffmpeg program.

YUV of 8 bits and even size becomes RGB by the same arithmetic everywhere, and the pixels are equal. BOUNDS names the
other files, with the mean absolute difference in grey levels and the reason.
"""

import csv
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.video.handle import DecodeError
from pipeline.video.reader import reader_named
from tests.support.videos import ODDITIES, cut_without_encoding, turned, write_video

SAMPLES = 7
EXACT = 0.01

BOUNDS = {
    "gen_odd_dims.avi": 1.5,  # odd width: the colours are enlarged by another filter than ffmpeg's bicubic one
    "gen_mpeg2_interlaced.mpg": 1.5,  # interlaced: ffmpeg enlarges the colours of each field by itself
    "torchcodec_h264_10bits.mp4": 3.5,  # ten bits to eight: dither and filter differ between versions of the scaler
    "torchcodec_h265_10bits.mp4": 3.5,
}

SENDING = r"sending packet|run_\.load"  # by which of decord's threads comes first
# Files that a reader refuses, and why; the second reader reads all of them but one.
REFUSED = {
    ("decord", "bad_bitflips.mp4"): SENDING,
    ("decord", "bad_truncated_mdat.mp4"): "av_read_frame failed",
    ("decord", "bad_zero_hole.mp4"): SENDING,
    ("decord", "decord_corrupted.mp4"): SENDING,
    ("decord", "gen_mpeg2_interlaced.mpg"): "no index",
    ("decord", "gen_start_offset.ts"): "no index",
    ("decord", "imageio_newtonscradle.gif"): "no index",
    ("decord", "mp4parse_no_timescale.mp4"): SENDING,
    ("decord", "skate_Kickflip71_hevc_rotated.mov"): "negative or unknown first timestamp",
    ("decord", "torchcodec_av1_video.mkv"): "cannot find video stream",
    ("pyav", "bad_truncated_mdat.mp4"): "breaks off after 34 of 84 frames",  # ffmpeg shows what is left of it
}

# Damaged files: ffmpeg drops the frames that it cannot decode, so it has fewer; ours keep their place in time.
LOSSY = {"bad_bitflips.mp4": 4, "bad_zero_hole.mp4": 10, "decord_corrupted.mp4": 1, "mp4parse_no_timescale.mp4": 12}

# Its key frames are damaged: over the holes ffmpeg paints what it decoded before, and a reader that starts at the key
# frame, as a replay must, has nothing but grey. Only the frames before the first damage can be compared.
COMPARED = {"mp4parse_no_timescale.mp4": 1}


class Reference(NamedTuple):
    """What ffmpeg shows: seconds from the first frame on (n,), and frames (n, H, W, 3)."""

    times: NDArray[np.float64]
    frames: NDArray[np.uint8]


def rows() -> list[dict[str, str]]:
    if not ODDITIES.is_dir():
        return []
    with open(ODDITIES / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def by_ffmpeg(path: Path) -> Reference | None:
    """All frames at native size, turned as the file says; None where there are none."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    how = ["-an", "-vf", "showinfo", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    command = [program, "-nostdin", "-hide_banner", "-threads", "1", "-copyts", "-i", str(path), *how]
    done = subprocess.run(command, capture_output=True, check=False)
    told = done.stderr.decode(errors="replace")
    sizes = re.findall(r" s:(\d+)x(\d+) ", told)
    if not sizes:
        return None
    width, height = map(int, sizes[0])
    times = np.array([float(each) for each in re.findall(r"pts_time:(-?[\d.]+)", told)])
    frames = np.frombuffer(done.stdout, np.uint8)
    frames = frames[: len(frames) // (3 * width * height) * 3 * width * height].reshape(-1, height, width, 3)
    return Reference(times[: len(frames)] - times[0], frames)


def check(path: Path, reader: str, reference: Reference, bound: float, samples: int = SAMPLES, lost: int = 0) -> None:
    with reader_named(reader).open(path) as handle:
        assert handle.facts.frames == len(reference.frames) + lost
        indices = np.unique(np.linspace(0, handle.facts.frames - 1, SAMPLES).astype(int))[:samples].tolist()
        compared = 0
        for shown in handle.stream(indices):
            place = int(np.abs(reference.times - handle.times[shown.given]).argmin())
            if abs(reference.times[place] - handle.times[shown.given]) > 1.5e-3:
                assert lost, (path.name, shown.given)
                continue
            assert lost or place == shown.given
            difference = np.abs(shown.frame.astype(int) - reference.frames[place]).mean()
            assert difference <= bound, (path.name, reader, shown.given, difference)
            compared += 1
        assert compared >= min(len(indices), samples) / 2


@pytest.mark.skipif(not ODDITIES.is_dir(), reason=f"needs {ODDITIES}")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["path"])
def test_both_readers_show_what_ffmpeg_shows_or_refuse(row: dict[str, str]):
    name, path = row["path"], ODDITIES / row["path"]
    reference = by_ffmpeg(path)
    assert (reference is None) == (row["ffmpeg_status"] == "no_video_frames")
    for reader in ("decord", "pyav"):
        refusal = REFUSED.get((reader, name), "." if reference is None else None)
        if refusal is None:
            assert reference is not None
            check(path, reader, reference, BOUNDS.get(name, EXACT), COMPARED.get(name, SAMPLES), LOSSY.get(name, 0))
            continue
        with pytest.raises(DecodeError, match=refusal), reader_named(reader).open(path) as handle:
            list(handle.stream(range(handle.facts.frames)))


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_turned_and_unevenly_timed_pictures_are_as_ffmpeg_shows_them(tmp_path: Path, reader: str):
    at = [0, 40, 80, 1000, 2000, 2040]
    path = write_video(tmp_path / "vfr.mp4", frames=6, milliseconds=at, size=(48, 80))
    for each in (path, turned(path, tmp_path / "turned.mp4")):
        reference = by_ffmpeg(each)
        assert reference is not None
        np.testing.assert_allclose(reference.times * 1000, at, atol=1)
        check(each, reader, reference, EXACT)
    assert reference.frames.shape[1:] == (80, 48, 3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("shift", [True, False])
def test_a_cut_without_encoding_is_as_ffmpeg_shows_it(
    videos: dict[str, Path], tmp_path: Path, suffix: str, shift: bool
):
    source = videos[f"mpeg4_b_frames.{suffix}"]
    cut = cut_without_encoding(source, tmp_path / f"cut.{suffix}", key=1, shift=shift)
    reference = by_ffmpeg(cut)
    assert reference is not None
    with reader_named("pyav").open(cut) as handle:
        ours = [each.frame for each in handle.stream(range(handle.facts.frames))]
    # ffmpeg also shows what it makes of the frames before the key frame
    np.testing.assert_array_equal(np.stack(ours), reference.frames[len(reference.frames) - len(ours) :])
