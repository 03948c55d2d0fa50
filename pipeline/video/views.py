"""Which clips and views a video has, how a view is drawn, and what it means on a video of known length and shape.

A view is drawn from (seed, clip_id, view_id) alone: order, worker, shard and the file play no part. `resolve` then
turns the draw into frame times, a crop box and a flip, which are stored and are all that a replay needs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.identity import unit_draw
from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError, Facts
from pipeline.video.sampling import OVERFLOW, fold_overflow, frame_times, span, window_start


@dataclass(frozen=True)
class ViewPolicy:
    """How the views of a video are taken.

    `train`: windows at random, crop of a random share `scale` of the frame and a stretch within `ratio`.
    `eval`: `clips_per_video` evenly spaced windows, the largest centre crop, one view each.
    `size` is (height, width) of the raster in pixels. ConfigError where the values cannot be.
    """

    kind: str
    size: tuple[int, int]
    num_frames: int
    frame_stride: int = 1
    views_per_clip: int = 1
    clips_per_video: int = 1
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    flip: bool = False
    overflow: str = "repeat_last"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "scale", "ratio"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_policy(self)

    def to_json(self) -> dict[str, Any]:
        """All fields, tuples as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ViewPolicy":
        """The inverse of to_json."""
        return cls(**fields)


@dataclass(frozen=True)
class View:
    """One drawn view: position of the window 0..1, share of the frame's area, stretch, place of the crop 0..1, flip."""

    clip_id: str
    view_id: int
    position: float
    area: float
    aspect: float
    x: float
    y: float
    flip: bool


@dataclass(frozen=True)
class Replay:
    """A view on one video: sample times in seconds (T,), box (4,) x0, y0, x1, y1 as shares of the frame, flip."""

    times: NDArray[np.float64]
    box: NDArray[np.float32]
    flip: bool


def clip_ids(video_id: str, policy: ViewPolicy) -> list[str]:
    """The clips of a video: `v#1of3`, … for eval, `v#random1of1` for train."""
    window = "random" if policy.kind == "train" else ""
    count = policy.clips_per_video
    return [f"{video_id}#{window}{ordinal}of{count}" for ordinal in range(1, count + 1)]


def view_keys(video_id: str, policy: ViewPolicy) -> list[tuple[str, int]]:
    """All (clip_id, view_id) of a video, in the order of the plan."""
    return [(clip, view) for clip in clip_ids(video_id, policy) for view in range(policy.views_per_clip)]


def draw(policy: ViewPolicy, clip_id: str, view_id: int) -> View:
    """The view of that name; equal arguments give an equal view anywhere."""
    if policy.kind == "eval":
        ordinal, count = clip_id.rpartition("#")[2].split("of")
        return View(clip_id, view_id, (int(ordinal) - 0.5) / int(count), 1.0, 1.0, 0.5, 0.5, False)

    def uniform(what: str) -> float:
        return unit_draw(policy.seed, clip_id, view_id, what)

    smallest, largest = policy.scale
    narrow, wide = policy.ratio
    area = smallest + (largest - smallest) * uniform("area")
    aspect = narrow * (wide / narrow) ** uniform("aspect")
    flip = policy.flip and uniform("flip") < 0.5
    return View(clip_id, view_id, uniform("position"), area, aspect, uniform("x"), uniform("y"), flip)


def resolve(view: View, policy: ViewPolicy, facts: Facts) -> Replay:
    """What the view is on a video with these facts.

    DecodeError `truncated` where the window is longer than the video and the policy says overflow `error`.
    """
    window = span(policy.num_frames, policy.frame_stride, facts.fps)
    start = window_start(view.position, facts.duration, window)
    times = frame_times(start, policy.num_frames, policy.frame_stride, facts.fps)
    try:
        times = fold_overflow(times, facts.duration, policy.overflow)
    except ValueError as error:
        raise DecodeError("truncated", str(error)) from error
    return Replay(times, _crop_box(view, policy.size, facts.width, facts.height), view.flip)


def _crop_box(view: View, size: tuple[int, int], width: int, height: int) -> NDArray[np.float32]:
    """The crop of the wanted area and shape, shrunk as a whole where it is larger than the frame."""
    shape = view.aspect * size[1] / size[0]
    crop_width = (view.area * width * height * shape) ** 0.5
    crop_height = crop_width / shape
    shrink = min(1.0, width / crop_width, height / crop_height)
    share = np.array([crop_width * shrink / width, crop_height * shrink / height])
    corner = np.array([view.x, view.y]) * (1.0 - share)
    return np.clip(np.concatenate([corner, corner + share]), 0.0, 1.0).astype(np.float32)


def _check_policy(policy: ViewPolicy) -> None:
    """ConfigError that names the field and what is allowed."""
    counts = {
        name: getattr(policy, name) for name in ("num_frames", "frame_stride", "views_per_clip", "clips_per_video")
    }
    wrong = [
        (policy.kind not in ("train", "eval"), f"views: kind is {policy.kind!r}; allowed are 'train' and 'eval'"),
        (policy.overflow not in OVERFLOW, f"views: overflow is {policy.overflow!r}; allowed are {', '.join(OVERFLOW)}"),
        (min(counts.values()) < 1, f"views: all of {counts} must be 1 or more"),
        (
            len(policy.size) != 2 or min(policy.size) < 1,
            f"views: size is {policy.size}; give [height, width] in pixels",
        ),
        (
            not 0 < policy.scale[0] <= policy.scale[-1] <= 1,
            f"views: scale is {policy.scale}; give 0 < smallest <= largest <= 1",
        ),
        (not 0 < policy.ratio[0] <= policy.ratio[-1], f"views: ratio is {policy.ratio}; give 0 < narrowest <= widest"),
        (
            policy.kind == "eval" and policy.views_per_clip != 1,
            "views: eval has one view per clip; set views_per_clip to 1",
        ),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise ConfigError(message)
