"""A teacher that answers during the training, in place of stored targets: for checks and for users without a plan."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from pipeline.distill.memory import Batch, Source, Statistics, TrainingData, Validation
from pipeline.models.network import VideoNetwork


class LiveTeacher:
    """`data` with one more source, the newest: what `teacher` in evaluation mode says of the frames of each batch."""

    def __init__(
        self,
        data: TrainingData,
        teacher: VideoNetwork,
        statistics: Statistics | None = None,
        class_index: np.ndarray | None = None,
    ) -> None:
        """`class_index`: the column of the teacher's logits per class of the job, None where they are the same."""
        self._data, self._teacher = data, teacher.eval()
        self._statistics, self._class_index = statistics, class_index

    @property
    def clips(self) -> int:
        return self._data.clips

    @property
    def mean_weight(self) -> float:
        return self._data.mean_weight

    @property
    def source_dims(self) -> list[tuple[int, ...]]:
        return [*self._data.source_dims, self._teacher.dims]

    @property
    def statistics(self) -> list[Statistics | None]:
        return [*self._data.statistics, self._statistics]

    @property
    def validation(self) -> Validation | None:
        return self._data.validation

    @property
    def half_precision(self) -> list[bool]:
        return [*self._data.half_precision, False]

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int,
        labelled_share: float | None = None,
    ) -> Iterator[Batch]:
        """The batches of `data`, each labelled as it comes."""
        for batch in self._data.batches(
            start, stop, batch_size=batch_size, rank=rank, world=world, seed=seed, labelled_share=labelled_share
        ):
            yield replace(batch, sources=[*batch.sources, self._answer(batch.frames)])

    @torch.no_grad()
    def _answer(self, frames: np.ndarray) -> Source:
        device = next(self._teacher.parameters()).device
        output = self._teacher(torch.from_numpy(frames).to(device))
        logits = output.logits.float().cpu().numpy()
        logits = logits if self._class_index is None else np.ascontiguousarray(logits[:, self._class_index])
        return logits, [feature.float().cpu().numpy() for feature in output.features]
