"""What a container's header says of a video, without decoding it; of an object in a store a few ranges are read."""

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from pipeline.artifacts.files import read_range, size_of
from pipeline.artifacts.places import is_remote
from pipeline.errors import StorageError

BLOCK = 1 << 18  # bytes of one range
LOCAL_THREADS, REMOTE_THREADS = 4, 16
# The decoder quarantines what cannot be read, with a reason; a scan only leaves the facts open.
logging.getLogger("libav").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Facts:
    """frames and fps as the header claims them (never trusted for decoding), pixels, codec; None where it is silent."""

    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None


def probe(path: Path, size: int | None = None) -> Facts:
    """Facts of the first video stream; all None where the file is no video, damaged or missing.

    `size` (bytes) saves a request where `path` is in a store and a listing said it. StorageError where a store fails.
    """
    try:
        source = _Ranges(path, size) if is_remote(path) else str(path)
        with av.open(source, metadata_errors="ignore") as container:
            return _facts(container.streams.video[0]) if container.streams.video else Facts()
    except StorageError:
        raise
    except (av.FFmpegError, ValueError, OSError):
        return Facts()


def probe_many(root: Path, videos: Sequence[tuple[str, int]]) -> list[Facts]:
    """As `probe` for each (path below root, bytes), a few at a time."""
    if not videos:
        return []
    with ThreadPoolExecutor(REMOTE_THREADS if is_remote(root) else LOCAL_THREADS, "probe") as threads:
        return list(threads.map(lambda video: probe(root / video[0], video[1]), videos))


class _Ranges(io.RawIOBase):
    """An object as a seekable file: what is read comes in blocks, of which the last is kept."""

    def __init__(self, path: Path, size: int | None) -> None:
        self._path = path
        self._size = (size_of(path) or 0) if size is None else size
        self._at, self._start, self._block = 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._at + size)
        if self._at >= stop:
            return b""
        if not self._start <= self._at < self._start + len(self._block):
            end = min(self._size, self._at + max(BLOCK, stop - self._at))
            self._start, self._block = self._at, read_range(self._path, self._at, end) or b""
        data = self._block[self._at - self._start : stop - self._start]
        self._at += len(data)
        return data


def _facts(stream: "av.VideoStream") -> Facts:
    context: Any = stream.codec_context  # None where FFmpeg knows no decoder
    rate = stream.average_rate or stream.guessed_rate
    return Facts(
        frames=stream.frames or None,
        fps=float(rate) if rate else None,
        width=context.width or None if context else None,
        height=context.height or None if context else None,
        codec=context.name if context else None,
    )
