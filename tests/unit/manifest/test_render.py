import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.manifest.render import background, mask, render
from pipeline.manifest.scene import SHAPES, Body, Look, Occluder, Ranges, Scene, draw_scene

GRID = np.arange(80, dtype=np.float32)


def scene(look: Look, seed: int = 0) -> Scene:
    return draw_scene(np.random.default_rng(seed), "square", 0.0, look, Ranges(sides=(60, 60)))


def body(shape: str, **changes: object) -> Body:
    still = Body(shape, np.full((1, 2), 40.0), np.zeros(1), 20.0, 1.0, np.ones(3, np.float32))
    return replace(still, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_shapes_cover_the_same_area_around_their_centre(shape: str) -> None:
    for angle in (0.0, 0.4):
        coverage = mask(body(shape, angle=np.array([angle])), GRID, GRID)[0]
        assert coverage.sum() == pytest.approx(2 * 20**2, rel=0.02)
        centre = (coverage * GRID).sum() / coverage.sum(), (coverage * GRID[:, None]).sum() / coverage.sum()
        assert centre == pytest.approx((40, 40), abs=0.3)


def test_shapes_differ_and_turn() -> None:
    masks = {shape: mask(body(shape), GRID, GRID)[0] for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            overlap = np.minimum(masks[one], masks[other]).sum() / 800
            assert (overlap > 0.99) == (one == other)
    quarter = mask(body("ellipse", angle=np.array([math.pi / 2])), GRID, GRID)[0]
    assert np.abs(quarter[1:, 1:] - masks["ellipse"].T[1:, 1:]).max() < 0.01


def test_frames_show_ground_target_and_nothing_else_when_it_is_calm() -> None:
    found = scene(Look.at(0))
    frames = render(found)
    assert frames.shape == (found.frames, 60, 60, 3)
    assert frames.dtype == np.uint8
    target = found.bodies[-1]
    for time in (0, found.frames - 1):
        x, y = np.round(target.path[time]).astype(int)
        assert np.abs(frames[time, y, x] - 255 * target.colour).max() <= 1
        assert np.abs(frames[time, 0, 0] - 255 * found.ground).max() <= 1


def test_the_background_moves_as_it_drifts() -> None:
    found = scene(Look(drift=0.0, shake=0.0))
    shift = np.stack([np.arange(found.frames), 2 * np.arange(found.frames)], 1).astype(float)
    waves = background(replace(found, drifted=shift), GRID[:60], GRID[:60])
    np.testing.assert_allclose(waves[1, 2:, 1:], waves[0, :-2, :-1], atol=1e-5)
    assert waves.std() == pytest.approx(Look().texture, rel=0.3)


def test_the_occluder_covers_the_target() -> None:
    calm = scene(Look.at(0))
    x = calm.bodies[-1].path[0, 0]
    bar = Occluder(0.0, x - 30.0, 3.0, np.full(3, 0.9, np.float32))
    frame = render(replace(calm, occluder=bar))[0]
    assert np.abs(frame[:, int(x)] - 0.9 * 255).max() <= 1
    np.testing.assert_array_equal(frame[:, 0], render(calm)[0][:, 0])


def test_noise_is_fresh_in_every_frame_and_as_strong_as_said() -> None:
    noisy = replace(scene(Look.at(0)), noise=0.05)
    corner = render(noisy)[:, :8, :8, 1].astype(float) / 255
    assert np.diff(corner, axis=0).std() == pytest.approx(0.05 * math.sqrt(2), rel=0.1)
