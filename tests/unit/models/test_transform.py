import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.transform import Transform

DEFAULTS = Transform(size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def raster(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalisation_is_of_values_in_0_to_1_per_channel():
    transform = Transform(size=None, mean=(0.498, 0.4, 0.3), std=(0.502, 0.2, 0.1))
    frames = raster(2, 3, 4, 5)

    clip = transform(frames, torch.float64)

    expected = (frames.numpy() / 255.0 - np.array([0.498, 0.4, 0.3])) / np.array([0.502, 0.2, 0.1])
    np.testing.assert_allclose(clip.numpy(), expected.transpose(0, 4, 1, 2, 3), rtol=1e-12)
    assert clip.is_contiguous(memory_format=torch.channels_last_3d)


def test_grey_gives_one_channel_and_equal_channels_their_own_value():
    transform = Transform(size=None, mean=(0.0,), std=(1.0,), grey=True)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(1, 1, 16, 16, 3)

    clip = transform(levels, torch.float32)

    assert clip.shape == (1, 1, 1, 16, 16)
    assert torch.equal(clip.flatten(), torch.arange(256, dtype=torch.float32) / 255)


def test_resizing_keeps_the_mean_of_each_frame_and_is_skipped_at_the_own_size():
    frames = raster(2, 3, 8, 8)
    own = Transform(None, (0.0,) * 3, (1.0,) * 3)(frames, torch.float64)
    halved = Transform((4, 4), (0.0,) * 3, (1.0,) * 3)(frames, torch.float64)
    same = Transform((8, 8), (0.0,) * 3, (1.0,) * 3)(frames, torch.float64)

    assert halved.shape == (2, 3, 3, 4, 4)
    # Antialiased halving is no average of 2x2 pixels, but it may not mix frames, channels or clips.
    assert float((halved.mean((3, 4)) - own.mean((3, 4))).abs().max()) < 0.05
    assert float((own.mean((3, 4))[0] - own.mean((3, 4))[1]).abs().max()) > 0.05
    assert torch.equal(same, own)


def test_what_a_recipe_leaves_out_comes_from_the_defaults_and_numbers_are_spread():
    transform = Transform.read({"mean": 0.1, "size": [6, 7]}, DEFAULTS, "m")

    assert transform == Transform((6, 7), (0.1, 0.1, 0.1), (0.25, 0.25, 0.25))
    assert Transform.read(transform.to_json(), DEFAULTS, "other") == transform
    assert Transform.read({"grey": True}, DEFAULTS, "m") == Transform(None, (0.5,), (0.25,), True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"meen": 0.5}, "did you mean 'mean'"),
        ({"std": 0}, "must be positive"),
        ({"mean": [0.1, 0.2]}, "one number, or three"),
        ({"mean": [0.1, 0.2, 0.3], "grey": True}, "needs one number"),
        ({"size": 112}, r"\[height, width\]"),
    ],
)
def test_impossible_values_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Transform.read(given, DEFAULTS, "m")
