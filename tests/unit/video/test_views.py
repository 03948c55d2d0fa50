import json
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError, Facts
from pipeline.video.views import View, ViewPolicy, clip_ids, draw, resolve, view_keys

TRAIN = ViewPolicy("train", (32, 32), 8, views_per_clip=4)
EVAL = ViewPolicy("eval", (32, 32), 8, clips_per_video=3)
WIDE = Facts(duration=4.0, fps=15.0, frames=60, width=320, height=180)


def test_clips_and_views_are_named_by_window_and_ordinal():
    assert clip_ids("v17", EVAL) == ["v17#1of3", "v17#2of3", "v17#3of3"]
    assert clip_ids("v17", TRAIN) == ["v17#random1of1"]
    assert view_keys("v17", TRAIN) == [("v17#random1of1", view) for view in range(4)]
    assert view_keys("v17", EVAL) == [("v17#1of3", 0), ("v17#2of3", 0), ("v17#3of3", 0)]


def test_a_draw_depends_on_seed_clip_and_view_alone_and_never_changes():
    view = draw(TRAIN, "v17#random1of1", 2)
    assert view == draw(replace(TRAIN, size=(64, 64), num_frames=16), "v17#random1of1", 2)
    assert view.position == pytest.approx(0.20991707, abs=1e-8)
    assert view.area == pytest.approx(0.8, abs=0.2)
    others = [draw(TRAIN, "v17#random1of1", 3), draw(TRAIN, "v18#random1of1", 2)]
    others.append(draw(replace(TRAIN, seed=1), "v17#random1of1", 2))
    assert len({each.position for each in [view, *others]}) == 4


def test_draws_fill_their_ranges():
    views = [draw(replace(TRAIN, flip=True), f"v{number}#random1of1", 0) for number in range(2000)]
    area, aspect = np.array([view.area for view in views]), np.array([view.aspect for view in views])
    assert 0.6 <= area.min() < 0.605
    assert 0.995 < area.max() <= 1.0
    assert 0.8 <= aspect.min() < 0.805
    assert 1.24 < aspect.max() <= 1.25
    assert abs(np.log(aspect).mean()) < 0.01
    for name in ("position", "x", "y"):
        assert np.histogram([getattr(view, name) for view in views], 4, (0, 1))[0].min() > 440
    assert 900 < sum(view.flip for view in views) < 1100
    assert not any(draw(TRAIN, f"v{number}#random1of1", 0).flip for number in range(100))


def test_eval_windows_are_spread_evenly_and_cropped_at_the_centre():
    replays = [resolve(draw(EVAL, *key), EVAL, WIDE) for key in view_keys("v", EVAL)]
    slack = 4.0 - 8 / 15
    np.testing.assert_allclose([each.times[0] for each in replays], np.array([1, 3, 5]) / 6 * slack)
    for each in replays:
        np.testing.assert_allclose(np.diff(each.times), 1 / 15)
        np.testing.assert_allclose(each.box * [320, 180, 320, 180], [70, 0, 250, 180], atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32)])
def test_a_crop_has_the_drawn_area_and_shape(size: tuple[int, int]):
    policy = replace(TRAIN, size=size)
    for number in range(200):
        view = draw(policy, f"v{number}#random1of1", 0)
        x0, y0, x1, y1 = resolve(view, policy, WIDE).box.astype(float) * [320, 180, 320, 180]
        width, height = x1 - x0, y1 - y0
        assert width / height == pytest.approx(view.aspect * size[1] / size[0], rel=1e-4)
        assert -1e-4 <= x0 < x1 <= 320.0001
        assert -1e-4 <= y0 < y1 <= 180.0001
        touches = width == pytest.approx(320, rel=1e-4) or height == pytest.approx(180, rel=1e-4)
        assert touches or width * height == pytest.approx(view.area * 320 * 180, rel=1e-4)


def test_the_stored_box_is_the_box_that_is_used():
    assert resolve(draw(TRAIN, "v#random1of1", 0), TRAIN, WIDE).box.dtype == np.float32


def test_a_video_shorter_than_the_window_is_held_or_refused():
    short = replace(WIDE, duration=0.2, frames=3)
    view = View("v#1of1", 0, 0.5, 1.0, 1.0, 0.5, 0.5, False)
    assert resolve(view, EVAL, short).times.max() == 0.2
    with pytest.raises(DecodeError, match="behind the end") as caught:
        resolve(view, replace(EVAL, overflow="error"), short)
    assert caught.value.reason == "truncated"


def test_a_policy_survives_json():
    policy = replace(TRAIN, flip=True, overflow="wrap", seed=7)
    assert ViewPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "test"}, "kind is 'test'"),
        ({"overflow": "loop"}, "repeat_last, wrap, error"),
        ({"num_frames": 0}, "'num_frames': 0"),
        ({"size": (32,)}, "height, width"),
        ({"scale": (0.9, 0.5)}, "smallest <= largest"),
        ({"ratio": (0.0, 1.0)}, "narrowest <= widest"),
        ({"kind": "eval"}, "one view per clip"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_name(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        replace(TRAIN, **change)


def policy(**fields: Any) -> ViewPolicy:
    return ViewPolicy(**{"kind": "eval", "size": (32, 32), "num_frames": 8, **fields})


THREE = policy(spatial="three_crop", views_per_clip=3, clips_per_video=10)
TEN = policy(spatial="ten_crop", views_per_clip=10, crop=0.875, flip=True)
DENSE = policy(temporal="dense", frame_stride=2, window_stride=10, max_windows=6, clips_per_video=2)
MULTI = replace(TRAIN, spatial="multi_scale_crop")
SEGMENTS = replace(TRAIN, temporal="segments")
EVERY = [TRAIN, EVAL, THREE, TEN, DENSE, MULTI, SEGMENTS, policy(temporal="segments", clips_per_video=2)]


def pixels(view: View, of: ViewPolicy, facts: Facts = WIDE) -> list[float]:
    """The box x0, y0, x1, y1 in pixels."""
    edges = resolve(view, of, facts).box.astype(float) * [facts.width, facts.height, facts.width, facts.height]
    return [round(edge, 2) for edge in edges]


def test_the_usual_policy_by_its_name_is_the_same_policy():
    assert replace(TRAIN, spatial="random_resized_crop", temporal="window") == TRAIN
    assert replace(EVAL, spatial="center_crop", temporal="uniform") == EVAL
    assert (TRAIN.crops, TRAIN.windows, EVAL.crops, EVAL.windows) == (
        "random_resized_crop",
        "window",
        "center_crop",
        "uniform",
    )


def test_ten_windows_by_three_crops_along_the_longer_side():
    keys = view_keys("v", THREE)
    assert len(keys) == 30
    assert keys[:4] == [("v#1of10", 0), ("v#1of10", 1), ("v#1of10", 2), ("v#2of10", 0)]
    boxes = [pixels(draw(THREE, *key), THREE) for key in keys[:3]]
    assert boxes == [[0, 0, 180, 180], [70, 0, 250, 180], [140, 0, 320, 180]]
    tall = replace(WIDE, width=180, height=320)
    assert [pixels(draw(THREE, *key), THREE, tall) for key in keys[:3]] == [
        [0, 0, 180, 180],
        [0, 70, 180, 250],
        [0, 140, 180, 320],
    ]
    starts = {resolve(draw(THREE, *key), THREE, WIDE).times[0] for key in keys}
    np.testing.assert_allclose(sorted(starts), (np.arange(10) + 0.5) / 10 * (4.0 - 8 / 15))


def test_ten_crops_are_corners_and_middle_and_their_mirror_images():
    views = [draw(TEN, *key) for key in view_keys("v", TEN)]
    side = 0.875 * 180
    corners = [(0, 0), (320 - side, 0), (0, 180 - side), (320 - side, 180 - side), ((320 - side) / 2, (180 - side) / 2)]
    for view, (x, y) in zip(views, corners + corners, strict=True):
        np.testing.assert_allclose(pixels(view, TEN), [x, y, x + side, y + side], atol=0.01)
    assert [view.flip for view in views] == [False] * 5 + [True] * 5


def test_a_smaller_centre_crop():
    view = draw(policy(crop=0.5), "v#1of1", 0)
    assert pixels(view, policy(crop=0.5)) == [115, 45, 205, 135]


@pytest.mark.parametrize("places", [5, 13])
def test_multi_scale_crops_have_fixed_sides_and_places(places: int):
    chosen = replace(MULTI, places=places)
    seen: dict[str, set[Any]] = {"sides": set(), "places": set()}
    for number in range(600):
        view = draw(chosen, f"v{number}#random1of1", 0)
        x0, y0, x1, y1 = pixels(view, chosen)
        width, height = (x1 - x0) / 180, (y1 - y0) / 180
        seen["sides"].add((round(width, 3), round(height, 3)))
        seen["places"].add((view.x, view.y))
        assert x0 == pytest.approx(view.x * (320 - 180 * width), abs=0.02)
        assert y0 == pytest.approx(view.y * (180 - 180 * height), abs=0.02)
    scales = [1.0, 0.875, 0.75, 0.66]
    wanted = {(a, b) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 1}
    assert seen["sides"] == wanted
    assert len(seen["places"]) == places


def test_a_segment_view_has_one_frame_in_each_part_of_the_video():
    means = []
    for number in range(400):
        times = resolve(draw(SEGMENTS, f"v{number}#segments1of1", number % 4), SEGMENTS, WIDE).times
        assert (times // 0.5).tolist() == list(range(8))
        means.append((times % 0.5).mean())
    assert np.mean(means) == pytest.approx(0.25, abs=0.01)
    assert clip_ids("v", SEGMENTS) == ["v#segments1of1"]
    longer = replace(SEGMENTS, num_frames=16)
    few, many = (draw(each, "v#segments1of1", 1).offsets for each in (SEGMENTS, longer))
    assert many[:8] == few
    assert len(set(few)) == 8


def test_evaluation_segments_are_spread_evenly_and_the_same_each_time():
    one, two = policy(temporal="segments"), policy(temporal="segments", clips_per_video=2)
    np.testing.assert_allclose(resolve(draw(one, "v#segments1of1", 0), one, WIDE).times, 0.25 + np.arange(8) / 2)
    times = [resolve(draw(two, *key), two, WIDE).times for key in view_keys("v", two)]
    np.testing.assert_allclose(times, [0.125 + np.arange(8) / 2, 0.375 + np.arange(8) / 2])


@pytest.mark.parametrize(
    ("frames", "ordinals"),
    [(1, [1]), (15, [1]), (24, [1]), (25, [1, 2]), (65, [1, 2, 3, 4, 5, 6]), (75, [1, 2, 3, 5, 6, 7]), (None, None)],
)
def test_dense_windows_are_as_many_as_fit_and_named_by_their_place(frames: int | None, ordinals: list[int] | None):
    """15 frames long, every 10 frames, 6 at most; a header without a number gives the uniform windows."""
    wanted = ["v#1of2", "v#2of2"] if ordinals is None else [f"v#dense{ordinal}" for ordinal in ordinals]
    assert clip_ids("v", DENSE, frames) == wanted


def test_a_dense_window_starts_where_its_name_says():
    facts = Facts(duration=75 / 15, fps=15.0, frames=75, width=320, height=180)
    keys = view_keys("v", DENSE, 75)
    starts = [resolve(draw(DENSE, *key), DENSE, facts).times[0] * 15 for key in keys]
    np.testing.assert_allclose(starts, [0, 10, 20, 40, 50, 60])
    shorter = replace(facts, duration=40 / 15, frames=40)
    late = resolve(draw(DENSE, "v#dense7", 0), DENSE, shorter)
    np.testing.assert_allclose(late.times * 15, 25 + 2 * np.arange(8))
    np.testing.assert_allclose(resolve(draw(DENSE, "v#1of2", 0), DENSE, facts).times[0] * 15, 0.25 * 60)
    assert clip_ids("v", replace(DENSE, window_stride=None), 75) == ["v#dense1", "v#dense2", "v#dense3", "v#dense4"]


def test_places_and_sides_are_drawn_evenly():
    views = [draw(MULTI, f"v{number}#random1of1", 0) for number in range(3000)]
    places = Counter((view.x, view.y) for view in views)
    sides = Counter(view.sides for view in views)
    assert min(places.values()) > 500 < max(places.values()) < 700
    assert len(sides) == 10
    assert 240 < min(sides.values()) < max(sides.values()) < 360


@pytest.mark.parametrize("each", EVERY, ids=lambda each: f"{each.kind}-{each.windows}-{each.crops}")
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_view_lies_within_its_video(each: ViewPolicy, data: st.DataObject):
    frames, fps = data.draw(st.integers(1, 300)), data.draw(st.floats(1, 120))
    width, height = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 2000))
    size = data.draw(st.tuples(st.integers(8, 300), st.integers(8, 300)))
    chosen = replace(each, size=size, seed=data.draw(st.integers(0, 9)))
    facts = Facts(frames / fps, fps, frames, width, height)
    keys = view_keys("v", chosen, data.draw(st.none() | st.integers(1, 400)))
    assert len(set(keys)) == len(keys) >= 1
    for key in keys:
        view = draw(chosen, *key)
        assert view == View(**json.loads(json.dumps(asdict(view))))
        replay = resolve(view, chosen, facts)
        assert replay.times.shape == (8,)
        assert replay.times.min() >= 0
        assert replay.times.max() <= facts.duration
        assert (np.diff(replay.times) >= 0).all()
        x0, y0, x1, y1 = replay.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        shape = (x1 - x0) * width / ((y1 - y0) * height)
        stretch = view.aspect * view.sides[0] / view.sides[1]
        assert shape == pytest.approx(stretch * size[1] / size[0], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("each", EVERY, ids=lambda each: f"{each.kind}-{each.windows}-{each.crops}")
def test_every_policy_survives_json(each: ViewPolicy):
    assert ViewPolicy.from_json(json.loads(json.dumps(each.to_json()))) == each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial": "multi_scale_crop"}, "eval.spatial is 'multi_scale_crop'; allowed are center_crop, three_crop"),
        ({"temporal": "window"}, "eval.temporal is 'window'; allowed are uniform, dense, segments"),
        ({"spatial": "three_crop"}, "three_crop has 3 views per clip"),
        ({"spatial": "three_crop", "views_per_clip": 3, "crop": 0.9}, "leave out eval.crop"),
        ({"spatial": "ten_crop", "views_per_clip": 10, "crop": 0.9}, "views.flip: true if mirrored videos keep"),
        ({"spatial": "ten_crop", "views_per_clip": 10, "flip": True}, "room for its corners"),
        ({"crop": 0.0}, "eval.crop is 0.0"),
        ({"window_stride": 0}, "eval.window_stride is 0"),
        ({"max_windows": 0}, "'max_windows': 0"),
        ({"scales": ()}, "train.scales are"),
        ({"scales": (1.2,)}, "train.scales are"),
        ({"places": 9}, "allowed are 5 and 13"),
    ],
)
def test_a_further_policy_that_cannot_be_is_refused_by_name(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        replace(policy(), **change)
