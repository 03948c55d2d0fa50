"""A plain labeler: whole micro-batches, checked outputs."""

import numpy as np
import pytest

from pipeline.errors import JobError
from pipeline.targets.plain import PlainLabeler

SHAPE = (2, 4, 4, 3)


class Brightness:
    """Logits from the mean of each clip; counts the clips of each call."""

    classes = ("dark", "light", "other")
    dims = (2,)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(len(raster))
        mean = raster.reshape(len(raster), -1).mean(axis=1, dtype=np.float64)
        return {"logits": np.stack([mean, 255 - mean, 0 * mean], axis=1), "substage_1": np.stack([mean, mean], axis=1)}


def raster(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def test_it_always_sees_whole_micro_batches_and_gives_float32() -> None:
    call = Brightness()
    labeler, clips = PlainLabeler(call, 4), raster(3)
    found = labeler(clips)
    assert (call.seen, labeler.batch) == ([4], 4)
    assert list(found) == ["logits", "substage_1"]
    assert {name: (values.shape, values.dtype.name) for name, values in found.items()} == {
        "logits": ((3, 3), "float32"),
        "substage_1": ((3, 2), "float32"),
    }
    assert found["logits"][1, 0] == np.float32(clips[1].mean(dtype=np.float64))


def test_outputs_that_are_not_what_it_declares_are_refused() -> None:
    call = Brightness()
    call.dims = (2, 5)
    with pytest.raises(JobError, match=r"substage_1.*classes and dims say .*substage_2"):
        PlainLabeler(call, 2)(raster(2))
