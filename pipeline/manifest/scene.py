"""What one simulated video shows: every choice drawn from a generator, in units of the frame's shorter side.

The class is shape x direction. The direction must not be readable from one frame, so the target's position is uniform
on a domain whose opposite sides are joined (it leaves on one side and comes back on the other): whatever its direction,
at every time every position is equally likely. Everything else (background, distractor, camera, occluder, sizes, rates,
compression) is drawn without regard to the class.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("square", "ellipse", "triangle", "cross")
FRAME_RATES = (12.0, 15.0, 20.0, 24.0, 25.0, 30.0)
KEY_FRAMES = (8, 12, 250)  # largest distance of key frames
_DISTURBING = ("noise", "texture", "drift", "shake", "spread", "distractor", "occluded", "tilt")
_MOST = {"spread": 0.6, "distractor": 1.0, "occluded": 1.0}


@dataclass(frozen=True)
class Look:
    """Ranges that scenes are drawn from; `at(difficulty)` scales the disturbing ones, 0 is none of them.

    noise and texture: s.d. of pixel noise and of the background's texture (1 is the range of a pixel). drift and shake:
    the background's largest speed and the s.d. of the camera's position a frame. spread: largest deviation from the
    class's direction in radians. distractor, occluded: shares of videos. tilt: largest rotation in radians. contrast:
    of bodies over the ground, whose mean is `ground`. radius, speed (a frame), domain (where centres are): as the
    lengths above, in units of the frame's shorter side.
    """

    noise: float = 0.035
    texture: float = 0.07
    drift: float = 0.014
    shake: float = 0.005
    spread: float = 0.38
    distractor: float = 0.6
    occluded: float = 0.2
    tilt: float = 0.36
    contrast: tuple[float, float] = (0.29, 0.49)
    radius: tuple[float, float] = (0.21, 0.28)
    speed: tuple[float, float] = (0.018, 0.040)
    ground: tuple[float, float] = (0.25, 0.38)
    domain: float = 0.42

    @classmethod
    def at(cls, difficulty: float) -> "Look":
        base = cls()
        scaled = {name: getattr(base, name) * difficulty for name in _DISTURBING}
        return replace(base, **{name: min(value, _MOST.get(name, value)) for name, value in scaled.items()})


@dataclass(frozen=True)
class Ranges:
    """Which shapes there are, and what difficulty leaves alone: sides in pixels, frames, quality of the encoder."""

    shapes: tuple[str, ...] = SHAPES
    sides: tuple[int, int] = (40, 72)
    lengths: tuple[int, int] = (20, 30)
    crf: tuple[int, int] = (23, 35)


@dataclass(frozen=True)
class Occluder:
    """A bar across the frame: its normal's angle, offset from the centre and half width in pixels, colour."""

    angle: float
    offset: float
    half: float
    colour: np.ndarray


@dataclass(frozen=True)
class Body:
    """A moving shape. Positions are (T, 2) x and y in pixels, one row a frame."""

    shape: str
    path: np.ndarray
    angle: np.ndarray
    radius: float
    squeeze: float
    colour: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything the renderer and the encoder need.

    waves: the background's texture as a sum of plane waves (K, 4); drifted, shake: offsets (T, 2) in pixels of the
    background and of the camera.
    """

    width: int
    height: int
    frames: int
    fps: float
    crf: int
    gop: int
    bodies: tuple[Body, ...]
    ground: np.ndarray
    tint: np.ndarray
    waves: np.ndarray
    drifted: np.ndarray
    shake: np.ndarray
    occluder: Occluder | None
    noise: float
    noise_seed: int


def draw_scene(rng: np.random.Generator, shape: str, angle: float, look: Look, ranges: Ranges) -> Scene:
    """Draw a video of `shape` that moves in direction `angle` (radians, 0 to the right, turning upwards)."""
    width, height = draw_size(rng, ranges.sides)
    box, side = np.array([width, height]), min(width, height)
    frames = int(rng.integers(ranges.lengths[0], ranges.lengths[1] + 1))
    shake = rng.normal(0.0, look.shake * side, (frames, 2))
    drift = polar(rng.uniform(0, look.drift) * side, rng.uniform(0, 2 * math.pi))
    ground = rng.uniform(*look.ground) + rng.uniform(-0.06, 0.06, 3)
    return Scene(
        width=width,
        height=height,
        frames=frames,
        fps=FRAME_RATES[rng.integers(len(FRAME_RATES))],
        crf=int(rng.integers(ranges.crf[0], ranges.crf[1] + 1)),
        gop=KEY_FRAMES[rng.integers(len(KEY_FRAMES))],
        bodies=draw_bodies(rng, shape, angle, look, ranges, box, shake, ground),
        ground=ground.astype(np.float32),
        tint=rng.uniform(0.6, 1.2, 3).astype(np.float32),
        waves=draw_waves(rng, look.texture, side),
        drifted=np.arange(frames)[:, None] * drift + shake,
        shake=shake,
        occluder=draw_occluder(rng, box) if rng.random() < look.occluded else None,
        noise=look.noise * rng.uniform(0.5, 1.0),
        noise_seed=int(rng.integers(2**32)),
    )


def draw_size(rng: np.random.Generator, sides: tuple[int, int]) -> tuple[int, int]:
    """Even width and height (H.264 4:2:0 needs even ones), the longer at most a fifth longer."""
    short = rng.uniform(sides[0], sides[1])
    long = min(short * rng.uniform(1.0, 1.2), sides[1])
    pair = [2 * round(short / 2), 2 * round(long / 2)]
    return (pair[0], pair[1]) if rng.random() < 0.5 else (pair[1], pair[0])


def draw_bodies(
    rng: np.random.Generator,
    shape: str,
    angle: float,
    look: Look,
    ranges: Ranges,
    box: np.ndarray,
    shake: np.ndarray,
    ground: np.ndarray,
) -> tuple[Body, ...]:
    """The target last (in front); before it, if drawn, a smaller distractor of another shape and direction."""
    heading = angle + rng.uniform(-look.spread, look.spread)
    bodies = [draw_body(rng, shape, heading, look, box, shake, ground)]
    if rng.random() < look.distractor:
        others = [other for other in ranges.shapes if other != shape] or list(ranges.shapes)
        away = heading + rng.uniform(math.pi / 4, 2 * math.pi - math.pi / 4)
        other = others[rng.integers(len(others))]
        bodies.insert(0, draw_body(rng, other, away, look, box, shake, ground, scale=rng.uniform(0.35, 0.55)))
    return tuple(bodies)


def draw_body(
    rng: np.random.Generator,
    shape: str,
    heading: float,
    look: Look,
    box: np.ndarray,
    shake: np.ndarray,
    ground: np.ndarray,
    *,
    scale: float = 1.0,
) -> Body:
    side, time = float(box.min()), np.arange(len(shake))
    step = polar(rng.uniform(*look.speed) * side, heading)
    domain = look.domain * box
    start = rng.uniform(0, 1, 2) * domain
    path = (start + time[:, None] * step) % domain + (box - domain) / 2 + shake
    turn = rng.uniform(-0.02, 0.02) * time + rng.uniform(-look.tilt, look.tilt)
    colour = ground + rng.uniform(*look.contrast) + rng.uniform(-0.08, 0.08, 3)
    radius = rng.uniform(*look.radius) * side * scale
    return Body(shape, path, turn, radius, rng.uniform(0.9, 1.1), colour.astype(np.float32))


def draw_waves(rng: np.random.Generator, texture: float, side: float) -> np.ndarray:
    """(K, 4) plane waves: wave numbers in x and y (radians a pixel), phase, amplitude; total s.d. is `texture`."""
    count = 6
    cycles, directions = rng.uniform(1.0, 5.0, count), rng.uniform(0, 2 * math.pi, count)
    numbers = 2 * math.pi * cycles / side
    amplitude = np.full(count, texture * math.sqrt(2 / count))
    columns = [
        numbers * np.cos(directions),
        numbers * np.sin(directions),
        rng.uniform(0, 2 * math.pi, count),
        amplitude,
    ]
    return np.stack(columns, 1).astype(np.float32)


def draw_occluder(rng: np.random.Generator, box: np.ndarray) -> Occluder:
    side = float(box.min())
    colour = (rng.uniform(0.1, 0.9) + rng.uniform(-0.06, 0.06, 3)).astype(np.float32)
    offset, half = rng.uniform(-0.3, 0.3) * side, rng.uniform(0.015, 0.04) * side
    return Occluder(rng.uniform(0, math.pi), offset, half, colour)


def polar(length: float, angle: float) -> np.ndarray:
    """(2,) vector in pixels; image rows grow downwards, so up is negative y."""
    return np.array([length * math.cos(angle), -length * math.sin(angle)])
