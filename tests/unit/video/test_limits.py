"""Files that ask for too much are refused with figures, soon, and within the child's memory."""

import platform
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from pipeline.config.runs import Limits as Recipe
from pipeline.video.handle import DecodeError, Limits
from pipeline.video.reader import reader_named
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import frame_number, write_video

POLICY = ViewPolicy("eval", (48, 64), 8)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]


@pytest.fixture(scope="module")
def child() -> Iterator[DecodeChild]:
    with DecodeChild() as child:
        yield child


def refused(child: DecodeChild, path: Path) -> str:
    failure = child.decode(path, VIEWS, POLICY)
    assert isinstance(failure, DecodeFailure), failure
    assert failure.reason == "too_large", failure
    return failure.message


def peak_bytes(child: DecodeChild) -> int:
    """The most memory that the child ever had resident."""
    return memory_bytes(child, "VmHWM")


def memory_bytes(child: DecodeChild, kind: str = "VmRSS") -> int:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def huge_picture(path: Path, side: int) -> Path:
    """A movie of a kilobyte; its PNG frames say in their own header that they have side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + kind + data for kind, data in parts]
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(each + struct.pack(">I", zlib.crc32(each[4:])) for each in chunks)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number in range(3):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            container.mux(packet)
    return path


def many_frames(source: Path, target: Path, count: int) -> Path:
    """The file, whose sample table now says that it has `count` frames of equal size and length."""
    data = bytearray(source.read_bytes())
    for box, offset, value in ((b"stsz", 4, 1), (b"stsz", 8, count), (b"stts", 8, count), (b"stsc", 12, count)):
        struct.pack_into(">I", data, data.index(box) + 4 + offset, value)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("side", [60_000, 16_000])
def test_a_tiny_file_with_a_huge_frame_is_refused_before_the_frame_is_made(tmp_path: Path, side: int):
    path = huge_picture(tmp_path / "bomb.mov", side)
    assert path.stat().st_size < 2000
    with DecodeChild() as child:
        assert f"{side}×{side} pixels; allowed are 134217728" in refused(child, path)
        assert peak_bytes(child) < 200 << 20


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_frame_may_have_as_many_pixels_as_allowed_and_not_one_more(mp4: Path, reader: str):
    with reader_named(reader, Limits(frame_pixels=64 * 48)).open(mp4) as handle:
        assert [frame_number(each.frame) for each in handle.stream([3])] == [3]
    with pytest.raises(DecodeError, match="64×48 pixels; allowed are 3071") as caught:
        reader_named(reader, Limits(frame_pixels=64 * 48 - 1)).open(mp4)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_gop.mkv"])
def test_a_video_may_have_as_many_frames_as_allowed_and_not_one_more(videos: dict[str, Path], reader: str, name: str):
    with reader_named(reader, Limits(frames=30)).open(videos[name]) as handle:
        assert handle.facts.frames == 30
    with pytest.raises(DecodeError, match="has 30 frames or more; allowed are 29") as caught:
        reader_named(reader, Limits(frames=29)).open(videos[name])
    assert caught.value.reason == "too_large"


def test_a_tiny_file_that_declares_ten_million_frames_is_refused(mp4: Path, tmp_path: Path):
    path = many_frames(mp4, tmp_path / "bomb.mp4", 10_000_000)
    with DecodeChild() as child:
        assert "10000000 frames or more; allowed are 1000000" in refused(child, path)
        assert peak_bytes(child) < 1 << 30


def test_a_large_file_is_refused_before_it_is_opened(mp4: Path, tmp_path: Path):
    size = mp4.stat().st_size
    for reader in ("decord", "pyav"):
        reader_named(reader, Limits(file_bytes=size)).open(mp4).close()
        with pytest.raises(DecodeError, match=f"the file has {size} bytes; allowed are {size - 1}"):
            reader_named(reader, Limits(file_bytes=size - 1)).open(mp4)
    sparse = tmp_path / "sparse.mp4"
    with sparse.open("wb") as file:
        file.truncate(5 << 30)
    with DecodeChild() as child:
        assert "5368709120 bytes" in refused(child, sparse)


def test_memory_beyond_the_limit_is_refused_and_the_next_video_is_fine(tmp_path: Path, mp4: Path):
    large = write_video(tmp_path / "large.mov", frames=1, size=(4320, 7680), codec="mjpeg")
    with DecodeChild("pyav", None, limits=Limits(memory_bytes=150 << 20)) as child:
        assert "157286400 bytes that a decode child has" in refused(child, large)
        assert isinstance(child.decode(mp4, VIEWS, POLICY), list)
    with DecodeChild("pyav", None) as child:
        assert isinstance(child.decode(large, VIEWS, POLICY), list)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to give memory back")
def test_memory_that_a_decoder_freed_goes_back_to_the_system(tmp_path: Path, mp4: Path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(mp4.read_bytes())
    with DecodeChild("tests.support.videos:scattering", None) as child:
        child.decode(mp4, VIEWS, POLICY)
        before = memory_bytes(child)
        assert isinstance(child.decode(bad, VIEWS, POLICY), list)
        assert peak_bytes(child) > before + (250 << 20)
        for _ in range(10):
            child.decode(mp4, VIEWS, POLICY)
        assert memory_bytes(child) < before + (50 << 20)


def test_limits_travel_with_each_request(child: DecodeChild, mp4: Path):
    assert isinstance(child.decode(mp4, VIEWS, POLICY), list)
    pid, child.limits = child.pid, Limits(frames=7)
    assert "30 frames or more; allowed are 7" in refused(child, mp4)
    child.limits = Limits()
    assert isinstance(child.decode(mp4, VIEWS, POLICY), list)
    assert child.pid == pid


def test_the_defaults_are_those_of_a_recipe():
    recipe, limits = Recipe(), Limits()
    assert (limits.frame_pixels, limits.frames) == (recipe.frame_pixels, recipe.frames)
    assert limits.file_bytes == recipe.file_megabytes << 20
    assert limits.memory_bytes == recipe.memory_megabytes << 20
