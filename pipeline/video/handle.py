"""What every reader gives: the facts of an opened video, its frame times, and its frames in one pass."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.video.sampling import on_screen

REASONS = ("unreadable", "no_video", "encrypted", "truncated", "zero_frames", "deadline", "crash", "codec", "too_large")

# FFmpeg would follow these text files to other files or hosts.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")


class DecodeError(Exception):
    """A fact about a file that keeps it from being decoded: a reason code of REASONS and one line of text."""

    def __init__(self, reason: str, message: str) -> None:
        assert reason in REASONS, reason
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What a video may ask of a decoder, against decompression bombs; what asks for more is `too_large`.

    `frame_pixels` of one frame, `frames` of one video, `file_bytes` of one file, `memory_bytes` of one decode child (0:
    no limit). The defaults are those of a recipe's `precompute.limits`.
    """

    frame_pixels: int = 16384 * 8192  # in RGB 400 MB
    frames: int = 1_000_000
    file_bytes: int = 4096 << 20
    memory_bytes: int = 2048 << 20

    def check_frame(self, width: int, height: int) -> None:
        """DecodeError `too_large` for a frame of too many pixels."""
        if width * height > self.frame_pixels:
            raise DecodeError("too_large", f"a frame has {width}×{height} pixels; allowed are {self.frame_pixels}")

    def check_frames(self, frames: int) -> None:
        """DecodeError `too_large` for too many frames."""
        if frames > self.frames:
            raise DecodeError("too_large", f"the video has {frames} frames or more; allowed are {self.frames}")

    def check_bytes(self, size: int) -> None:
        """DecodeError `too_large` for too large a file."""
        if size > self.file_bytes:
            raise DecodeError("too_large", f"the file has {size} bytes; allowed are {self.file_bytes}")


@dataclass(frozen=True)
class Facts:
    """What an opened video is, counted from its packets: seconds, frames per second, frames, pixels after rotation."""

    duration: float
    fps: float
    frames: int
    width: int
    height: int


class Shown(NamedTuple):
    """The index that was asked for, the index of the frame that the decoder really gave, its pixels (H, W, 3)."""

    asked: int
    given: int
    frame: NDArray[np.uint8]


class Handle(ABC):
    """An open video. `times` (n,) are the seconds of its frames from the first one on, strictly increasing."""

    facts: Facts
    times: NDArray[np.float64]

    @abstractmethod
    def stream(self, indices: Iterable[int]) -> Iterator[Shown]:
        """The frames of these increasing indices, at native size, in one pass; only these are converted to RGB.

        A frame that is lost in a damaged file is replaced by the last one before it, and `given` says so.
        DecodeError where too much is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the decoder and the file."""

    def frames_at(self, times: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
        """Frames (n, H, W, 3) on screen at `times` (n,), and the times and indices of what was really returned."""
        wanted, places = np.unique(on_screen(np.asarray(times, np.float64), self.times), return_inverse=True)
        shown = list(self.stream(wanted.tolist()))
        indices = np.array([each.given for each in shown], np.int64)[places]
        return np.stack([each.frame for each in shown])[places], self.times[indices], indices

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def facts_of(times: NDArray[np.float64], last: float, width: int, height: int, limits: Limits) -> Facts:
    """Facts from frame times (n,) and the seconds that the last frame lasts (0: as long as the frames before it).

    DecodeError `too_large` where they exceed the limits.
    """
    limits.check_frame(width, height)
    limits.check_frames(len(times))
    if last <= 0:
        last = float(np.median(np.diff(times))) if len(times) > 1 else 1 / 25
    duration = float(times[-1] - times[0] + last)
    return Facts(duration, len(times) / duration, len(times), width, height)


def read_head(path: str | Path, limits: Limits) -> bytes:
    """The first 16 bytes of a video file.

    OSError where storage fails (a missing file, a forbidden one); DecodeError for an empty or too large file and for
    playlists.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        limits.check_bytes(os.fstat(file.fileno()).st_size)
    if not head:
        raise DecodeError("unreadable", "the file is empty")
    if head.lstrip().startswith(_PLAYLISTS):
        raise DecodeError("unreadable", "a text file (playlist or XML), not a video")
    return head


def one_line(error: BaseException, path: str | Path) -> str:
    """An error as one short line that is the same on every machine: no clock times, no folders."""
    text = (str(error).strip().splitlines() or [""])[0].replace(str(path), Path(path).name)
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text)
    return f"{type(error).__name__}: {text}"[:300]
