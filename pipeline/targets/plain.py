"""A plain labeler in the form of `labeler.Labeler`: the same slots and the same checks, without torch."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from pipeline.errors import JobError

Outputs = dict[str, np.ndarray]


class Labels(Protocol):
    """What makes targets of rasters. `batch`: clips that one forward holds, as it is recorded."""

    batch: int

    def __call__(self, raster: np.ndarray) -> Outputs: ...


class PlainLabeler:
    """Calls `call` (classes, dims, and rasters → outputs) with exactly `batch` slots, whatever it is given."""

    def __init__(self, call: Any, batch: int) -> None:
        self.call: Callable[[np.ndarray], Mapping[str, np.ndarray]] = call
        self.slots = self.batch = batch
        widths = {f"substage_{number}": int(dim) for number, dim in enumerate(call.dims, start=1)}
        self._widths = {"logits": len(call.classes), **widths}

    def __call__(self, raster: np.ndarray) -> Outputs:
        """Raster uint8 (n, T, H, W, 3), n ≤ B → float32 `logits` (n, C) and `substage_1` … (n, C_l). JobError where the
        labeler gives other names or shapes."""
        assert len(raster) <= self.slots, f"{len(raster)} rows in a micro-batch of {self.slots}"
        slots = raster
        if len(raster) < self.slots:
            slots = np.zeros((self.slots, *raster.shape[1:]), np.uint8)
            slots[: len(raster)] = raster
        found = {name: np.asarray(values, np.float32) for name, values in self.call(slots).items()}
        wanted = {name: (self.slots, width) for name, width in self._widths.items()}
        given = {name: values.shape for name, values in found.items()}
        if given != wanted:
            raise JobError(f"the labeler gives {given} for {self.slots} clips; its classes and dims say {wanted}")
        return {name: found[name][: len(raster)] for name in self._widths}
