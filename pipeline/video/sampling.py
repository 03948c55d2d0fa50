"""When to look at a video: pure arithmetic over seconds and frame times, without a video.

A clip is a window of `num_frames` samples, `frame_stride` frame periods apart. Seconds count from the first frame of
the video. A sample shows the frame that is on screen at its time, so a varying frame rate does not distort motion.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OVERFLOW = ("repeat_last", "wrap", "error")

# A frame counts as on screen this share of the gap before its time. It swallows rounding (float32 seconds, millisecond
# time bases); it is no simple fraction, so that evenly spaced windows do not fall on the border.
_EARLY = 0.13


def span(num_frames: int, frame_stride: int, fps: float) -> float:
    """Seconds from the start of a window's first frame to the end of its last."""
    return ((num_frames - 1) * frame_stride + 1) / fps


def window_start(position: float, duration: float, window: float) -> float:
    """Start in seconds of a window of `window` seconds; position 0 is the earliest, 1 the latest that still fits."""
    return position * max(0.0, duration - window)


def frame_times(start: float, num_frames: int, frame_stride: int, fps: float) -> NDArray[np.float64]:
    """The (num_frames,) sample times in seconds of a window that starts at `start`."""
    return np.asarray(start + np.arange(num_frames) * (frame_stride / fps), np.float64)


def segment_times(offsets: Sequence[float], duration: float) -> NDArray[np.float64]:
    """The (T,) sample times of T equal parts of the video, each at the share `offsets[i]`, 0 up to 1, of its part."""
    return np.asarray((np.arange(len(offsets)) + np.asarray(offsets)) * (duration / len(offsets)), np.float64)


def fold_overflow(times: NDArray[np.float64], duration: float, overflow: str) -> NDArray[np.float64]:
    """Bring sample times behind the end of the video back into it.

    `repeat_last` holds the last frame, `wrap` starts again from the first, `error` raises ValueError.
    """
    if not (times >= duration).any():
        return times
    if overflow == "error":
        raise ValueError(f"the window ends {times[-1] - duration:.3f} s behind the end of the video ({duration:.3f} s)")
    return np.minimum(times, duration) if overflow == "repeat_last" else times % duration


def on_screen(times: NDArray[np.float64], shown: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which frame is on screen at each time: indices into `shown`, the strictly increasing times of all frames (n,).

    The time of a frame always gives that frame; a time before the first gives frame 0, one behind the last the last.
    """
    opens = shown.copy()
    opens[1:] -= _EARLY * np.diff(shown)
    return np.clip(np.searchsorted(opens, times, side="right") - 1, 0, len(shown) - 1).astype(np.int64)
