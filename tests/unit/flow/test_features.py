"""Features of a frozen backbone: each view is seen once, killed work goes on, and heads fitted on them are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts.commit import Marker, commit, new_attempt, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.artifacts.snapshot import pin
from pipeline.config.networks import Network
from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData, one_hot
from pipeline.distill.spec import Job, Objective, Optimiser
from pipeline.flow.context import Context
from pipeline.flow.features import features_step, fit_inputs, frozen_features
from pipeline.flow.precompute import frames_step
from pipeline.flow.step import Timing
from pipeline.flow.tasks import FeatureTask, Host, feature_shards_left, run_features
from pipeline.models.frame import FrameBody
from pipeline.models.frozen import FrozenPart
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.video.micro_batch import frames_table

OPTIONS = {"backbone": "mobilenet_v3_small", "frozen": True, "num_frames": 4}
ORDERED = Network(model="frame", options={**OPTIONS, "head": "ordered"})
CLASSES = ("c0", "c1")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each forward of a frozen part saw."""
    seen: list[int] = []
    original = FrozenPart.__call__

    def counted(self: FrozenPart, raster: np.ndarray) -> np.ndarray:
        seen.append(len(raster))
        return original(self, raster)

    monkeypatch.setattr(FrozenPart, "__call__", counted)
    return seen


def stored(context: Context, network: Network = ORDERED) -> tuple[Path, str, Timing, Path, str]:
    frames = frames_step(context, "train").folder(context.workspace)
    snapshot, timing = pin(frames).digest, Timing("features")
    folder, digest = frozen_features(context, network, CLASSES, frames, snapshot, timing)
    return folder, digest, timing, frames, snapshot


def local(made: tuple[Context, Path]) -> Context:
    context, _ = made
    context.local = True
    return context


def test_every_view_is_seen_once_whoever_asks(made: tuple[Context, Path], forwards: list[int]) -> None:
    context = local(made)
    folder, digest, _, frames, snapshot = stored(context)
    views = open_dataset(frames, snapshot).table(["clip_id", "view_id"])
    found = open_dataset(folder, digest).table()
    assert found.select(["clip_id", "view_id"]).to_pylist() == views.to_pylist()
    assert sum(forwards) == len(views)
    mean, probe = (
        Network(model="frame", options={**OPTIONS, "head": head, "dropout": 0.3}) for head in ("mean", "probe")
    )
    assert stored(context, mean)[:2] == stored(context, probe)[:2] == (folder, digest)
    assert sum(forwards) == len(views), "another head asks for the same features"
    network = build_network(NetworkSpec("frame", CLASSES, dict(ORDERED.options)), 0).eval()
    assert isinstance(network.body, FrameBody)
    pixels = column(open_dataset(frames, snapshot).table(["frames"]), "frames")
    with torch.inference_mode():
        clip = network.transform(torch.from_numpy(pixels[:1]), torch.float32)
        expected = network.body.features(clip)[0].numpy()
    np.testing.assert_allclose(column(found, "features")[0], expected, rtol=2e-3, atol=2e-3)


def two_shards(folder: Path) -> str:
    """A frames artefact of two shards of three views; its pinned snapshot."""
    rng = np.random.default_rng(0)
    for shard in ("shard-00000000", "shard-00000001"):
        slots = [
            {
                "clip_id": f"{shard}-{n}#1of1",
                "view_id": 0,
                "video_id": f"{shard}-{n}",
                "times": [0.0] * 4,
                "indices": [0] * 4,
                "crop": [0.0, 0.0, 1.0, 1.0],
                "flip": False,
                "reader": "pyav",
            }
            for n in range(3)
        ]
        table = frames_table(slots, rng.integers(0, 255, (3, 4, 32, 32, 3), np.uint8))
        attempt = new_attempt()
        commit(folder, Marker(shard, attempt, (write_table(folder, f"{shard}.{attempt}.parquet", table),)))
    return pin(folder).digest


def test_what_is_missing_after_a_kill_is_made_and_nothing_else(tmp_path: Path, forwards: list[int]) -> None:
    frames, out = tmp_path / "frames", tmp_path / "features"
    frames.mkdir()
    snapshot, spec = two_shards(frames), NetworkSpec("frame", CLASSES, dict(ORDERED.options))
    task = FeatureTask("features", spec, str(frames), snapshot, str(out), micro_batch=2, device="cpu")
    run_features(task, Host())
    digest, before = pin(out).digest, open_dataset(out).table()
    assert forwards == [2, 1, 2, 1]
    (out / "shard-00000001.json").unlink()
    forwards.clear()
    assert feature_shards_left(task) == 1
    run_features(task, Host())
    assert forwards == [2, 1]
    assert pin(out).digest == digest, "equal values give the equal digest"
    assert open_dataset(out).table().equals(before)


def test_other_weights_or_pixels_are_other_features(made: tuple[Context, Path]) -> None:
    context = local(made)

    def key(network: Network, frames: str = "frames") -> str:
        return features_step(context, network, frames).key

    other = Network(model="frame", options={**ORDERED.options, "backbone": "resnet18"})
    keys = [key(ORDERED), key(other), key(ORDERED, "others"), key(ORDERED.model_copy(update={"weights": "imagenet"}))]
    assert len(set(keys)) == 4
    live = Network(model="frame", options={**ORDERED.options, "frozen": False})
    folder = Path("frames")
    inputs = fit_inputs(context, live, CLASSES, folder, "digest", Timing("x"))
    assert (inputs.folder, inputs.snapshot, inputs.column) == (folder, "digest", "frames")


@pytest.mark.parametrize("head", ["ordered", "mean"])
def test_a_head_fitted_on_features_is_the_one_fitted_through_the_backbone(head: str) -> None:
    spec = NetworkSpec("frame", ("a", "b", "c"), {**OPTIONS, "head": head})
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (24, 1, 4, 32, 32, 3), np.uint8)
    q, weight = one_hot(np.arange(24) % 3, 3)
    part = FrozenPart(build_network(spec, 3), 24)
    features = part(frames[:, 0])[:, None]

    def fitted(values: np.ndarray) -> dict[str, Any]:
        job = Job("head", "k", spec, 12, Objective(method="supervised"), Optimiser(lr=1e-2), batch_size=8, seed=3)
        return train(job, MemoryData.from_arrays(values, q, weight)).network.state_dict()

    through, alone = fitted(frames), fitted(features)
    assert through.keys() == alone.keys()
    moved = 0.0
    begin = build_network(spec, 3).state_dict()
    for name, value in through.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-4)
        moved = max(moved, float((value.float() - begin[name].float()).abs().max()))
    assert moved > 1e-3, "something was learnt"
