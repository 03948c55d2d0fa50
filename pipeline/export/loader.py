"""An exported student as an MLflow pyfunc model: rasters in, probabilities with class names out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.export.export import PROGRAM, load_program
from pipeline.models.weights import FACTS


class StudentModel:
    """What `mlflow.pyfunc.load_model(...).predict` calls; needs student.pt2 and model.json of an export."""

    def __init__(self, folder: Path) -> None:
        self.classes = json.loads((folder / FACTS).read_text(encoding="utf-8"))["classes"]
        self.program = load_program(folder / PROGRAM)

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Probabilities of uint8 rasters (n, T, H, W, 3): a data frame of n rows with a column per class."""
        import pandas

        raster = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.uint8))
        with torch.no_grad():
            probabilities = self.program(raster).softmax(dim=1).numpy()
        return pandas.DataFrame(probabilities, columns=self.classes or None)


def _load_pyfunc(path: str) -> StudentModel:
    """The hook that MLflow looks for in a `loader_module`."""
    return StudentModel(Path(path))
