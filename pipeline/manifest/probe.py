"""What a container's header says of a video, without decoding it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

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


def probe(path: Path) -> Facts:
    """Facts of the first video stream; all None where the file is no video or damaged."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            return _facts(container.streams.video[0]) if container.streams.video else Facts()
    except (av.FFmpegError, ValueError, OSError):
        return Facts()


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
