"""The compressed packets of one video, read once through PyAV and kept: decoding can start at any key packet."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from pipeline.video.handle import MAX_PIXELS, DecodeError, one_line

# Compressed bytes of one video that are kept in memory; longer recordings are to be cut into clips first.
MAX_PACKET_BYTES = 1 << 30

# A file whose end is missing is still used if it holds this share of the frames that its header promises.
_WHOLE = 0.9


class Packets:
    """An open file and the packets of its best video stream, in file order. Frames are decoded with one thread."""

    def __init__(self, path: str) -> None:
        """DecodeError where there is no video stream, nothing in it, or most of it is missing."""
        with av_errors(path):
            # Without the option, a file could make FFmpeg open other files or hosts.
            self.container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
            try:
                self.stream = _video_stream(self.container)
                self.packets = _read(self.container, self.stream)
            except BaseException:
                self.container.close()
                raise

    def decoded(self, place: int) -> Iterator[Any]:
        """Frames in the order in which they come out when decoding starts at packet `place`.

        A packet that does not decode is passed over.
        """
        self.stream.codec_context.flush_buffers()
        for packet in [*self.packets[place:], None]:  # None: what is still inside the decoder
            try:
                frames = self.stream.decode(packet)
            except av.FFmpegError:
                continue
            yield from frames

    def first_frame(self) -> Any:
        """The first frame that decodes; DecodeError `encrypted` or `unreadable` where none does."""
        first = next(self.decoded(0), None)
        if first is None and any(packet.has_sidedata("encryption_info") for packet in self.packets):
            raise DecodeError("encrypted", "the frames are encrypted")
        if first is None:
            raise DecodeError("unreadable", f"none of {len(self.packets)} frames decodes")
        return first

    def close(self) -> None:
        """Free packets, decoder and file."""
        self.packets = []
        self.container.close()


@contextmanager
def av_errors(path: str) -> Iterator[None]:
    """FFmpeg's errors are taken as facts about the file: if storage is to blame, reading the file through will tell."""
    try:
        yield
    except MemoryError as error:
        raise DecodeError("too_large", one_line(error, path)) from error
    except av.FFmpegError as error:
        missing_codec = isinstance(error, av.error.DecoderNotFoundError)
        raise DecodeError("codec" if missing_codec else "unreadable", one_line(error, path)) from error


def _video_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError("no_video", "the file has no video stream")
    context = stream.codec_context
    if context is None:
        raise DecodeError("codec", "no decoder for the video stream")
    if context.width * context.height > MAX_PIXELS:
        raise DecodeError("too_large", f"a frame has {context.width}×{context.height} pixels")
    context.thread_count, context.thread_type = 1, "NONE"
    return stream


def _read(container: Any, stream: Any) -> list[Any]:
    packets, size, broken = [], 0, False
    try:
        for packet in container.demux(stream):
            size += packet.size
            if size > MAX_PACKET_BYTES:
                raise DecodeError("too_large", f"more than {MAX_PACKET_BYTES >> 20} MiB of video: cut it into clips")
            if packet.size:
                packets.append(packet)
    except av.FFmpegError:
        broken = True
    _check_whole(packets, stream.frames, broken or bool(packets and packets[-1].is_corrupt))
    return packets


def _check_whole(packets: list[Any], promised: int, broken: bool) -> None:
    """An end before the promised one is a fault only if reading broke off: edit lists leave frames out on purpose."""
    if broken and len(packets) < _WHOLE * (promised or len(packets) + 10):
        raise DecodeError("truncated", f"the file breaks off after {len(packets)} of {promised or 'more'} frames")
    if not packets:
        raise DecodeError("zero_frames", "the video stream holds no frames")
