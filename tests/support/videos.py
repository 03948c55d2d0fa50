"""Small videos whose frames carry their number, cuts and damage of them, and readers that misbehave on purpose."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

# Folders that lie beside the checkout on some machines; tests that use them are skipped where they are missing.
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ODDITIES = SHARED_DATA / "oddities"
UT_INTERACTION = SHARED_DATA / "ut_interaction"

BITS = 8
_CODECS = {".mp4": "libx264", ".mkv": "libx264", ".ts": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9"}
_OPTIONS = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}


def numbered_frame(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame (height, width, 3) that shows `number` as eight black and white bars, lowest bit at the left."""
    bars = [(number >> bit) & 1 for bit in range(BITS)]
    columns = np.array(bars)[np.arange(size[1]) * BITS // size[1]]
    return np.broadcast_to(np.where(columns, 235, 16).astype(np.uint8)[None, :, None], (*size, 3)).copy()


def frame_number(frame: NDArray[np.uint8]) -> int:
    """The number that a frame of any size shows; wrong if it was cropped or flipped."""
    height, width = frame.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    rows = slice(height // 4, max(height // 4 + 1, 3 * height // 4))
    return sum(1 << bit for bit, column in enumerate(middles) if frame[rows, column].mean() > 128)


def textured_frame(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame (height, width, 3) without any symmetry, that differs from frame to frame and from row to row."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = (np.sin(x / 5 + number / 3), np.sin(y / 4 - number / 2), np.sin((x + 2 * y) / 7 + number))
    return np.stack([128 + 90 * wave for wave in waves], axis=-1).astype(np.uint8)


def turned(source: Path, target: Path) -> Path:
    """A copy of an MP4 file whose header says that it is to be shown turned by a quarter."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    target.write_bytes(data)
    return target


def write_video(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (48, 64),
    fps: int = 15,
    codec: str | None = None,
    gop: int = 12,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
    milliseconds: Sequence[int] | None = None,
    picture: Callable[[int, tuple[int, int]], NDArray[np.uint8]] = numbered_frame,
) -> Path:
    """Frames 0, 1, … of `picture`; the container and by default the codec follow the suffix.

    `milliseconds` are the times of the frames, for a varying frame rate without B-frames.
    """
    codec = codec or _CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps, options={**_OPTIONS.get(codec, {}), **(options or {})})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        images = [av.VideoFrame.from_ndarray(picture(number, size), format="rgb24") for number in range(frames)]
        packets = [packet for image in [*images, None] for packet in stream.encode(image)]
        for packet, at in zip(packets, milliseconds or [], strict=milliseconds is not None):
            packet.pts = packet.dts = at
            packet.time_base = Fraction(1, 1000)
        container.mux(packets)
    return path


def cut_without_encoding(source: Path, target: Path, *, key: int, shift: bool = True) -> Path:
    """Copy the packets from the `key`-th key packet on, as `ffmpeg -ss -c copy` does; `shift` puts that packet at 0.

    Frames that are stored behind the key packet and shown before it then have times before it, and cannot be decoded.
    """
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        packets: list[Any] = [packet for packet in before.demux(stream) if packet.size]
        first = [place for place, packet in enumerate(packets) if packet.is_keyframe][key]
        start = packets[first].pts if shift else 0
        for packet in packets[first:]:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
            after.mux(packet)
    return target


def damaged(source: Path, target: Path, *, keep: float = 1.0, hole: tuple[float, float] = (0.0, 0.0)) -> Path:
    """A copy that ends after the share `keep` of its bytes and is zero between the shares of `hole`."""
    data = bytearray(source.read_bytes())
    start, stop = (int(share * len(data)) for share in hole)
    data[start:stop] = bytes(stop - start)
    target.write_bytes(data[: int(keep * len(data))])
    return target


# What write_video is told for videos that both readers must agree on: 30 frames of 64×48 at 15 per second.
WELL_FORMED: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264_b_frames.mp4": {"b_frames": 3},
    "h264_open_gop.mkv": {"b_frames": 3, "options": {"x264-params": "open-gop=1:bframes=3"}},
    "mpeg4.avi": {},
    "mpeg4_b_frames.mp4": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4_b_frames.mkv": {"codec": "mpeg4", "b_frames": 2},
    "vp9.webm": {},
    "mjpeg.mov": {"codec": "mjpeg"},
}


def aborting() -> "_Misbehaving":
    """A reader that ends its process, as a crash in a decoder does."""
    return _Misbehaving(lambda path: os.abort())


def quitting() -> "_Misbehaving":
    """A reader that says something and ends its process with code 7."""
    return _Misbehaving(_quit)


def hanging() -> "_Misbehaving":
    """A reader that never returns, holds the GIL and ignores SIGTERM, as decord does on some files."""
    return _Misbehaving(_hang)


def chattering() -> "_Misbehaving":
    """A reader that writes 1 MB to stdout and stderr and then gives up."""
    return _Misbehaving(_chatter)


def without_storage() -> "_Misbehaving":
    """A reader that meets the error of storage whose number stands in the file's name: `bad_5.mp4`."""
    return _Misbehaving(_fail_storage)


def defective() -> "_Misbehaving":
    """A reader with a programming error."""
    return _Misbehaving(lambda path: len(3))  # type: ignore[arg-type]


def hungry() -> "_Misbehaving":
    """A reader that asks for 8 GiB of memory."""
    return _Misbehaving(lambda path: np.ones(1 << 33, np.uint8))


def scattering() -> "_Misbehaving":
    """A reader that frees the 300 MB that it took, but for a crumb at the end; then the file is fine."""
    return _Misbehaving(_scatter)


def signalled() -> "_Misbehaving":
    """A reader that sends its process signal S, N times: `bad_S_N.mp4`; then the file is fine. As others would do."""
    return _Misbehaving(_signal_self)


def rambling() -> "_Misbehaving":
    """A reader that never stops to write to stderr."""
    return _Misbehaving(_ramble)


def slow_to_load() -> "_Misbehaving":
    """A reader whose library takes two seconds to load."""
    time.sleep(2)
    return _Misbehaving(lambda path: None)


def telling_modules() -> "_Misbehaving":
    """A reader that fails with the list of heavy modules in its process."""
    return _Misbehaving(_tell_modules)


_crumbs: list[bytes] = []


class _Misbehaving:
    name, version = "misbehaving", "1"

    def __init__(self, act: Any) -> None:
        self._act = act

    def open(self, path: str | Path) -> Any:
        """Misbehave, but only on files that are called `bad…`; others go to PyAV."""
        from pipeline.video.pyav_reader import PyAVReader

        return self._act(path) if Path(path).name.startswith("bad") else PyAVReader().open(path)


def _quit(path: str | Path) -> None:
    os.write(2, b"my last words\n")
    os._exit(7)


def _hang(path: str | Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(3600)


def _chatter(path: str | Path) -> None:
    from pipeline.video.handle import DecodeError

    for descriptor in (1, 2):
        for _ in range(1000):
            os.write(descriptor, b"noise of a decoder".ljust(1000, b".") + b"\n")
    os.write(2, b"the last words\n")
    raise DecodeError("unreadable", "gave up after much noise")


def _fail_storage(path: str | Path) -> None:
    number = int(Path(path).stem.rpartition("_")[2])
    raise OSError(number, os.strerror(number))


def _signal_self(path: str | Path) -> Any:
    from pipeline.video.pyav_reader import PyAVReader

    _, number, times = Path(path).stem.split("_")
    before = list(Path(path).parent.glob("sent_*"))
    if len(before) < int(times):
        (Path(path).parent / f"sent_{len(before)}").touch()
        os.kill(os.getpid(), int(number))
    return PyAVReader().open(path)


def _scatter(path: str | Path) -> Any:
    from pipeline.video.pyav_reader import PyAVReader

    taken = [b"." * 60_000 for _ in range(5_000)]
    _crumbs.append(taken.pop())
    del taken
    return PyAVReader().open(path)


def _ramble(path: str | Path) -> None:
    while True:
        os.write(2, b"and so on " * 100)


def _tell_modules(path: str | Path) -> None:
    from pipeline.video.handle import DecodeError

    heavy = sorted({"torch", "ray", "mlflow", "pyarrow", "pydantic"} & set(sys.modules))
    threads = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")]
    raise DecodeError("unreadable", f"heavy: {heavy}; threads: {threads}")
