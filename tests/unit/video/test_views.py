import json
from dataclasses import replace

import numpy as np
import pytest

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
