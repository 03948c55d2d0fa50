import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.backbones import make_backbone
from pipeline.models.shift import Clock, shift_in_time, shifted


def test_shifting_agrees_with_a_loop_over_frames_and_channels():
    frames = torch.randn(2 * 3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    clips = frames.view(2, 3, 8, 2, 2)
    expected = torch.zeros_like(clips)
    for time in range(3):
        for channel in range(8):
            source = time + 1 if channel < 2 else time - 1 if channel < 4 else time
            if 0 <= source < 3:
                expected[:, time, channel] = clips[:, source, channel]

    assert torch.equal(shifted(frames, 3, 0.25).view(2, 3, 8, 2, 2), expected)


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("mobilenet_v2", 10), ("efficientnet_lite0", 9)])
def test_one_shift_per_residual_block_and_no_new_names(name, blocks):
    module = make_backbone(name).module
    names = list(module.state_dict())

    assert shift_in_time(module, Clock(), 0.125, name) == blocks
    assert list(module.state_dict()) == names


def test_a_backbone_without_residual_blocks_is_refused():
    with pytest.raises(ConfigError, match="shift needs residual blocks"):
        shift_in_time(nn.Sequential(nn.Conv2d(3, 4, 3)), Clock(), 0.125, "plain")
