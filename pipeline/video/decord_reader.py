"""decord 0.6 used forward only.

Its seeks are wrong where frames are stored in another order than shown (it takes the position of a key frame in the
file for its position on screen): MPEG-4 and HEVC in MP4 and Matroska gave frames up to ten away, in silence. Reading
forward is right on every container with an index, so `stream` never lets it seek: it enters each group of pictures
through its first frame. What decord cannot be trusted with is refused on opening, before much is decoded.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.video.handle import DecodeError, Handle, Limits, Shown, facts_of, one_line, read_head

# Read when decord is loaded. A rewind means that decord hands out an earlier frame for a lost one, after decoding the
# group of pictures up to 16 times (20 s on damaged files): an error at once is better. The other limit also counts
# packets of well-formed files: with 64, clips of 84 frames failed now and then, so it stays at decord's own value.
DECORD_ENVIRONMENT = {"DECORD_REWIND_RETRY_MAX": "0", "DECORD_EOF_RETRY_MAX": "10240"}

# Of all frames, the share that decord may replace by a copy of another: none. (0 would mean no limit.)
_FAULT_TOLERANCE = 0.00001

# Forward reading decodes all that lies before: with more than this many frames to skip, the second reader is cheaper.
MAX_WALK = 3000

# decord goes on decoding behind what is read and keeps all of it in RGB: 400 frames of 720p took 0.8 GB.
MAX_AHEAD_BYTES = 1 << 29

_REFUSED = "decord is not trusted with "


class DecordReader:
    """The default reader; ImportError where decord is not installed (it exists for Linux on x86-64)."""

    name = "decord"

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        for variable, value in DECORD_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._decord = decord

    @property
    def version(self) -> str:
        """The installed decord."""
        return version("decord")

    def open(self, path: str | Path) -> "DecordHandle":
        """OSError where storage fails, DecodeError where decord fails or is not to be trusted with the file."""
        from pipeline.video.packets import peek  # loads FFmpeg, which the planning of views does not need

        if not _has_index(read_head(path, self._limits)):
            raise DecodeError("codec", _REFUSED + "a container that has no index")
        peek(os.path.abspath(path), self._limits)
        return DecordHandle(self._decord, os.path.abspath(path), self._limits)


class DecordHandle(Handle):
    """A video opened by decord. A pass that starts behind the frames read so far opens the file again."""

    def __init__(self, decord: Any, path: str, limits: Limits) -> None:
        self._decord, self._path = decord, path
        self._video: Any = None
        self._open()
        starts, last = self._read_times(limits)
        self._first = self._take()
        height, width = self._first.shape[:2]
        self.times, self.facts = starts - starts[0], facts_of(starts, last, width, height, limits)
        if self._first.nbytes * len(starts) > MAX_AHEAD_BYTES:
            raise DecodeError(
                "codec", f"{_REFUSED}{len(starts)} frames of {width}×{height}: it decodes ahead without bound"
            )

    def stream(self, indices: Iterable[int]) -> Iterator[Shown]:
        """See Handle.stream; decord loses no frame without an error."""
        wanted = list(indices)
        if wanted and wanted[-1] - len(wanted) > MAX_WALK:
            raise DecodeError("codec", f"{_REFUSED}seeking, and frame {wanted[-1]} is too far to read up to")
        if wanted and max(wanted[0], 1) < self._position:
            self._open()
        for index in wanted:
            yield Shown(index, index, self._first if index == 0 else self._frame(index))

    def close(self) -> None:
        """Drop decord's reader."""
        self._video = None

    def _open(self) -> None:
        with _decord_errors(self._path):
            self._video = self._decord.VideoReader(
                self._path, ctx=self._decord.cpu(0), num_threads=1, fault_tol=_FAULT_TOLERANCE
            )
            self._keys: list[int] = self._video.get_key_indices()
        self._position = 0

    def _frame(self, index: int) -> NDArray[np.uint8]:
        """Walk to the frame; within what decord takes for a group of pictures it skips without seeking."""
        for key in self._keys[bisect_right(self._keys, self._position) : bisect_right(self._keys, index)]:
            self._skip_to(key - 1)
            self._take()
        self._skip_to(index)
        return self._take()

    def _take(self) -> NDArray[np.uint8]:
        with _decord_errors(self._path):
            frame = self._video.next().asnumpy()
        self._position += 1
        return _without_padding(frame)

    def _skip_to(self, index: int) -> None:
        if self._position < index:
            with _decord_errors(self._path):
                self._video.seek_accurate(index)
            self._position = index

    def _read_times(self, limits: Limits) -> tuple[NDArray[np.float64], float]:
        """Start of each frame in seconds (n,), and how long the last one lasts."""
        limits.check_frames(len(self._video))
        with _decord_errors(self._path):
            spans = self._video.get_frame_timestamp(np.arange(len(self._video))).astype(np.float64)
        starts = spans[:, 0]
        # Frames before the stream's start are decoded and never shown (a cut without encoding): decord counts them.
        if starts[0] < -1e-4:
            raise DecodeError("codec", _REFUSED + "a negative or unknown first timestamp")
        if not (np.diff(starts) > 0).all():
            raise DecodeError("codec", _REFUSED + "timestamps that do not increase")
        return starts, float(spans[-1, 1] - starts[-1])


def _without_padding(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame (H, W, 3).

    Where the padded length of a row is a multiple of W, as at width 48, decord takes the padding for more channels: the
    array is then (H, W, 4 or more), and each row holds the 3 W bytes of the picture and then padding.
    """
    height, width, _ = frame.shape
    return np.ascontiguousarray(frame.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)


def _has_index(head: bytes) -> bool:
    """MP4 and MOV, Matroska and WebM, AVI, FLV; decord starts MPEG transport and program streams at a wrong frame."""
    boxes = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
    return head[4:8] in boxes or head.startswith((b"\x1a\x45\xdf\xa3", b"RIFF", b"FLV"))


@contextmanager
def _decord_errors(path: str) -> Iterator[None]:
    """decord raises RuntimeError, AssertionError, StopIteration and its own Exception for bad files."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError("unreadable", one_line(error, path)) from error
