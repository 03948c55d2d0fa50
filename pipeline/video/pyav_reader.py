"""PyAV by packets: exact in every container, where seeking is not.

Frame i is the i-th packet in order of time that is meant to be shown; it is decoded from the last key packet on that is
not shown after it. Where packets carry no usable times (raw streams; B-frames in AVI), the video is decoded once on
opening and frames are counted as they come out.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.video.handle import DecodeError, Handle, Limits, Shown, facts_of, read_head

if TYPE_CHECKING:
    from pipeline.video.packets import Packets

# Decoded frames of a video without packet times that are kept, so that it is decoded once and not twice.
KEEP_FRAME_BYTES = 1 << 28

# FFmpeg guesses the times of packets in these, and wrongly where frames are stored in another order than shown.
_UNTIMED_FORMATS = {"avi"}


class PyAVReader:
    """The second reader."""

    name = "pyav"

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits

    @property
    def version(self) -> str:
        """The installed PyAV."""
        return version("av")

    def open(self, path: str | Path) -> "PyAVHandle":
        """OSError where storage fails, DecodeError for a fact about the file."""
        from pipeline.video.packets import Packets  # loads FFmpeg, which the planning of views does not need

        read_head(path, self._limits)
        packets = Packets(os.path.abspath(path), self._limits)
        try:
            return PyAVHandle(packets, self._limits)
        except BaseException:
            packets.close()
            raise


class PyAVHandle(Handle):
    """A video opened by PyAV. `timed`: its packets carry usable times."""

    def __init__(self, packets: "Packets", limits: Limits) -> None:
        self._packets = packets
        first = packets.first_frame()
        self._order = _order_of(packets, first)
        self.times = self._order.times
        self._size = first.width, first.height
        self._turns = first.rotation // 90 % 4
        width, height = self._size[::-1] if self._turns % 2 else self._size
        self.facts = facts_of(self.times, self._order.last, width, height, limits)
        self.timed = isinstance(self._order, _ByTime)
        self._place = -1
        self._flow: Iterator[tuple[int, Any]] = iter(())
        self._ahead: tuple[int, Any] = (-1, None)
        self._last: tuple[int, Any] | None = None

    def stream(self, indices: Iterable[int]) -> Iterator[Shown]:
        """See Handle.stream; DecodeError `unreadable` where more than half of the frames asked for are lost."""
        wanted, lost = list(indices), 0
        self._place, self._last = -1, None
        for index in wanted:
            given, frame = self._nearest(index)
            lost += given != index
            if 2 * lost > len(wanted):
                raise DecodeError("unreadable", f"{lost} or more of the {len(wanted)} frames asked for do not decode")
            yield Shown(index, given, self._rgb(frame))

    def close(self) -> None:
        """Free packets, decoder and file."""
        self._packets.close()

    def _nearest(self, index: int) -> tuple[int, Any]:
        """The frame itself, or if it is lost the last one before it, or if there is none the first behind it."""
        for candidate in range(index, len(self.times)):
            self._advance(candidate)
            if self._ahead[0] == candidate:
                self._last = self._ahead
            if self._last is not None:
                return self._last
        raise DecodeError("unreadable", f"no frame decodes from frame {index} on")

    def _advance(self, index: int) -> None:
        """Decode until `_ahead` is the frame or one behind it.

        A frame is always decoded from its own key packet on, never across one: so the pixels of a frame of a damaged
        file do not depend on which frames were asked for before, and a replay is equal.
        """
        place = self._order.place_before(index)
        if place != self._place:
            self._place, self._flow, self._ahead = place, self._order.frames_from(place), (-1, None)
        while self._ahead[0] < index:
            if self._ahead[0] >= 0 and self._order.place_before(self._ahead[0]) == place:
                self._last = self._ahead
            self._ahead = next(self._flow, (len(self.times), None))

    def _rgb(self, frame: Any) -> NDArray[np.uint8]:
        width, height = self._size
        with self._packets.errors():
            # A thread pool for the conversion would cost more than the conversion.
            pixels = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        return np.ascontiguousarray(np.rot90(pixels, self._turns))


class _Order(Protocol):
    """Which frame is number i: `times` (n,) in seconds, `last` the seconds of the last one, and where to find them."""

    times: NDArray[np.float64]
    last: float

    def place_before(self, index: int) -> int:
        """The packet from which decoding leads to frame `index` soonest."""

    def frames_from(self, place: int) -> Iterator[tuple[int, Any]]:
        """(index, frame) in the order in which they come out when decoding starts at packet `place`."""


class _ByTime:
    """Frames are known by the timestamps of their packets."""

    def __init__(self, packets: "Packets", shown: list[Any]) -> None:
        self._packets = packets
        self._index = {packet.pts: index for index, packet in enumerate(shown)}
        keys = [(packet.pts, place) for place, packet in enumerate(packets.packets) if packet.is_keyframe]
        self._key_times, self._key_places = [pts for pts, _ in keys], [place for _, place in keys]
        self._pts = list(self._index)
        self.times = _seconds(self._pts, packets)
        self.last = float((shown[-1].duration or 0) * packets.stream.time_base)

    def place_before(self, index: int) -> int:
        key = bisect_right(self._key_times, self._pts[index]) - 1
        return self._key_places[key] if key >= 0 else 0

    def frames_from(self, place: int) -> Iterator[tuple[int, Any]]:
        key = self._packets.packets[place]
        # Without the key frame, decoders paint what depends on it over grey: such frames are lost, not decoded.
        lost = key.is_keyframe and not key.is_discard
        for frame in self._packets.decoded(place):
            lost = lost and frame.pts != key.pts
            index = None if lost else self._index.get(frame.pts)
            if index is not None:
                yield index, frame


class _ByCount:
    """Frames are counted as they come out; their times are their own where these increase, else even."""

    def __init__(self, packets: "Packets") -> None:
        self._packets = packets
        self._kept: list[Any] = []
        pts, size = [], 0
        for frame in packets.decoded(0):
            pts.append(frame.pts)
            size += 3 * frame.width * frame.height // 2
            if size <= KEEP_FRAME_BYTES:
                self._kept.append(frame)
        rate = float(packets.stream.average_rate or packets.stream.guessed_rate or 25)
        self.times = _seconds(pts, packets) if _increasing(pts) else np.arange(len(pts)) / rate
        self.last = 1 / rate

    def place_before(self, index: int) -> int:
        return 0

    def frames_from(self, place: int) -> Iterator[tuple[int, Any]]:
        complete = len(self._kept) == len(self.times)
        return enumerate(self._kept if complete else self._packets.decoded(0))


def _order_of(packets: "Packets", first: Any) -> _Order:
    """By time where the packets' times can be trusted: the first frame that comes out must bear the first time."""
    shown = [packet for packet in packets.packets if not packet.is_discard]
    times = [packet.pts for packet in shown]
    if None in times or not times or _guessed(packets):
        return _ByCount(packets)
    shown.sort(key=lambda packet: packet.pts)
    if first.pts != shown[0].pts or not _increasing([packet.pts for packet in shown]):
        return _ByCount(packets)
    return _ByTime(packets, shown)


def _guessed(packets: "Packets") -> bool:
    return packets.container.format.name in _UNTIMED_FORMATS and bool(packets.stream.codec_context.has_b_frames)


def _increasing(pts: Sequence[int | None]) -> bool:
    known = [each for each in pts if each is not None]
    return len(known) == len(pts) and all(a < b for a, b in pairwise(known))


def _seconds(pts: Sequence[int], packets: "Packets") -> NDArray[np.float64]:
    base = packets.stream.time_base
    return np.array([float((each - pts[0]) * base) for each in pts])
