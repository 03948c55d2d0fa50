"""The teacher's stage of the precompute graph: rasters in, logits and pooled features out, pixels dropped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.flow.step import content
from pipeline.models.weights import load_network
from pipeline.targets.labeler import Labeler


class TeacherStage:
    """Holds one labeler; takes and gives the rows of `video.micro_batch`."""

    def __init__(self, model: str, batch: int, device: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.labeler = Labeler(load_network(content(Path(model))), batch, device, dtype)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in row.items() if name != "frames"}
        return kept | self.labeler(row["frames"])
