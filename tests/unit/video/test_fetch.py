"""Videos in an object store: fetched as files, refused before the download, and never blamed for trouble on the way."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.video import fetch
from pipeline.video.handle import Limits
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import frame_number

POLICY = ViewPolicy("eval", (48, 64), 8)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]


@contextmanager
def stored(monkeypatch: pytest.MonkeyPatch, path: Path | None, size: int | None) -> Iterator[list[str]]:
    """An object of `size` bytes that comes as `path`; the names of what was fetched."""
    fetched: list[str] = []

    @contextmanager
    def get(where: str) -> Iterator[Path | None]:
        fetched.append(str(where))
        if path is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield path

    monkeypatch.setattr(fetch, "size_of", lambda where: size)
    monkeypatch.setattr(fetch, "fetch", get)
    yield fetched


URI = "s3://bucket/videos/clip.mp4"


def test_an_object_is_fetched_and_decoded_as_a_file(child: DecodeChild, mp4: Path, monkeypatch: pytest.MonkeyPatch):
    with stored(monkeypatch, mp4, mp4.stat().st_size) as fetched:
        decoded = child.decode(URI, VIEWS, POLICY)
    assert isinstance(decoded, list), decoded
    assert frame_number(decoded[0].frames[0]) == 11
    assert fetched == [URI]


def test_an_object_that_is_too_large_is_not_fetched(child: DecodeChild, mp4: Path, monkeypatch: pytest.MonkeyPatch):
    with stored(monkeypatch, mp4, 5 << 30) as fetched:
        failure = child.decode(URI, VIEWS, POLICY)
    assert isinstance(failure, DecodeFailure), failure
    assert (failure.reason, failure.attempts, fetched) == ("too_large", 1, [])
    assert "5368709120 bytes" in failure.message


def test_trouble_on_the_way_is_never_a_failure(child: DecodeChild, mp4: Path, monkeypatch: pytest.MonkeyPatch):
    size = mp4.stat().st_size
    for path, told, message in (
        (mp4, size + 1, rf"{size} bytes came of an object of {size + 1}.*clip\.mp4"),
        (mp4, None, r"the plan names it.*clip\.mp4"),
        (None, size, "No space left on device"),
    ):
        with stored(monkeypatch, path, told), pytest.raises(OSError, match=message):
            child.decode(URI, VIEWS, POLICY)


def test_local_files_are_taken_as_they_are(mp4: Path):
    with fetch.local_copy(mp4, Limits(file_bytes=1)) as path:
        assert path == mp4
