"""The compressed packets of one video, read once through PyAV and kept: decoding can start at any key packet."""

import errno
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from typing import Any

import av
import av.logging

from pipeline.video.handle import DecodeError, Limits, one_line

# Compressed bytes of one video that are kept in memory, as a share of it; longer recordings are to be cut into clips.
_PACKET_SHARE = 0.5
_MAX_PACKET_BYTES = 1 << 30

# A file whose end is missing is still used if it holds this share of the frames that its header promises.
_WHOLE = 0.9

# Errors that no file can cause.
_WORLDLY = {
    errno.EACCES,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
}

# Packets that are decoded once more to learn why none decodes.
_PACKETS_LOGGED = 3

# What FFmpeg writes about a frame that it will not decode.
_PICTURE_SIZE = re.compile(r"Picture size (\d+)x(\d+)")


class Packets:
    """An open file and the packets of its best video stream, in file order. Frames are decoded with one thread."""

    def __init__(self, path: str, limits: Limits) -> None:
        """DecodeError where there is no video stream, nothing in it, most of it is missing, or limits are exceeded."""
        self._path, self._limits = path, limits
        with av_errors(path):
            self.container = _open(path, limits)
            try:
                self.stream = _video_stream(self.container, limits)
                self.packets = _read(self.container, self.stream, limits)
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
            except MemoryError:
                raise
            except av.FFmpegError:
                continue
            yield from frames

    def first_frame(self) -> Any:
        """The first frame that decodes; DecodeError where none does."""
        first = next(self.decoded(0), None)
        if first is None:
            _check_refused(self._path, self._limits)
            raise DecodeError("unreadable", f"none of {len(self.packets)} frames decodes")
        return first

    def errors(self) -> AbstractContextManager[None]:
        """See av_errors."""
        return av_errors(self._path)

    def close(self) -> None:
        """Free packets, decoder and file."""
        self.packets = []
        self.container.close()


def peek(path: str, limits: Limits) -> None:
    """What readers are not asked who decode without looking: DecodeError `too_large` or `encrypted`. Takes 1 to 4 ms.

    Nothing else is judged; the reader's own words will be better.
    """
    unknown = False
    with suppress(av.FFmpegError), _open(path, limits) as container:
        stream = container.streams.best("video")
        if stream is not None and stream.codec_context is not None:
            _check_declared(stream, limits)
            _check_clear(next(container.demux(stream)))
            unknown = not stream.codec_context.width
    if unknown:
        _check_refused(path, limits)


@contextmanager
def av_errors(path: str) -> Iterator[None]:
    """FFmpeg's errors are facts about the file, but for those that only the world can cause.

    FFmpeg also says EIO, EPERM and ENOENT about damaged files: there, reading the file through will tell.
    """
    try:
        yield
    except MemoryError:
        raise
    except av.FFmpegError as error:
        if error.errno in _WORLDLY:
            raise OSError(error.errno, error.strerror, path) from error
        missing_codec = isinstance(error, av.error.DecoderNotFoundError)
        raise DecodeError("codec" if missing_codec else "unreadable", one_line(error, path)) from error


def _video_stream(container: Any, limits: Limits) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError("no_video", "the file has no video stream")
    context = stream.codec_context
    if context is None:
        raise DecodeError("codec", "no decoder for the video stream")
    _check_declared(stream, limits)
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = _refusing(limits)
    return stream


def _check_declared(stream: Any, limits: Limits) -> None:
    limits.check_frames(stream.frames)
    limits.check_frame(stream.codec_context.width, stream.codec_context.height)


def _check_clear(packet: Any) -> None:
    """Of encrypted frames some decode by chance, to noise."""
    if packet.has_sidedata("encryption_info"):
        raise DecodeError("encrypted", "the frames are encrypted")


def _open(path: str, limits: Limits) -> Any:
    # Without the first option, a file could make FFmpeg open other files or hosts.
    options = {"protocol_whitelist": "file", **_refusing(limits)}
    return av.open(path, options=options, metadata_errors="replace")


def _refusing(limits: Limits) -> dict[str, str]:
    """FFmpeg's own limit, which holds inside the stream too; a little wider, for what codecs add at the edges."""
    return {"max_pixels": str(min(limits.frame_pixels + limits.frame_pixels // 8 + (1 << 16), (1 << 31) - 1))}


def _check_refused(path: str, limits: Limits) -> None:
    """DecodeError `too_large` where FFmpeg refused frames for their size, which only its log tells."""
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as log, suppress(av.FFmpegError), _open(path, limits) as container:
            stream = container.streams.best("video")
            stream.codec_context.options = _refusing(limits)
            for packet in islice(container.demux(stream), _PACKETS_LOGGED):
                with suppress(av.FFmpegError):
                    packet.decode()
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])
    sizes = [match for _, _, text in log if (match := _PICTURE_SIZE.search(text))]
    if sizes:
        width, height = map(int, sizes[0].groups())
        raise DecodeError("too_large", f"a frame has {width}×{height} pixels; allowed are {limits.frame_pixels}")


def _read(container: Any, stream: Any, limits: Limits) -> list[Any]:
    packets, size, broken = [], 0, False
    most = min(_MAX_PACKET_BYTES, int(_PACKET_SHARE * (limits.memory_bytes or 1 << 62)))
    try:
        for packet in container.demux(stream):
            size += packet.size
            if size > most:
                raise DecodeError("too_large", f"the video has more than {most} compressed bytes: cut it into clips")
            if packet.size:
                _check_clear(packet)
                packets.append(packet)
                limits.check_frames(len(packets))
    except MemoryError:
        raise
    except av.FFmpegError as error:
        if error.errno in _WORLDLY:
            raise
        broken = True
    _check_whole(packets, stream.frames, broken or bool(packets and packets[-1].is_corrupt))
    return packets


def _check_whole(packets: list[Any], promised: int, broken: bool) -> None:
    """An end before the promised one is a fault only if reading broke off: edit lists leave frames out on purpose."""
    if broken and len(packets) < _WHOLE * (promised or len(packets) + 10):
        raise DecodeError("truncated", f"the file breaks off after {len(packets)} of {promised or 'more'} frames")
    if not packets:
        raise DecodeError("zero_frames", "the video stream holds no frames")
