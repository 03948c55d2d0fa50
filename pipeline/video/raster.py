"""The canonical raster: the frames of a view, cropped by its box and resized once, uint8 (T, height, width, 3).

One filter, FILTER, does crop and resize in one step on frames of native size: Pillow's bilinear filter, widened when
it shrinks (antialiased), in Pillow's own fixed-point arithmetic. So the raster depends on the reader's pixels and on
nothing else, and a replay from the stored times, box and flip is equal bit for bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pipeline.video.handle import Handle
from pipeline.video.reader import Reader
from pipeline.video.sampling import on_screen
from pipeline.video.views import Replay, View, ViewPolicy, resolve

FILTER = "pillow.bilinear.antialiased"


@dataclass(frozen=True)
class RasterView:
    """A decoded view and all that replays it.

    `frames` uint8 (T, H, W, 3); `times` float64 (T,) seconds from the first frame on, and `indices` int64 (T,), of the
    frames that were really returned; `crop` float32 (4,) x0, y0, x1, y1 as shares of the frame; `reader` by name.
    """

    clip_id: str
    view_id: int
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    crop: NDArray[np.float32]
    flip: bool
    reader: str


def rasterise(
    frames: Iterable[NDArray[np.uint8]], box: ArrayLike, size: tuple[int, int], flip: bool
) -> NDArray[np.uint8]:
    """Frames (H, W, 3) of native size as a raster (T, *size, 3); `box` as in RasterView, `size` (height, width)."""
    raster = np.stack([_resized(Image.fromarray(frame), box, size) for frame in frames])
    return _flipped(raster, flip)


def decode_views(path: str | Path, views: Sequence[View], policy: ViewPolicy, reader: Reader) -> list[RasterView]:
    """All views of a video in one decoding pass, in the order given, in this process.

    OSError where storage fails, DecodeError for a fact about the file. Some files hang or crash a decoder: `sandbox`
    decodes in a process that can be killed.
    """
    if not views:
        return []
    with reader.open(path) as handle:
        replays = [resolve(view, policy, handle.facts) for view in views]
        drawn = _one_pass(handle, replays, policy.size)
    return [
        RasterView(view.clip_id, view.view_id, *shown, crop=replay.box, flip=replay.flip, reader=reader.name)
        for view, replay, shown in zip(views, replays, drawn, strict=True)
    ]


def replay(path: str | Path, row: Mapping[str, Any], policy: ViewPolicy, reader: Reader) -> NDArray[np.uint8]:
    """The raster (T, H, W, 3) of a stored view again, from its row's `times`, `crop` and `flip`.

    Bit-equal if `reader` is the one that the row names. Errors as in decode_views.
    """
    stored = Replay(np.asarray(row["times"], np.float64), np.asarray(row["crop"], np.float32), bool(row["flip"]))
    with reader.open(path) as handle:
        return _one_pass(handle, [stored], policy.size)[0][0]


def _one_pass(
    handle: Handle, replays: Sequence[Replay], size: tuple[int, int]
) -> list[tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]]:
    """Raster, times and indices of each replay; a native frame is dropped as soon as all views have had it."""
    wanted = [on_screen(replay.times, handle.times) for replay in replays]
    rasters = [np.empty((len(indices), *size, 3), np.uint8) for indices in wanted]
    given = [np.empty_like(indices) for indices in wanted]
    for shown in handle.stream(np.unique(np.concatenate(wanted)).tolist()):
        image = Image.fromarray(shown.frame)
        for replay, indices, raster, really in zip(replays, wanted, rasters, given, strict=True):
            slots = indices == shown.asked
            if slots.any():
                raster[slots] = _resized(image, replay.box, size)
                really[slots] = shown.given
    rasters = [_flipped(raster, replay.flip) for raster, replay in zip(rasters, replays, strict=True)]
    return [(raster, handle.times[indices], indices) for raster, indices in zip(rasters, given, strict=True)]


def _resized(image: Image.Image, box: ArrayLike, size: tuple[int, int]) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = (float(edge) for edge in np.asarray(box))
    pixels = (x0 * image.width, y0 * image.height, x1 * image.width, y1 * image.height)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=pixels, reducing_gap=None))


def _flipped(raster: NDArray[np.uint8], flip: bool) -> NDArray[np.uint8]:
    return np.ascontiguousarray(raster[:, :, ::-1]) if flip else raster
