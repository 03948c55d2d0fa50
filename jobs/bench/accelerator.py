"""A plain labeler that stands for a teacher on a device of its own: it waits, and uses next to no processor time.

`seconds` is what a micro-batch takes on the device, with `lock` (a file) one micro-batch at a time, whichever processes
ask: two workers that share an accelerator wait for one another. The logits are means of a few pixels in a fixed mix, so
that equal rasters give equal targets and others do not. With seconds 0 it is a teacher for runs that measure the rest.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

import numpy as np

from jobs.bench.videos import class_names

STEP, PROBES = 4, 8
MODEL = "jobs.bench.accelerator:build"


class Accelerator:
    """See the module."""

    def __init__(self, seconds: float, lock: str | None) -> None:
        self.classes = tuple(class_names())
        self.dims = (PROBES,)
        self.seconds = seconds
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT) if lock else None
        self._mix = np.random.default_rng(0).normal(0, 1, (PROBES, len(self.classes))).astype(np.float32)

    def __call__(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        """Raster uint8 (n, T, H, W, 3) → float32 `logits` (n, 400), `substage_1` (n, 8)."""
        with self._device():
            until = time.monotonic() + self.seconds
            features = self._features(raster)
            logits = np.einsum("np,pc->nc", features, self._mix)
            time.sleep(max(0.0, until - time.monotonic()))
        return {"logits": logits, "substage_1": features}

    def _features(self, raster: np.ndarray) -> np.ndarray:
        """Means over every fourth position of PROBES groups of the values left, scaled to -1..1."""
        few = raster[:, :, ::STEP, ::STEP].reshape(len(raster), -1)
        groups = np.array_split(few, PROBES, axis=1)
        return np.stack([group.mean(1, dtype=np.float32) for group in groups], 1) / np.float32(127.5) - np.float32(1)

    @contextlib.contextmanager
    def _device(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def build(*, seconds: float = 0.0, lock: str | None = None) -> Accelerator:
    """What `module:factory` calls."""
    return Accelerator(seconds, lock)
