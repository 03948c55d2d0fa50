import math

import numpy as np
import pytest

from pipeline.manifest.scene import FRAME_RATES, SHAPES, Look, Ranges, Scene, draw_scene

ANGLE = math.radians(72)


def scene(seed: int, look: Look | None = None, *, shape: str = "cross", ranges: Ranges | None = None) -> Scene:
    return draw_scene(np.random.default_rng(seed), shape, ANGLE, look or Look(), ranges or Ranges())


def unwrapped(path: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Steps of a path whose jumps across the domain are taken out."""
    step = np.diff(path, axis=0)
    return step - domain * np.round(step / domain)


def test_the_target_moves_in_its_direction_on_the_joined_domain() -> None:
    for seed in range(30):
        found = scene(seed, Look.at(0))
        path, box = found.bodies[-1].path, np.array([found.width, found.height])
        step = unwrapped(path, Look().domain * box)
        side = min(box)
        assert np.allclose(np.arctan2(-step[:, 1], step[:, 0]), ANGLE)
        assert np.all((np.hypot(*step.T) >= Look().speed[0] * side) & (np.hypot(*step.T) <= Look().speed[1] * side))
        assert np.all(np.abs(path - box / 2) <= Look().domain * box / 2)


def test_positions_are_uniform_at_every_time() -> None:
    found = [scene(seed, Look.at(0)) for seed in range(600)]
    for time in (0, 10, 19):
        where = np.array([(s.bodies[-1].path[time] - np.array([s.width, s.height]) / 2) for s in found])
        unit = where / (Look().domain * np.array([[s.width, s.height] for s in found])) + 0.5
        assert np.histogram(unit[:, 0], 4, (0, 1))[0] / 600 == pytest.approx([0.25] * 4, abs=0.06)
        assert np.histogram(unit[:, 1], 4, (0, 1))[0] / 600 == pytest.approx([0.25] * 4, abs=0.06)


def test_the_distractor_has_another_shape_another_direction_and_is_smaller() -> None:
    look = Look(distractor=1.0, shake=0.0, spread=0.0)
    for seed in range(30):
        found = scene(seed, look)
        other, target = found.bodies
        domain = look.domain * np.array([found.width, found.height])
        step = unwrapped(other.path, domain)[0]
        turn = (math.atan2(-step[1], step[0]) - ANGLE) % (2 * math.pi)
        assert target.shape == "cross"
        assert other.shape in set(SHAPES) - {"cross"}
        assert math.pi / 4 <= turn <= 2 * math.pi - math.pi / 4
        assert other.radius < 0.8 * target.radius


def test_difficulty_scales_the_disturbances_and_zero_takes_them_out() -> None:
    calm, base, hard = Look.at(0), Look.at(1), Look.at(2)
    assert (calm.noise, calm.texture, calm.drift, calm.shake, calm.spread, calm.distractor, calm.occluded) == (0,) * 7
    assert base == Look()
    assert hard.noise == 2 * base.noise
    assert hard.distractor == 1.0
    assert hard.radius == base.radius
    assert len(scene(0, calm).bodies) == 1
    assert scene(0, calm).occluder is None


def test_scenes_vary_within_their_ranges() -> None:
    ranges = Ranges(sides=(40, 72), lengths=(20, 30), crf=(23, 35))
    found = [scene(seed, ranges=ranges) for seed in range(200)]
    assert all(s.width % 2 == 0 and s.height % 2 == 0 for s in found)
    sides = [side for s in found for side in (s.width, s.height)]
    assert (min(sides), max(sides)) == (40, 72)
    assert {s.frames for s in found} == set(range(20, 31))
    assert {s.crf for s in found} == set(range(23, 36))
    assert {s.fps for s in found} == set(FRAME_RATES)
    shares = np.mean([[len(s.bodies) == 2, s.occluder is not None] for s in found], 0)
    assert shares == pytest.approx([Look().distractor, Look().occluded], abs=0.1)
