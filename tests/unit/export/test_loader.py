import json

import numpy as np
import torch

from pipeline.export.card import CardFacts
from pipeline.export.export import export_student
from pipeline.export.loader import _load_pyfunc
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import save_network


def test_mlflow_hook_gives_probabilities_by_class(tmp_path):
    network = build_network(NetworkSpec("compact", classes=("run", "walk")), seed=0).eval()
    save_network(tmp_path / "model", network, {})
    clips = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), dtype=np.uint8)
    export_student(tmp_path / "model", tmp_path / "out", clips, CardFacts("student", ""))
    assert json.loads((tmp_path / "out" / "model.json").read_text())["raster"] == {"num_frames": 8, "size": [32, 32]}
    found = _load_pyfunc(str(tmp_path / "out")).predict(clips)
    with torch.no_grad():
        expected = network(torch.from_numpy(clips)).logits.softmax(dim=1).numpy()
    assert list(found.columns) == ["run", "walk"]
    np.testing.assert_allclose(found.to_numpy(), expected, atol=1e-5)
