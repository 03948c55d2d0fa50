"""Which clips and views a video has, how a view is drawn, and what it means on a video of known length and shape.

A view is drawn from (policy, clip_id, view_id) alone: order, worker, shard and the file play no part. `resolve` then
turns the draw into frame times, a crop box and a flip, which are stored and are all that a replay needs.

A clip is named by its window's policy and ordinal, `v#2of3`, `v#random1of1`, `v#segments1of1`, `v#dense7`, and never by
a measured time. How many dense windows a video is planned to have is decided by the number of frames that its header
claims; the seventh starts at 6 × stride frame periods whatever that number is.
"""

import re
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.identity import unit_draw
from pipeline.video.handle import DecodeError, Facts
from pipeline.video.policy import PLACES, ViewPolicy
from pipeline.video.sampling import fold_overflow, frame_times, segment_times, span, window_start

__all__ = ["Replay", "View", "ViewPolicy", "clip_ids", "draw", "resolve", "view_keys"]

_CLIP = re.compile(r"(?P<window>[a-z]*)(?P<ordinal>\d+)(?:of(?P<count>\d+))?$")


@dataclass(frozen=True)
class View:
    """One drawn view.

    When: `position` 0..1 of the window; or `begin`, its first frame counted in frame periods; or `offsets`, of the
    frame within each segment, 0..1. Where: share of the frame's `area` and stretch of a box that is shrunk until it
    fits, then `sides` (width, height) of it as shares, at the place `x`, `y` 0..1 of what room is left; `flip`.
    """

    clip_id: str
    view_id: int
    position: float
    area: float
    aspect: float
    x: float
    y: float
    flip: bool
    begin: int | None = None
    offsets: tuple[float, ...] = ()
    sides: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("offsets", "sides"):  # lists where they come out of JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Replay:
    """A view on one video: sample times in seconds (T,), box (4,) x0, y0, x1, y1 as shares of the frame, flip."""

    times: NDArray[np.float64]
    box: NDArray[np.float32]
    flip: bool


class _When(NamedTuple):
    position: float
    begin: int | None = None
    offsets: tuple[float, ...] = ()


class _Where(NamedTuple):
    x: float
    y: float
    area: float = 1.0
    aspect: float = 1.0
    sides: tuple[float, float] = (1.0, 1.0)
    flip: bool = False


def clip_ids(video_id: str, policy: ViewPolicy, frames: int | None = None) -> list[str]:
    """The clips of a video; `frames`: as its header claims, which only dense windows want to know.

    Where it is silent (None), dense windows are `clips_per_video` uniform ones.
    """
    if policy.windows == "dense" and frames is not None:
        return [f"{video_id}#dense{ordinal}" for ordinal in _dense_ordinals(policy, frames)]
    word = {"window": "random", "segments": "segments"}.get(policy.windows, "")
    count = policy.clips_per_video
    return [f"{video_id}#{word}{ordinal}of{count}" for ordinal in range(1, count + 1)]


def view_keys(video_id: str, policy: ViewPolicy, frames: int | None = None) -> list[tuple[str, int]]:
    """All (clip_id, view_id) of a video, in the order of the plan; `frames` as in clip_ids."""
    return [(clip, view) for clip in clip_ids(video_id, policy, frames) for view in range(policy.views_per_clip)]


def draw(policy: ViewPolicy, clip_id: str, view_id: int) -> View:
    """The view of that name; equal arguments give an equal view anywhere."""
    when, where = _when(policy, clip_id, view_id), _where(policy, clip_id, view_id)
    return View(
        clip_id,
        view_id,
        when.position,
        where.area,
        where.aspect,
        where.x,
        where.y,
        where.flip,
        when.begin,
        when.offsets,
        where.sides,
    )


def resolve(view: View, policy: ViewPolicy, facts: Facts) -> Replay:
    """What the view is on a video with these facts.

    DecodeError `truncated` where the window is longer than the video and the policy says overflow `error`.
    """
    return Replay(_times(view, policy, facts), _crop_box(view, policy.size, facts.width, facts.height), view.flip)


def _dense_ordinals(policy: ViewPolicy, frames: int) -> list[int]:
    """From 1, as many as fit; where these are too many, `max_windows` of them spread over the whole video."""
    length = (policy.num_frames - 1) * policy.frame_stride + 1
    fit = 1 + max(0, frames - length) // _window_stride(policy)
    if fit <= policy.max_windows:
        return list(range(1, fit + 1))
    return np.linspace(1, fit, policy.max_windows).round().astype(int).tolist()


def _window_stride(policy: ViewPolicy) -> int:
    return policy.window_stride or policy.num_frames * policy.frame_stride


def _when(policy: ViewPolicy, clip_id: str, view_id: int) -> _When:
    def uniform(*what: str | int) -> float:
        return unit_draw(policy.seed, clip_id, view_id, *what)

    if policy.windows == "window":
        return _When(uniform("position"))
    named = _CLIP.match(clip_id.rpartition("#")[2])
    assert named is not None, clip_id
    if policy.windows == "segments" and policy.kind == "train":
        return _When(0.0, offsets=tuple(uniform("segment", number) for number in range(policy.num_frames)))
    if named["window"] == "dense":
        return _When(0.0, begin=(int(named["ordinal"]) - 1) * _window_stride(policy))
    place = (int(named["ordinal"]) - 0.5) / int(named["count"])
    return _When(0.0, offsets=(place,) * policy.num_frames) if policy.windows == "segments" else _When(place)


def _where(policy: ViewPolicy, clip_id: str, view_id: int) -> _Where:
    if policy.kind == "eval":
        return _fixed_crop(policy, view_id)

    def uniform(what: str) -> float:
        return unit_draw(policy.seed, clip_id, view_id, what)

    flip = policy.flip and uniform("flip") < 0.5
    if policy.crops == "multi_scale_crop":
        x, y = PLACES[int(uniform("place") * policy.places)]
        pairs = _scale_pairs(policy.scales)
        return _Where(x, y, sides=pairs[int(uniform("scale") * len(pairs))], flip=flip)
    smallest, largest = policy.scale
    narrow, wide = policy.ratio
    area = smallest + (largest - smallest) * uniform("area")
    return _Where(uniform("x"), uniform("y"), area, narrow * (wide / narrow) ** uniform("aspect"), flip=flip)


def _fixed_crop(policy: ViewPolicy, view_id: int) -> _Where:
    """The crop of number `view_id`; where there is room along one side only, x or y has no effect."""
    sides = (policy.crop, policy.crop)
    if policy.crops == "ten_crop":
        x, y = PLACES[view_id % 5]
        return _Where(x, y, sides=sides, flip=view_id >= 5)
    place = view_id / 2 if policy.crops == "three_crop" else 0.5
    return _Where(place, place, sides=sides)


def _scale_pairs(scales: tuple[float, ...]) -> list[tuple[float, float]]:
    """(width, height) of scales that are neighbours or equal, so that no crop is stretched much."""
    numbered = product(enumerate(scales), repeat=2)
    return [(width, height) for (i, width), (j, height) in numbered if abs(i - j) <= 1]


def _times(view: View, policy: ViewPolicy, facts: Facts) -> NDArray[np.float64]:
    if view.offsets:
        return segment_times(view.offsets, facts.duration)
    window = span(policy.num_frames, policy.frame_stride, facts.fps)
    start = window_start(view.position, facts.duration, window)
    if view.begin is not None:  # a header that promised more frames: the last window that fits
        start = min(view.begin / facts.fps, window_start(1.0, facts.duration, window))
    times = frame_times(start, policy.num_frames, policy.frame_stride, facts.fps)
    try:
        return fold_overflow(times, facts.duration, policy.overflow)
    except ValueError as error:
        raise DecodeError("truncated", str(error)) from error


def _crop_box(view: View, size: tuple[int, int], width: int, height: int) -> NDArray[np.float32]:
    """The crop of the wanted area and shape, shrunk as a whole where it is larger than the frame."""
    shape = view.aspect * size[1] / size[0]
    crop_width = (view.area * width * height * shape) ** 0.5
    crop_height = crop_width / shape
    shrink = min(1.0, width / crop_width, height / crop_height)
    share = np.array([crop_width * shrink / width, crop_height * shrink / height]) * np.array(view.sides)
    corner = np.array([view.x, view.y]) * (1.0 - share)
    return np.clip(np.concatenate([corner, corner + share]), 0.0, 1.0).astype(np.float32)
