"""What a container's header says of a video, without decoding it."""

import logging
from dataclasses import dataclass
from pathlib import Path

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
            if not container.streams.video:
                return Facts()
            stream = container.streams.video[0]
            context = stream.codec_context
            rate = stream.average_rate or stream.guessed_rate
            return Facts(
                frames=stream.frames or None,
                fps=float(rate) if rate else None,
                width=context.width or None,
                height=context.height or None,
                codec=context.name,
            )
    except (av.FFmpegError, ValueError, OSError):
        return Facts()
