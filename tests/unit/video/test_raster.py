from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifacts.commit import read_object, write_table
from pipeline.artifacts.schemas import REPLAY, column
from pipeline.video import raster
from pipeline.video.handle import DecodeError, Handle
from pipeline.video.micro_batch import frames_table, replay_rows
from pipeline.video.pyav_reader import PyAVHandle, PyAVReader
from pipeline.video.raster import decode_views, rasterise, replay
from pipeline.video.reader import reader_named
from pipeline.video.views import View, ViewPolicy, draw, view_keys
from tests.support.videos import (
    WELL_FORMED,
    damaged,
    frame_number,
    numbered_frame,
    textured_frame,
    turned,
    write_video,
)

WHOLE = np.array([0, 0, 1, 1], np.float32)
TRAIN = ViewPolicy("train", (24, 32), 6, frame_stride=2, views_per_clip=4, flip=True)
EVAL = ViewPolicy("eval", (48, 64), 8, clips_per_video=3)


def row_of(view: Any) -> dict[str, Any]:
    """A view as a table gives it back: plain lists."""
    return {"times": view.times.tolist(), "crop": view.crop.tolist(), "flip": view.flip}


def test_a_raster_of_native_size_is_the_frame_itself():
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    np.testing.assert_array_equal(rasterise(frames, WHOLE, (48, 64), False), frames)
    np.testing.assert_array_equal(rasterise(frames, WHOLE, (48, 64), True), frames[:, :, ::-1])


def test_the_box_is_cropped_before_the_resize():
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[10:30, 40:80] = (200, 100, 50)
    raster = rasterise([frame], np.array([0.5, 0.25, 1.0, 0.75], np.float32), (20, 40), False)
    np.testing.assert_array_equal(raster, np.broadcast_to(np.array([200, 100, 50], np.uint8), (1, 20, 40, 3)))


def test_the_filter_averages_when_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = rasterise([stripes], WHOLE, (8, 8), False)
    assert np.abs(small[:, :, 1:-1].astype(int) - 100).max() <= 3


def test_views_come_in_their_order_with_times_indices_and_pixels(mp4: Path):
    views = [draw(EVAL, *key) for key in view_keys("v", EVAL)]
    decoded = decode_views(mp4, views[::-1], EVAL, reader_named("decord"))
    assert [each.clip_id for each in decoded] == ["v#3of3", "v#2of3", "v#1of3"]
    assert [each.indices[0] for each in decoded] == [18, 11, 3]
    for each in decoded:
        assert each.frames.shape == (8, 48, 64, 3)
        assert [frame_number(frame) for frame in each.frames] == each.indices.tolist()
        np.testing.assert_allclose(each.times, each.indices / 15, atol=1e-6)
        np.testing.assert_array_equal(each.crop, WHOLE)
        assert each.reader == "decord"


def test_a_flipped_view_is_mirrored_and_says_so(mp4: Path):
    plain = View("v#random1of1", 0, 0.0, 1.0, 4 / 3 / (64 / 48), 0.5, 0.5, False)
    turned = View("v#random1of1", 1, 0.0, 1.0, 4 / 3 / (64 / 48), 0.5, 0.5, True)
    one, other = decode_views(mp4, [plain, turned], TRAIN, reader_named("pyav"))
    np.testing.assert_array_equal(other.frames, one.frames[:, :, ::-1])
    assert (one.flip, other.flip) == (False, True)
    assert not np.array_equal(one.frames, other.frames)


def test_a_window_longer_than_the_video_holds_its_last_frame(mp4: Path):
    policy = ViewPolicy("eval", (48, 64), 6, frame_stride=10)
    (view,) = decode_views(mp4, [draw(policy, "v#1of1", 0)], policy, reader_named("decord"))
    assert view.indices.tolist() == [0, 10, 20, 29, 29, 29]
    assert [frame_number(frame) for frame in view.frames] == [0, 10, 20, 29, 29, 29]


class CountingReader(PyAVReader):
    """Counts what a reader is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.asked: list[list[int]] = []

    def open(self, path: str | Path) -> Any:
        handle: Handle = super().open(path)
        self.opened += 1
        stream = handle.stream

        def counted(indices: Any) -> Iterator[Any]:
            self.asked.append(list(indices))
            return stream(indices)

        handle.stream = counted  # type: ignore[method-assign]
        return handle


def test_all_views_share_one_pass_over_the_frames_that_are_needed(mp4: Path):
    reader = CountingReader()
    views = [draw(TRAIN, *key) for key in view_keys("v", TRAIN)]
    decoded = decode_views(mp4, views, TRAIN, reader)
    assert (reader.opened, len(reader.asked)) == (1, 1)
    assert reader.asked[0] == sorted({int(index) for view in decoded for index in view.indices})
    assert len(reader.asked[0]) < 24 < 30


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(WELL_FORMED)), stride=st.integers(1, 4))
def test_draw_store_replay_gives_equal_pixels(videos: dict[str, Path], reader: str, seed: int, name: str, stride: int):
    policy = ViewPolicy("train", (20, 28), 5, stride, views_per_clip=3, flip=True, seed=seed)
    views = [draw(policy, *key) for key in view_keys(name, policy)]
    for view in decode_views(videos[name], views, policy, reader_named(reader)):
        again = replay(videos[name], row_of(view), policy, reader_named(view.reader))
        np.testing.assert_array_equal(again, view.frames)


@pytest.mark.parametrize("hole", [(0.25, 0.33), (0.5, 0.58), (0.55, 0.63)])
def test_views_of_a_damaged_file_replay_equal(tmp_path: Path, hole: tuple[float, float]):
    """What a decoder paints over a lost frame depends on what it decoded before; a replay decodes other frames."""
    path = damaged(write_video(tmp_path / "w.mp4", frames=60, gop=6), tmp_path / "hole.mp4", hole=hole)
    policy = ViewPolicy("train", (24, 24), 6, views_per_clip=8)
    views = decode_views(path, [draw(policy, *key) for key in view_keys("v", policy)], policy, PyAVReader())
    assert any(len(set(view.indices.tolist())) < 6 for view in views)
    for view in views:
        np.testing.assert_array_equal(replay(path, row_of(view), policy, PyAVReader()), view.frames)


def test_a_row_of_one_reader_replays_nearly_equal_with_the_other(mp4: Path):
    (view,) = decode_views(mp4, [draw(TRAIN, "v#random1of1", 0)], TRAIN, reader_named("decord"))
    again = replay(mp4, row_of(view), TRAIN, reader_named("pyav"))
    assert np.abs(again.astype(int) - view.frames).mean() < 1.0


def test_no_views_need_no_video(tmp_path: Path):
    assert decode_views(tmp_path / "gone.mp4", [], EVAL, reader_named("pyav")) == []


def test_a_video_that_is_too_short_for_overflow_error_is_refused(mp4: Path):
    policy = ViewPolicy("eval", (48, 64), 8, frame_stride=10, overflow="error")
    with pytest.raises(DecodeError, match="behind the end"):
        decode_views(mp4, [draw(policy, "v#1of1", 0)], policy, reader_named("pyav"))


def test_numbers_survive_the_raster():
    small = rasterise([numbered_frame(number, (48, 64)) for number in (0, 77, 255)], WHOLE, (16, 16), False)
    assert [frame_number(frame) for frame in small] == [0, 77, 255]


SMALL = ViewPolicy("eval", (18, 26), 5, 2)
POLICIES = {
    "window": ViewPolicy("train", (18, 26), 5, 2, views_per_clip=3, flip=True),
    "segments": ViewPolicy("train", (18, 26), 5, views_per_clip=3, flip=True, temporal="segments"),
    "multi_scale_crop": ViewPolicy("train", (26, 18), 5, 2, views_per_clip=3, spatial="multi_scale_crop", places=13),
    "uniform": replace(SMALL, clips_per_video=3, crop=0.7),
    "dense": replace(SMALL, temporal="dense", window_stride=4, overflow="wrap"),
    "eval segments": replace(SMALL, temporal="segments", clips_per_video=2),
    "10 x 3": replace(SMALL, clips_per_video=10, spatial="three_crop", views_per_clip=3),
    "ten_crop": replace(SMALL, spatial="ten_crop", views_per_clip=10, crop=0.875, flip=True),
}


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Odd sizes, a quarter turn, a varying frame rate, one frame, and fewer frames than a window."""
    folder = tmp_path_factory.mktemp("textured")
    times = np.cumsum(np.random.default_rng(0).integers(7, 160, 30)).tolist()
    made = {
        "odd.webm": {"size": (45, 61)},
        "odd.mov": {"size": (61, 45), "codec": "mjpeg"},
        "turned.mp4": {"size": (48, 70)},
        "varying.mkv": {"milliseconds": times, "b_frames": 0},
        "one.mp4": {"frames": 1},
        "short.mp4": {"frames": 4, "b_frames": 2},
    }
    paths = {name: write_video(folder / name, picture=textured_frame, **fields) for name, fields in made.items()}
    paths["turned.mp4"] = turned(paths["turned.mp4"], folder / "quarter.mp4")
    return paths


def stored(folder: Path, decoded: list[Any]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Views as they come back out of a Parquet file: their rows and their pixels."""
    slots = [
        {name: getattr(view, name, "v") for name in REPLAY}
        | {"times": view.times.tolist(), "indices": view.indices.tolist()}
        for view in decoded
    ]
    table = frames_table(slots, np.stack([view.frames for view in decoded]))
    read = read_object(folder, write_table(folder, f"part-{uuid4().hex}.parquet", table))
    return replay_rows(read), column(read, "frames")


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), video=st.integers(0, 5), data=st.data())
def test_every_policy_is_drawn_stored_and_replayed_with_equal_pixels(
    textured: dict[str, Path], tmp_path: Path, reader: str, name: str, seed: int, video: int, data: st.DataObject
):
    """Through Parquet; and each view alone has the pixels that it has beside the others of its video."""
    policy, path = replace(POLICIES[name], seed=seed), textured[sorted(textured)[video]]
    views = [draw(policy, *key) for key in view_keys("v", policy, 30)]
    decoded = decode_views(path, views, policy, reader_named(reader))
    rows, pixels = stored(tmp_path, decoded)
    assert [(row["clip_id"], row["view_id"]) for row in rows] == [(view.clip_id, view.view_id) for view in views]
    for row, frames in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(replay(path, row, policy, reader_named(row["reader"])), frames)
    place = data.draw(st.integers(0, len(views) - 1))
    (alone,) = decode_views(path, [views[place]], policy, reader_named(reader))
    np.testing.assert_array_equal(alone.frames, pixels[place])
    assert alone.indices.tolist() == rows[place]["indices"]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_both_readers_see_the_same_frames(textured: dict[str, Path], name: str):
    policy = POLICIES[name]
    views = [draw(policy, *key) for key in view_keys("v", policy, 30)]
    for path in textured.values():
        one, other = (decode_views(path, views, policy, reader_named(reader)) for reader in ("decord", "pyav"))
        for first, second in zip(one, other, strict=True):
            assert first.indices.tolist() == second.indices.tolist()
            np.testing.assert_array_equal(first.crop, second.crop)
            assert np.abs(first.frames.astype(int) - second.frames).mean() < 8  # another frame: above 15


def test_crops_of_one_window_show_their_own_part_of_it(textured: dict[str, Path]):
    """Three crops of a wide raster of a tall picture overlap; where they do, they are the same picture."""
    policy = ViewPolicy("eval", (61, 61), 2, spatial="three_crop", views_per_clip=3)
    wide = write_video(textured["odd.webm"].with_name("wide.webm"), size=(61, 121), picture=textured_frame)
    left, middle, right = decode_views(wide, [draw(policy, "v#1of1", n) for n in range(3)], policy, PyAVReader())
    for moved, by in ((middle, 30), (right, 60)):
        difference = np.abs(left.frames[:, :, by:].astype(int) - moved.frames[:, :, : 61 - by])
        assert difference.mean() < 1.0
    assert np.abs(left.frames.astype(int) - right.frames).mean() > 20


def test_only_what_a_view_needs_is_converted_and_cropped(mp4: Path, monkeypatch: pytest.MonkeyPatch):
    """Each frame that a view shows becomes RGB once for all views, and is resized once for each view that shows it."""
    calls: Counter[str] = Counter()

    def counting(name: str, call: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            calls[name] += 1
            return call(*arguments)

        return counted

    monkeypatch.setattr(PyAVHandle, "_rgb", counting("converted", PyAVHandle._rgb))
    monkeypatch.setattr(raster, "_resized", counting("resized", raster._resized))
    policy = POLICIES["10 x 3"]
    decoded = decode_views(mp4, [draw(policy, *key) for key in view_keys("v", policy)], policy, PyAVReader())
    assert calls["converted"] == len({index for view in decoded for index in view.indices.tolist()}) < 30
    assert calls["resized"] == sum(len(set(view.indices.tolist())) for view in decoded)
