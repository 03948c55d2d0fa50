"""Pixels of a simulated scene: float32 arithmetic over all frames at once.

Legend: T frames, H height, W width, K waves.
"""

import numpy as np

from pipeline.manifest.scene import Body, Occluder, Scene

# Radius of each shape in units that give all of them the area 2: bytes and brightness must not tell the shape.
SQUARE, ELLIPSE, TRIANGLE, CROSS = 0.7071, (1.130, 0.5634), 1.2408, (1.0, 0.2929)


def render(scene: Scene) -> np.ndarray:
    """Frames of the scene, uint8 (T, H, W, 3) RGB."""
    x, y = np.arange(scene.width, dtype=np.float32), np.arange(scene.height, dtype=np.float32)
    canvas = scene.ground + scene.tint * background(scene, x, y)[..., None]
    for body in scene.bodies:
        blend(canvas, mask(body, x, y), body.colour)
    if scene.occluder is not None:
        blend(canvas, bar(scene.occluder, scene.shake, x, y), scene.occluder.colour)
    canvas += grain(scene)[..., None]
    return np.clip(canvas * 255.0, 0, 255).astype(np.uint8)


def background(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(T, H, W): sum of plane waves by sin(a + b) = sin a cos b + cos a sin b, so two small matrix products a frame."""
    kx, ky, phase, amplitude = scene.waves.T
    shift = scene.drifted.astype(np.float32)
    across = kx * (x[None, :, None] - shift[:, :1, None])
    down = ky * (y[None, :, None] - shift[:, 1:, None]) + phase
    left = np.concatenate([np.cos(down) * amplitude, np.sin(down) * amplitude], -1)
    right = np.concatenate([np.sin(across), np.cos(across)], -1)
    return left @ right.transpose(0, 2, 1)


def mask(body: Body, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(T, H, W) coverage in 0..1 with an edge one pixel wide."""
    path, radius = body.path.astype(np.float32), np.float32(body.radius)
    cos, sin = (f(body.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    dx, dy = (x[None, None, :] - path[:, :1, None]) / radius, (y[None, :, None] - path[:, 1:, None]) / radius
    u, v = (cos * dx + sin * dy) * np.float32(body.squeeze), (cos * dy - sin * dx) / np.float32(body.squeeze)
    return np.clip(0.5 - distance(body.shape, u, v) * radius, 0.0, 1.0)


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in radii (for the ellipse to first order), negative inside."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - SQUARE
    if shape == "ellipse":
        return (np.sqrt((u / ELLIPSE[0]) ** 2 + (v / ELLIPSE[1]) ** 2) - 1.0) * ELLIPSE[1]
    if shape == "triangle":
        slanted = 0.8660254 * np.abs(u) - 0.5 * v
        return np.maximum(slanted, v) - TRIANGLE / 2
    length, half = CROSS
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - length, short - half)


def bar(occluder: Occluder, shake: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(T, H, W) coverage of a bar that stands still but for the camera's shake."""
    cos, sin = np.cos(occluder.angle), np.sin(occluder.angle)
    centre = cos * (len(x) / 2 + shake[:, 0]) + sin * (len(y) / 2 + shake[:, 1]) + occluder.offset
    across = (cos * x[None, :] + sin * y[:, None]).astype(np.float32)
    return np.clip(
        np.float32(0.5 + occluder.half) - np.abs(across - centre[:, None, None].astype(np.float32)), 0.0, 1.0
    )


def blend(canvas: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> None:
    canvas += coverage[..., None] * (colour - canvas)


def grain(scene: Scene) -> np.ndarray:
    rng = np.random.default_rng(scene.noise_seed)
    shape = (scene.frames, scene.height, scene.width)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scene.noise)
