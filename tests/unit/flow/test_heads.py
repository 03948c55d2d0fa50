"""`head: auto`: probe and ordered by one cross-validation on training videos; the chosen one is a network as any."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.artifacts.commit import Marker, commit, new_attempt, write_table
from pipeline.artifacts.schemas import features_schema, tensor_array
from pipeline.distill.data import DataSpec
from pipeline.distill.spec import Job, Objective, Optimiser
from pipeline.flow import heads
from pipeline.flow.heads import fit_head, in_words
from pipeline.models.frame import FrameBody
from pipeline.models.frozen import FrozenPart
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

CLASSES, FRAMES, VIDEOS = ("a", "b", "c"), 4, 24
OPTIONS = {"backbone": "mobilenet_v3_small", "frozen": True, "num_frames": FRAMES, "head": "auto", "dropout": 0.1}
SPEC = NetworkSpec("frame", CLASSES, OPTIONS)


def raster() -> np.ndarray:
    """Clips (24,4,32,32,3) whose colour gives the class."""
    colour = 60 + 130 * np.eye(3)[np.arange(VIDEOS) % 3]
    noise = np.random.default_rng(0).normal(0, 25, (VIDEOS, FRAMES, 32, 32, 3))
    return np.clip(colour[:, None, None, None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    folder = tmp_path_factory.mktemp("features")
    values = FrozenPart(build_network(SPEC, 0), VIDEOS)(raster()).astype(np.float16)
    names = [f"v{n:02d}" for n in range(VIDEOS)]
    keys = [[f"{name}#1of1" for name in names], pa.array([0] * VIDEOS, pa.int32()), names]
    table = pa.table([*keys, tensor_array(values)], schema=features_schema(*values.shape[1:]))
    attempt = new_attempt()
    commit(
        folder, Marker("shard-00000000", attempt, (write_table(folder, f"shard-00000000.{attempt}.parquet", table),))
    )
    given = tuple((name, n % 3) for n, name in enumerate(names))
    return DataSpec(str(folder), 3, given=given, column="features")


def job() -> Job:
    return Job("teacher", "key", SPEC, 30, Objective(method="supervised"), Optimiser(lr=1e-2), batch_size=8)


def groups() -> dict[str, str]:
    return {f"v{n:02d}": f"g{n // 3}" for n in range(VIDEOS)}


def test_the_table_names_what_was_compared_and_what_was_not(data: DataSpec) -> None:
    network, said = fit_head(job(), data, groups())
    assert [row["head"] for row in said["table"]] == ["probe", "ordered", "shift"]
    assert said["table"][0]["accuracy"] > 0.9
    assert 0 <= said["table"][1]["accuracy"] <= 1
    assert said["table"][2]["note"] == "not tried: the backbone is frozen"
    assert said["head"] == "probe"
    assert network.spec.options["head"] == "probe"
    assert "head probe by" in in_words(said)
    with torch.inference_mode():
        found = network(torch.from_numpy(raster())).logits
    assert found is not None
    assert (found.argmax(1).numpy() == np.arange(VIDEOS) % 3).mean() > 0.9


def test_a_better_ordered_head_is_trained_and_taken(data: DataSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    better: dict[str, Any] = {"head": "ordered", "accuracy": 1.1, "error": 0.0, "seconds": 0.0}
    monkeypatch.setattr(heads, "_ordered", lambda *_: better)
    network, said = fit_head(job(), data, groups())
    assert said["head"] == "ordered"
    assert network.spec.options["head"] == "ordered"
    assert isinstance(network.body, FrameBody)
    fresh = build_network(network.spec, job().seed)
    assert not torch.equal(fresh.body.head.linear.weight, network.body.head.linear.weight)  # type: ignore[union-attr]


def test_without_cross_validation_the_probe_is_taken_and_said(data: DataSpec) -> None:
    network, said = fit_head(job(), data, dict.fromkeys(groups(), "one scene"))
    assert "table" not in said
    assert network.spec.options["head"] == "probe"
    assert "at least 2 groups" in in_words(said)


def test_until_it_is_fitted_auto_is_built_as_a_probe() -> None:
    assert build_network(SPEC, 0).spec.options["head"] == "probe"
