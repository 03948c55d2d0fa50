import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

CLASSES = ("push", "pull", "point")
RASTER = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def frame_network(**options: Any) -> VideoNetwork:
    spec = NetworkSpec("frame", CLASSES, {"backbone": "mobilenet_v3_small", **options})
    return build_network(spec, seed=1).double().eval()


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=0)


@torch.no_grad()
def test_mean_logits_are_the_mean_over_frames_each_on_its_own():
    network = frame_network(head="mean")
    alone = torch.stack([network(RASTER[:, time : time + 1]).logits for time in range(4)])

    assert close(network(RASTER).logits, alone.mean(0))
    assert not close(alone[0], alone[1])


@torch.no_grad()
@pytest.mark.parametrize(("head", "ordered"), [("mean", False), ("shift", True), ("ordered", True)])
def test_which_heads_can_tell_the_order_of_the_frames(head, ordered):
    network = frame_network(head=head, num_frames=4)
    forward, backward = network(RASTER).logits, network(RASTER.flip(1)).logits

    assert close(forward, backward) is not ordered


@torch.no_grad()
def test_the_ordered_head_is_one_linear_layer_on_normed_frames_in_order():
    network = frame_network(head="ordered", num_frames=4)
    head, clip = network.body.head, network.transform(RASTER, torch.float64)
    rows = []
    for index in range(2):
        frames = [network.body.backbone(clip[index : index + 1, :, time])[0] for time in range(4)]
        normal = [(f - f.mean()) / torch.sqrt(f.var(unbiased=False) + 1e-5) for f in frames]
        rows.append(torch.cat(normal) @ head.linear.weight.T + head.linear.bias)

    assert close(network(RASTER).logits, torch.stack(rows))


def test_features_average_over_the_frames_too():
    network = frame_network()
    with torch.no_grad():
        whole = network(RASTER).features
        alone = [network(RASTER[:, time : time + 1]).features for time in range(4)]

    assert network.dims == (16, 24, 48, 576)
    for level, feature in enumerate(whole):
        assert close(feature, torch.stack([part[level] for part in alone]).mean(0))
        assert not close(alone[0][level], alone[1][level])


def test_a_frozen_backbone_stays_in_evaluation_mode_without_gradient():
    network = frame_network(head="ordered", num_frames=4, frozen=True).train()
    before = {name: value.clone() for name, value in network.body.backbone.state_dict().items()}

    network(RASTER).logits.sum().backward()

    assert not any(part.training for part in network.body.backbone.modules())
    assert network.body.head.training
    assert all(value.grad is None for value in network.body.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.body.backbone.state_dict().items())
    assert network.parameters_of(1, 3) == []
    assert {id(value) for value in network.parameters_of(4, 4)} == {id(v) for v in network.body.head.parameters()}


def test_cuts_are_named_from_the_backbone():
    network = frame_network(taps=["features.1", "features.8"])

    assert network.dims == (16, 48)
    assert build_network(network.spec).dims == (16, 48)
    with pytest.raises(ConfigError, match=r"no module 'features\.99'"):
        frame_network(taps=["features.99"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "orderd"}, "did you mean 'ordered'"),
        ({"head": "ordered"}, "option num_frames of a frame network"),
        ({"head": "shift", "frozen": True}, "cannot learn to use shifted channels"),
        ({"backbone": "resnet19"}, r"has a backbone 'resnet19'; did you mean 'resnet1"),
        ({"backbone": "squeezenet1_0"}, "take another"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        frame_network(**options)


def test_clips_of_another_length_than_the_ordered_head_was_built_for_are_refused():
    with pytest.raises(ConfigError, match=r"built for 8 frames, the clips have 4"):
        frame_network(head="ordered", num_frames=8)(RASTER)


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(ConfigError, match=r"needs timm.*pip install 'stagedkd\[pretrained\]'"):
        frame_network(backbone="efficientnet_lite0")
