"""EfficientNet-Lite0: our mapping against a forward written for the package's own layout of the weights."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.pretrained import lite0_file
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

# (kernel, stride) of the first block of each stage, and how many blocks; EfficientNet paper, table 1.
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]


def same_convolution(x: Tensor, weight: Tensor, stride: int, groups: int = 1, tensorflow: bool = True) -> Tensor:
    """TensorFlow's SAME: as much padding as needed, the odd pixel at the end."""
    kernel = weight.shape[-1]
    if not tensorflow:
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
    total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
    return F.conv2d(x, weight, stride=stride, groups=groups)


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)


def package_forward(x: Tensor, state: dict[str, Tensor], tensorflow: bool = True) -> tuple[list[Tensor], Tensor]:
    """(output of each stage, 1280 features) from the state dict as the package holds it."""
    x = F.relu6(norm(same_convolution(x, state["_conv_stem.weight"], 2, 1, tensorflow), state, "_bn0"))
    stages, number = [], 0
    for _, first_stride, count in STAGES:
        for place in range(count):
            block, before = f"_blocks.{number}", x
            stride = first_stride if place == 0 else 1
            if f"{block}._expand_conv.weight" in state:
                x = F.relu6(norm(F.conv2d(x, state[f"{block}._expand_conv.weight"]), state, f"{block}._bn0"))
            weight = state[f"{block}._depthwise_conv.weight"]
            x = same_convolution(x, weight, stride, weight.shape[0], tensorflow)
            x = F.relu6(norm(x, state, f"{block}._bn1"))
            x = norm(F.conv2d(x, state[f"{block}._project_conv.weight"]), state, f"{block}._bn2")
            x = x + before if stride == 1 and x.shape == before.shape else x
            number += 1
        stages.append(x)
    x = F.relu6(norm(F.conv2d(x, state["_conv_head.weight"]), state, "_bn1"))
    return stages, x.mean((2, 3))


@torch.no_grad()
def test_the_loaded_backbone_is_the_packages_network():
    spec = NetworkSpec("frame", ("a", "b"), {"backbone": "efficientnet_lite0", "frozen": True}, {}, "imagenet")
    network = build_network(spec)
    raster = torch.randint(0, 256, (1, 2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = torch.load(lite0_file(), weights_only=True)
    frames = (raster[0].permute(0, 3, 1, 2) / 255 - 0.498) / 0.502

    stages, features = package_forward(frames, state)

    assert torch.allclose(network.body.backbone(frames), features, atol=2e-4)
    for feature, stage in zip(network(raster).features, [stages[1], stages[2], stages[4], stages[6]], strict=True):
        assert torch.allclose(feature[0], stage.mean((0, 2, 3)), atol=2e-4)
    # The comparison is sharp: symmetric padding, the other convention, is far away.
    assert float((package_forward(frames, state, tensorflow=False)[1] - features).abs().max()) > 0.1


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"not installed: pip install 'stagedkd\[pretrained\]'"):
        lite0_file()
