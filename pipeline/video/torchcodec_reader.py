"""torchcodec as a third reader: exact seeks, one thread, whichever FFmpeg the machine has.

It comes with the extra `stagedkd[torchcodec]`, needs FFmpeg's shared libraries (`apt-get install ffmpeg`), and loads
torch, so it is loaded in a decode child only. Its wheels for torch with CUDA load on machines without a GPU: torchcodec
0.17 with torch 2.13+cu130 and Debian's FFmpeg 5.1 was tried.

What frames there are is read from the packets, as by the second reader; torchcodec's own count and the time of each
frame that it gives are compared with that, and a file on which they differ is refused, so that the second reader is
asked: then all readers agree on indices and times wherever this one gives a frame.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError, Handle, Limits, Shown, one_line
from pipeline.video.pyav_reader import PyAVReader

# Frames of native size that are asked for at once.
_CHUNK_BYTES = 1 << 26

_REFUSED = "torchcodec is not trusted with "


class TorchcodecReader:
    """ImportError where torchcodec is not installed, ConfigError where it does not find FFmpeg."""

    name = "torchcodec"

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._decoder = _load()

    @property
    def version(self) -> str:
        """The installed torchcodec."""
        return version("torchcodec")

    def open(self, path: str | Path) -> "TorchcodecHandle":
        """OSError where storage fails, DecodeError where torchcodec fails or is not to be trusted with the file."""
        with PyAVReader(self._limits).open(path) as packets:
            if not packets.timed:
                raise DecodeError("codec", _REFUSED + "a video whose packets have no usable times")
            return TorchcodecHandle(self._decoder, os.path.abspath(path), packets)


class TorchcodecHandle(Handle):
    """A video opened by torchcodec, with the facts and times of `packets`, an open handle of the same file."""

    def __init__(self, decoder: Any, path: str, packets: Handle) -> None:
        self._path, self.facts, self.times = path, packets.facts, packets.times
        with _torchcodec_errors(path):
            self._video = decoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", device="cpu")
            self._start = float(self._video.metadata.begin_stream_seconds)
            count = len(self._video)
        if count != self.facts.frames:
            raise DecodeError("codec", f"{_REFUSED}a file of {self.facts.frames} frames in which it counts {count}")

    def stream(self, indices: Iterable[int]) -> Iterator[Shown]:
        """See Handle.stream; torchcodec loses no frame without an error, and gives none in another's place."""
        wanted = list(indices)
        chunk = max(1, _CHUNK_BYTES // (3 * self.facts.width * self.facts.height))
        for first in range(0, len(wanted), chunk):
            yield from self._some(wanted[first : first + chunk])

    def close(self) -> None:
        """Free the decoder and the file."""
        self._video = None

    def _some(self, wanted: list[int]) -> Iterator[Shown]:
        with _torchcodec_errors(self._path):
            batch = self._video.get_frames_at(wanted)
        frames, times = batch.data.numpy(), batch.pts_seconds.numpy() - self._start
        if frames.shape[1:] != (self.facts.height, self.facts.width, 3):
            raise DecodeError("codec", f"{_REFUSED}frames of {frames.shape[2]}×{frames.shape[1]} in this file")
        wrong = np.abs(times - self.times[wanted]) > self._tolerance()
        if wrong.any():
            raise DecodeError("codec", f"{_REFUSED}this file: it gives another frame for {wanted[wrong.argmax()]}")
        for index, frame in zip(wanted, frames, strict=True):
            yield Shown(index, index, frame)

    def _tolerance(self) -> float:
        """Less than any two frames are apart; times of one frame differ by rounding only."""
        return 0.25 * float(np.diff(self.times).min()) if len(self.times) > 1 else 1e-3


def _load() -> Any:
    """torchcodec's VideoDecoder. ConfigError with the loader's own words where its libraries do not load."""
    advice = "it needs FFmpeg's shared libraries, version 4 or later (apt-get install ffmpeg)"
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (OSError, RuntimeError) as error:  # before 0.17: at once
        raise ConfigError(f"torchcodec does not load: {advice}: {one_line(error, '')}") from error
    if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
        raise ConfigError(f"torchcodec does not load: {advice}")
    return VideoDecoder


@contextmanager
def _torchcodec_errors(path: str) -> Iterator[None]:
    """torchcodec raises RuntimeError, ValueError and IndexError for bad files."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError("unreadable", one_line(error, path)) from error
