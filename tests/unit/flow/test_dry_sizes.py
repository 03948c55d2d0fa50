"""The arithmetic of a dry run against the plan, the networks and plain numbers."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.networks import Network, Teacher
from pipeline.flow.build import network_spec, view_policy
from pipeline.flow.dry_data import look
from pipeline.flow.dry_sizes import CHANNELS, decode_seconds, duration, plan_size, size, substage_channels
from pipeline.flow.targets import codec_of
from pipeline.manifest.plan import extend_plan, read_plan
from pipeline.targets.codec import pack
from pipeline.video.views import view_keys
from tests.unit.flow.small import class_folders, recipe


@pytest.mark.parametrize(("shard_views", "views", "count"), [(8, 2, 16), (7, 2, 16), (9, 4, 5), (1, 3, 4), (100, 4, 9)])
def test_shards_are_counted_as_the_plan_makes_them(tmp_path: Path, shard_views: int, views: int, count: int) -> None:
    sets = (f"plan.shard_views={shard_views}", f"views.train.views_per_clip={views}", "manifest.split.train=1.0")
    root = class_folders(tmp_path / "clips", {"a": count - 1, "b": 1})
    here = recipe(root, tmp_path / "w", *sets, "manifest.split.val=0", "manifest.split.test=0")
    found = plan_size(here, look(here), "train")
    policy = view_policy(here, "train")
    sources = {f"v{number}": "1:1" for number in range(count)}
    extend_plan(tmp_path / "p", sources, lambda v: view_keys(v, policy), shard_views=shard_views, micro_batch=4)
    plan = read_plan(tmp_path / "p")
    assert found.videos == count
    assert found.views == plan.views
    assert found.shards_of(count) == len(plan.shards)


def test_bytes_of_rasters_and_targets(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "clips", {"a": 3, "b": 3})
    sets = ("views.size=[20,30]", "views.num_frames=5", "teacher.options.widths=[8,16,32]")
    here = recipe(root, tmp_path / "w", *sets)
    found = plan_size(here, look(here), "eval")
    assert found.view_bytes == 5 * 20 * 30 * 3
    assert found.targets_bytes == 2 * (2 + 8 + 16 + 32)
    exact = recipe(root, tmp_path / "w", *sets, "precompute.codec.dtype=float32")
    assert plan_size(exact, look(exact), "eval").targets_bytes == 4 * (2 + 8 + 16 + 32)


def test_bytes_of_targets_are_those_of_the_columns_that_are_packed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "clips", {"a": 3, "b": 3})
    sets = ("precompute.codec.top_k=2", "precompute.codec.temperatures=[2.0,4.0]", "teacher.options.widths=[8,16]")
    here = recipe(root, tmp_path / "w", *sets)
    for plan in ("train", "eval"):
        outputs = {"logits": np.zeros((1, 2), np.float32), "substage_1": np.zeros((1, 24), np.float32)}
        packed = pack(outputs, codec_of(here, plan))
        assert plan_size(here, look(here), plan).targets_bytes == sum(values.nbytes for values in packed.values())


def test_seconds_grow_with_pixels(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "clips", {"a": 20, "b": 20})
    here = recipe(root, tmp_path / "w")
    data = look(here)
    found = plan_size(here, data, "eval")
    assert found.video_seconds == pytest.approx(0.005 + 300 * 640 * 360 * 1e-8)
    assert found.video_seconds == decode_seconds(data.typical)
    assert found.micro_batch_seconds == pytest.approx(4 * found.video_seconds)
    assert found.shard_seconds == pytest.approx(8 * found.video_seconds)


# The larger members of a family share the rule of the smaller one.
@pytest.mark.parametrize("name", sorted(CHANNELS.keys() - {"swin3d_s", "swin3d_b", "mvit_v1_b", "mc3_18"}))
def test_channels_are_those_of_the_networks(name: str) -> None:
    import torch

    from pipeline.models.network import VideoNetwork
    from pipeline.models.registry import COMMON, _builder

    frame = name == "efficientnet_lite0"
    network = Network(model="frame", options={"backbone": name}) if frame else Network(model=name)
    spec = network_spec(network, ("a", "b"))
    with torch.device("meta"):
        built = VideoNetwork(spec, _builder(spec.model)(spec, 2, COMMON))
    assert substage_channels(network) == built.dims


def test_channels_that_only_a_built_network_knows_are_not_guessed() -> None:
    assert substage_channels(Network(model="my.nets:build")) is None
    assert substage_channels(Network(model="frame", options={"backbone": "resnet50"})) is None
    assert substage_channels(Network(model="r3d_18", options={"taps": ["layer4"]})) is None
    assert substage_channels(Teacher(options={"widths": [3, 5]})) == (3, 5)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_408_448, "2.41 MB"), (1.2e15, "1.2 PB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "0.012 s"), (61, "61 s"), (300, "5 min"), (86_400, "24 h")])
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
