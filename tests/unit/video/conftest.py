"""Videos that many tests read: written once per session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.video.sandbox import DecodeChild
from tests.support.videos import WELL_FORMED, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, **settings) for name, settings in WELL_FORMED.items()}


@pytest.fixture(scope="session")
def mp4(videos: dict[str, Path]) -> Path:
    return videos["h264.mp4"]


@pytest.fixture(scope="module")
def child() -> Iterator[DecodeChild]:
    with DecodeChild() as child:
        yield child
