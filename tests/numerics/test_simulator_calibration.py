"""What simple classifiers can and cannot read from simulated videos: motion only from frames in their order.

Ridge regression on features, accuracy on held-out videos. Legend: N videos, T frames, S x S pixels.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
import pytest

from pipeline.manifest.simulate import SimulateOptions, video_bytes

DIRECTIONS, TRAIN, TEST = 5, 320, 320
SIDE, TIMES = 20, 16
CHANCE, CLOSE = 1 / DIRECTIONS, 0.05


@dataclass(frozen=True)
class Videos:
    """grey: float32 (N, T, S, S), the first frames at one size; facts: (N, 6) of the files; labels."""

    grey: np.ndarray
    facts: np.ndarray
    motion: np.ndarray
    shape: np.ndarray


@pytest.fixture(scope="module")
def videos() -> Videos:
    options = SimulateOptions(seed=11)
    numbers = np.arange(TRAIN + TEST)
    files = [video_bytes(options, "train", int(number)) for number in numbers]
    grey, facts = zip(*(_decoded(data) for data in files), strict=True)
    classes = numbers % len(options.classes)
    return Videos(np.stack(grey), np.array(facts), classes % DIRECTIONS, classes // DIRECTIONS)


def _decoded(data: bytes) -> tuple[np.ndarray, list[float]]:
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray()[: frame.height] for frame in container.decode(stream)]  # brightness of yuv420p
        facts = [np.log(len(data)), len(frames), float(stream.average_rate or 0), stream.width, stream.height]
    return np.stack([_shrunk(frame) for frame in frames[:TIMES]]), [*facts, np.log(len(data) / len(frames))]


def _shrunk(frame: np.ndarray) -> np.ndarray:
    """(S, S) by picking pixels: enough for where bright things are."""
    rows, columns = (np.arange(SIDE) * side // SIDE for side in frame.shape)
    return frame[np.ix_(rows, columns)].astype(np.float32) / 255


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Test accuracy of ridge regression to one-hot labels; the penalty is as large as the features' total variance."""
    scaled = (features - features[:TRAIN].mean(0)) / (features[:TRAIN].std(0) + 1e-6)
    unit = np.hstack([scaled / features.shape[1] ** 0.5, np.ones((len(labels), 1))])
    known, target = unit[:TRAIN], np.eye(labels.max() + 1)[labels[:TRAIN]]
    weights = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ target)
    return float(np.mean((unit[TRAIN:] @ weights).argmax(1) == labels[TRAIN:]))


def one_frame(grey: np.ndarray, time: int = 0) -> np.ndarray:
    """A frame, and where its bright things lie."""
    frame = grey[:, time]
    return np.hstack([frame.reshape(len(frame), -1), *_quadratic(_centres(grey)[:, time])])


def _centres(grey: np.ndarray) -> np.ndarray:
    """(N, T, 2): centre of what is much brighter than the median of its frame."""
    bright = np.clip(grey - np.median(grey, (2, 3), keepdims=True) - 0.15, 0, None) + 1e-6
    across = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    total = bright.sum((2, 3))
    return np.stack([(bright.sum(2) @ across) / total, (bright.sum(3) @ across) / total], -1)


def _quadratic(points: np.ndarray) -> list[np.ndarray]:
    x, y = points[:, :1], points[:, 1:]
    return [x, y, x * x, y * y, x * y]


def motion(grey: np.ndarray) -> np.ndarray:
    """Directions of the bright centre's steps, and squares of them, which know the axis only; means over time."""
    step = np.diff(_centres(grey), axis=1)
    length = np.hypot(step[..., 0], step[..., 1]) + 1e-3
    unit = step / length[..., None] * (length < SIDE / 5)[..., None]
    means = unit.mean(1), (unit**2).mean(1), unit.prod(2).mean(1, keepdims=True), np.median(step, 1)
    return np.hstack(means)


def shuffled(grey: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([video[rng.permutation(TIMES)] for video in grey])


def test_one_frame_does_not_tell_the_motion(videos: Videos) -> None:
    found = [accuracy(one_frame(videos.grey, time), videos.motion) for time in (0, 5, 10, 15)]
    assert np.mean(found) < CHANCE + CLOSE


def test_one_frame_tells_something_of_the_shape(videos: Videos) -> None:
    spectrum = np.abs(np.fft.rfft2(videos.grey[:, 8])).reshape(len(videos.grey), -1)
    assert accuracy(spectrum, videos.shape) > 0.5


def test_a_leak_in_one_frame_would_be_seen(videos: Videos) -> None:
    """The target a tenth of the frame further on in its direction, as if all paths began near the centre."""
    angles = 2 * np.pi * videos.motion / DIRECTIONS
    leaked = np.stack(
        [
            np.roll(video, (round(-0.1 * SIDE * np.sin(angle)), round(0.1 * SIDE * np.cos(angle))), (1, 2))
            for video, angle in zip(videos.grey, angles, strict=True)
        ]
    )
    assert accuracy(one_frame(leaked), videos.motion) > CHANCE + 2 * CLOSE


def test_frames_in_order_tell_the_motion_and_shuffled_ones_much_less(videos: Videos) -> None:
    ordered, mixed = (accuracy(motion(grey), videos.motion) for grey in (videos.grey, shuffled(videos.grey)))
    assert ordered > 0.9
    assert mixed < ordered - 0.2


@pytest.mark.parametrize("what", [lambda v: v.motion, lambda v: v.shape, lambda v: v.shape * DIRECTIONS + v.motion])
def test_facts_of_the_file_tell_nothing(videos: Videos, what: Callable[[Videos], np.ndarray]) -> None:
    labels = what(videos)
    facts = np.hstack([videos.facts, videos.facts**2, videos.facts[:, :1] * videos.facts[:, 1:]])
    assert accuracy(facts, labels) < 1 / (labels.max() + 1) + CLOSE
