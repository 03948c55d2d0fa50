"""Micro-batch in, targets out: the only place where a teacher runs for others to learn from it.

n ≤ B real rows of a micro-batch of B slots, (T, H, W) the canonical raster, C classes, C_l channels of substage l.
"""

import contextlib
import logging
from collections.abc import Callable

import numpy as np
import torch

from pipeline.errors import ConfigError, JobError
from pipeline.models.network import NetworkOutput, VideoNetwork
from pipeline.models.program import check_batch

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Labeler:
    """A network in eval mode that sees exactly `batch` slots per forward, whatever it is given.

    Short micro-batches are filled with zeros, and the fill is dropped: the values of a row are bit-equal however many
    rows come with it, and `torch.compile` meets one shape. A slot that failed to decode stays in its place as zeros
    (the caller drops its row), so that its neighbours keep their slots. `dtype` other than float32 runs under autocast.

    ConfigError where the network (an exported program) does not take B clips at once.

    `slots` is B as planned; `batch` is what one forward holds: it is halved for good, with a warning, each time the
    accelerator runs out of memory. Whoever commits records it, because it decides values. `compiled` runs the network
    through torch.compile, for one shape: the first forward (and the first after a halving) waits for the compiler.
    """

    def __init__(
        self, network: VideoNetwork, batch: int, device: str = "cpu", dtype: str = "float32", *, compiled: bool = False
    ) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; a teacher runs in one of {', '.join(_DTYPES)}")
        check_batch(batch, *network.batch)
        self.network = network.eval().to(device)
        self.slots = self.batch = batch
        self.device = torch.device(device)
        self.dtype = _DTYPES[dtype]
        self._run: Callable[[torch.Tensor], NetworkOutput] = (
            torch.compile(self.network, dynamic=False) if compiled else self.network
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that a call gives: `logits`, `substage_1` … `substage_L`."""
        return ("logits", *(f"substage_{number}" for number in range(1, self.network.substages + 1)))

    def empty(self) -> dict[str, np.ndarray]:
        """What a call gives for no row: arrays (0, C) and (0, C_l)."""
        widths = (self.network.num_classes, *self.network.dims)
        return {name: np.empty((0, width), np.float32) for name, width in zip(self.names, widths, strict=True)}

    def __call__(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        """Raster uint8 (n, T, H, W, 3), n ≤ B → float32 `logits` (n, C) and `substage_1` … `substage_L` (n, C_l).

        JobError where one clip alone does not fit the accelerator's memory.
        """
        assert raster.dtype == np.uint8, raster.dtype
        assert raster.ndim == 5, raster.shape
        assert len(raster) <= self.slots, f"{len(raster)} rows in a micro-batch of {self.slots}"
        assert not self.network.training, "somebody set the teacher back to training mode"
        while True:
            try:
                return self._in_parts(raster)
            except torch.OutOfMemoryError as error:
                self._halve(error)

    def _in_parts(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        # One part, unless memory ran out before.
        parts = [self._forward(raster[start : start + self.batch]) for start in range(0, len(raster), self.batch)]
        return {name: np.concatenate([part[name] for part in (self.empty(), *parts)]) for name in self.names}

    def _forward(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        slots = np.zeros((self.batch, *rows.shape[1:]), dtype=np.uint8)
        slots[: len(rows)] = rows
        with torch.inference_mode(), self._precision():
            output = self._run(torch.from_numpy(slots).to(self.device))
        assert output.logits is not None, "a teacher has a head"
        values = (output.logits, *output.features)
        return {name: v[: len(rows)].float().cpu().numpy() for name, v in zip(self.names, values, strict=True)}

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def _halve(self, error: Exception) -> None:
        if self.batch == 1 or (self.batch + 1) // 2 < self.network.batch[0]:
            what = "one clip alone does" if self.batch == 1 else f"the {self.batch} clips of the exported program do"
            raise JobError(
                f"{what} not fit the accelerator's memory: use a smaller views.size, fewer frames, "
                "precompute.dtype float16 or a larger device"
            ) from error
        self.batch = (self.batch + 1) // 2
        log.warning("out of accelerator memory: micro-batches of %d go in parts of %d now", self.slots, self.batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
