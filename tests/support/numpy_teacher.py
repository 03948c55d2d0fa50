"""A teacher without torch for the tests that kill it: `tests.support.numpy_teacher:teacher`, a plain labeler."""

from collections.abc import Sequence

import numpy as np


class NumpyTeacher:
    """Fixed random projections of a clip's pixels: equal pixels, equal bits; other pixels, other values."""

    def __init__(self, num_classes: int, dims: Sequence[int], seed: int) -> None:
        self.classes = tuple(f"class_{number}" for number in range(num_classes))
        self.dims = tuple(dims)
        self._seed = seed

    def __call__(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        """Raster uint8 (n, T, H, W, 3) → float32 `logits` (n, C) and `substage_1` … `substage_L` (n, C_l)."""
        pixels = raster.reshape(len(raster), -1).astype(np.float64) / 255
        draw = np.random.default_rng(self._seed)
        widths = {"logits": len(self.classes)} | {f"substage_{n}": width for n, width in enumerate(self.dims, start=1)}
        return {name: self._project(pixels, draw, width) for name, width in widths.items()}

    @staticmethod
    def _project(pixels: np.ndarray, draw: np.random.Generator, width: int) -> np.ndarray:
        weights = draw.standard_normal((pixels.shape[1], width)) / np.sqrt(pixels.shape[1])
        # Row by row: a product of matrices may sum in another order where it has another number of rows.
        values = np.empty((len(pixels), width), np.float32)
        for row, flat in enumerate(pixels):
            values[row] = flat @ weights
        return values


def teacher(num_classes: int, dims: Sequence[int], seed: int = 0) -> NumpyTeacher:
    """The factory that a recipe names; its options are `num_classes`, `dims` and `seed`."""
    return NumpyTeacher(num_classes, dims, seed)
