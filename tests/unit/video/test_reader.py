"""What holds for both readers: the right frames, times and facts, whatever the order of storage."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError, one_line
from pipeline.video.reader import reader_named, reader_version
from tests.support.videos import WELL_FORMED, cut_without_encoding, damaged, frame_number, write_video

READERS = ("decord", "pyav")
ORDERS = {
    "all": list(range(30)),
    "far apart": [0, 7, 14, 21, 28],
    "around key frames": [10, 11, 12, 13, 23, 24, 25],
    "one": [23],
    "last": [29],
}


@pytest.mark.parametrize("name", WELL_FORMED)
@pytest.mark.parametrize("reader", READERS)
def test_a_stream_gives_the_frames_that_were_asked_for(videos: dict[str, Path], name: str, reader: str):
    with reader_named(reader).open(videos[name]) as handle:
        for order in [*ORDERS.values(), *ORDERS.values()]:
            shown = list(handle.stream(order))
            assert [each.asked for each in shown] == [each.given for each in shown] == order
            assert [frame_number(each.frame) for each in shown] == order


@pytest.mark.parametrize("name", WELL_FORMED)
def test_both_readers_agree_on_facts_times_and_pixels(videos: dict[str, Path], name: str):
    with reader_named("decord").open(videos[name]) as first, reader_named("pyav").open(videos[name]) as second:
        assert (first.facts.frames, first.facts.width, first.facts.height) == (30, 64, 48)
        assert second.facts.fps == pytest.approx(15, rel=1e-3)
        assert first.facts.duration == pytest.approx(second.facts.duration, abs=1e-6)
        np.testing.assert_allclose(first.times, second.times, atol=1e-6)
        for one, other in zip(first.stream(range(30)), second.stream(range(30)), strict=True):
            assert np.abs(one.frame.astype(int) - other.frame).mean() < 1.0


@pytest.mark.parametrize("width", [16, 20, 32, 40, 48, 72, 96, 100])
def test_any_width_gives_the_same_pixels_from_both_readers(tmp_path: Path, width: int):
    path = write_video(tmp_path / "narrow.mp4", frames=3, size=(36, width))
    with reader_named("decord").open(path) as first, reader_named("pyav").open(path) as second:
        for one, other in zip(first.stream(range(3)), second.stream(range(3)), strict=True):
            assert one.frame.shape == other.frame.shape == (36, width, 3)
            assert np.abs(one.frame.astype(int) - other.frame).mean() < 1.0
            assert frame_number(one.frame) == one.asked


@pytest.mark.parametrize("reader", READERS)
def test_frames_at_times_come_with_the_times_and_indices_of_what_was_returned(mp4: Path, reader: str):
    with reader_named(reader).open(mp4) as handle:
        frames, times, indices = handle.frames_at(np.array([1.5, 0.0, 0.7, 0.7, 99.0]))
    assert indices.tolist() == [22, 0, 10, 10, 29]
    assert [frame_number(frame) for frame in frames] == [22, 0, 10, 10, 29]
    np.testing.assert_allclose(times, np.array([22, 0, 10, 10, 29]) / 15, atol=1e-6)
    assert frames.shape == (5, 48, 64, 3)


@pytest.mark.parametrize("reader", READERS)
def test_a_varying_frame_rate_is_sampled_by_time(tmp_path: Path, reader: str):
    at = [0, 40, 80, 1000, 2000, 2040]
    path = write_video(tmp_path / "vfr.mp4", frames=6, milliseconds=at)
    with reader_named(reader).open(path) as handle:
        np.testing.assert_allclose(handle.times * 1000, at, atol=1)
        frames, _, indices = handle.frames_at(np.array([0.5, 0.95, 1.5, 2.036]))
    assert indices.tolist() == [2, 3, 3, 5]
    assert [frame_number(frame) for frame in frames] == [2, 3, 3, 5]


@pytest.mark.parametrize("reader", READERS)
def test_one_frame_is_a_video(tmp_path: Path, reader: str):
    with reader_named(reader).open(write_video(tmp_path / "one.mp4", frames=1)) as handle:
        assert handle.facts.frames == 1
        assert handle.frames_at(np.array([0.0, 5.0]))[2].tolist() == [0, 0]


def test_decord_refuses_what_it_would_get_wrong_and_pyav_reads_it(videos: dict[str, Path], tmp_path: Path):
    cuts = {
        "cut.mp4": cut_without_encoding(videos["mpeg4_b_frames.mp4"], tmp_path / "cut.mp4", key=1),
        "cut.mkv": cut_without_encoding(videos["mpeg4_b_frames.mkv"], tmp_path / "cut.mkv", key=1),
        "late.mp4": cut_without_encoding(videos["mpeg4_b_frames.mp4"], tmp_path / "late.mp4", key=1, shift=False),
        "late.mkv": cut_without_encoding(videos["mpeg4_b_frames.mkv"], tmp_path / "late.mkv", key=1, shift=False),
    }
    for path in cuts.values():
        with pytest.raises(DecodeError, match="negative or unknown first timestamp"):
            reader_named("decord").open(path)
        with reader_named("pyav").open(path) as handle:
            numbers = [frame_number(each.frame) for each in handle.stream(range(handle.facts.frames))]
        assert numbers == list(range(12, 30))


def test_transport_streams_and_stored_order_without_times_go_to_pyav(tmp_path: Path):
    refused = {
        write_video(tmp_path / "stream.ts"): "no index",
        write_video(tmp_path / "b_frames.avi", b_frames=2): "unknown first timestamp",
        write_video(tmp_path / "h264.avi", codec="libx264", b_frames=3): "unknown first timestamp",
    }
    for path, message in refused.items():
        with pytest.raises(DecodeError, match=message):
            reader_named("decord").open(path)
        with reader_named("pyav").open(path) as handle:
            assert handle.facts.frames == 30
            for order in ORDERS.values():
                assert [frame_number(each.frame) for each in handle.stream(order)] == order


def test_decord_does_not_walk_for_ever(mp4: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.video.decord_reader.MAX_WALK", 10)
    with reader_named("decord").open(mp4) as handle:
        assert [each.given for each in handle.stream(range(15))] == list(range(15))
        with pytest.raises(DecodeError, match="frame 29 is too far"):
            list(handle.stream([29]))


def test_decord_is_not_given_more_than_fits_into_memory(mp4: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.video.decord_reader.MAX_AHEAD_BYTES", 30 * 48 * 64 * 3 - 1)
    with pytest.raises(DecodeError, match="30 frames of 64×48"):
        reader_named("decord").open(mp4)


def test_pyav_decodes_twice_where_frames_are_too_large_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.video.pyav_reader.KEEP_FRAME_BYTES", 10_000)
    with reader_named("pyav").open(write_video(tmp_path / "b.avi", b_frames=2)) as handle:
        assert [frame_number(each.frame) for each in handle.stream([3, 28])] == [3, 28]


def test_a_lost_frame_is_replaced_and_the_replacement_is_named(tmp_path: Path):
    path = write_video(
        tmp_path / "whole.mp4", frames=60, gop=6, options={"preset": "ultrafast", "x264-params": "slices=1"}
    )
    hurt = damaged(path, tmp_path / "hole.mp4", hole=(0.4, 0.5))
    with reader_named("pyav").open(hurt) as handle:
        shown = list(handle.stream(range(60)))
    lost = [each for each in shown if each.given != each.asked]
    assert 1 <= len(lost) < 20
    assert all(each.given < each.asked for each in lost)
    intact = [each for each in shown if each.given < 15]
    assert [frame_number(each.frame) for each in intact] == [each.given for each in intact]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable"), (b"<html>not a video</html>", "unreadable"), (b"#EXTM3U\n/etc/passwd\n", "unreadable")],
)
def test_what_is_no_video_is_a_fact_about_the_file(tmp_path: Path, reader: str, content: bytes, reason: str):
    path = tmp_path / "page.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        reader_named(reader).open(path)
    assert caught.value.reason in (reason, "codec")


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_file_is_a_fact_about_the_world(tmp_path: Path, reader: str):
    with pytest.raises(FileNotFoundError):
        reader_named(reader).open(tmp_path / "gone.mp4")


def test_a_file_that_breaks_off_is_truncated(tmp_path: Path):
    path = write_video(tmp_path / "whole.mp4", frames=90, options={"movflags": "faststart"})
    whole = write_fast_start(path, tmp_path / "fast.mp4")
    with pytest.raises(DecodeError, match="breaks off after") as caught:
        reader_named("pyav").open(damaged(whole, tmp_path / "half.mp4", keep=0.6))
    assert caught.value.reason == "truncated"


def write_fast_start(source: Path, target: Path) -> Path:
    """The index before the frames, so that a cut-off file still has it."""
    import av

    with av.open(str(source)) as before, av.open(str(target), "w", options={"movflags": "faststart"}) as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        for packet in before.demux(stream):
            if packet.size:
                packet.stream = copy
                after.mux(packet)
    return target


def test_a_sound_file_has_no_video(tmp_path: Path):
    import av

    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DecodeError) as caught:
        reader_named("pyav").open(path)
    assert caught.value.reason == "no_video"


def test_readers_are_found_by_name():
    assert reader_named("tests.support.videos:aborting").name == "misbehaving"
    assert reader_named("pyav").version == reader_version("pyav") != ""
    assert reader_named("decord").version == reader_version("decord") == "0.6.0"
    assert reader_version("tests.support.videos:aborting") == ""
    with pytest.raises(ConfigError, match="'opencv'"):
        reader_named("opencv")


def test_error_lines_name_no_folder_and_no_time():
    error = RuntimeError("[22:14:46] /github/video_reader.cc:486: cannot read /data/x/clip.mp4\nStack trace")
    assert one_line(error, "/data/x/clip.mp4") == "RuntimeError: cannot read clip.mp4"
