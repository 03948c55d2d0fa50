"""Film strips: a few frames of a clip side by side."""

import io

import numpy as np
from matplotlib.image import imsave

from pipeline.report.canvas import data_uri

_GAP, _HEIGHT = 2, 96


def film_strip(frames: np.ndarray, *, most: int = 6) -> str:
    """JPEG data URI of up to `most` frames of uint8 (T, H, W, 3), evenly spread in time, first and last included."""
    assert frames.ndim == 4, f"frames are (T, H, W, 3), not {frames.shape}"
    assert frames.dtype == np.uint8, f"frames are uint8, not {frames.dtype}"
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    buffer = io.BytesIO()
    imsave(buffer, strip(frames[chosen]), format="jpeg", pil_kwargs={"quality": 85})
    return data_uri(buffer.getvalue(), "image/jpeg")


def strip(frames: np.ndarray) -> np.ndarray:
    """Frames (n, H, W, 3) in one row with white gaps, whole-number enlarged (or thinned) to about 96 pixels height."""
    height = frames.shape[1]
    sized = frames.repeat(_HEIGHT // height, axis=1).repeat(_HEIGHT // height, axis=2) if height < _HEIGHT else frames
    thin = max(sized.shape[1] // (2 * _HEIGHT), 1)
    sized = np.pad(sized[:, ::thin, ::thin], ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(sized), axis=1)[:, :-_GAP]
