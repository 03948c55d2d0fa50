"""Videos that many tests read: written once per session."""

from pathlib import Path

import pytest

from tests.support.videos import write_video

# name: what write_video is told. All have 30 frames of 64×48 at 15 per second.
WELL_FORMED = {
    "h264.mp4": {},
    "h264_b_frames.mp4": {"b_frames": 3},
    "h264_open_gop.mkv": {"b_frames": 3, "options": {"x264-params": "open-gop=1:bframes=3"}},
    "mpeg4.avi": {},
    "mpeg4_b_frames.mp4": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4_b_frames.mkv": {"codec": "mpeg4", "b_frames": 2},
    "vp9.webm": {},
    "mjpeg.mov": {"codec": "mjpeg"},
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, **settings) for name, settings in WELL_FORMED.items()}


@pytest.fixture(scope="session")
def mp4(videos: dict[str, Path]) -> Path:
    return videos["h264.mp4"]
