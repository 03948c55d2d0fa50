"""Compact networks against a NumPy computation of our own, and the trial's sizes."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.errors import ConfigError
from pipeline.models.compact import widen
from pipeline.models.registry import build_network, count_parameters
from pipeline.models.spec import NetworkSpec

CLASSES = tuple(f"class{number}" for number in range(20))
STRIDES = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2)]


def convolve(x: np.ndarray, weight: np.ndarray, stride: tuple[int, int, int]) -> np.ndarray:
    """(B,c,T,H,W) with (C,c,t,h,w), zero padding of half a kernel."""
    kernel = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *[(size // 2, size // 2) for size in kernel]])
    windows = sliding_window_view(padded, kernel, axis=(2, 3, 4))[:, :, :: stride[0], :: stride[1], :: stride[2]]
    return np.einsum("bcthwijk,ocijk->bothw", windows, weight)


def group_norm(x: np.ndarray, groups: int, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    grouped = x.reshape(x.shape[0], groups, -1)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * weight[:, None, None, None] + bias[:, None, None, None]


def test_features_and_logits_agree_with_numpy_in_float64():
    spec = NetworkSpec("compact", CLASSES, {}, {"grey": True, "mean": 0.4, "std": 0.3})
    network = build_network(spec, seed=5).double()
    raster = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    state = {name.removeprefix("body."): value.numpy() for name, value in network.state_dict().items()}

    x = ((raster.numpy().mean(-1) / 255 - 0.4) / 0.3)[:, None]
    x = convolve(x, state["stem.0.weight"], (1, 2, 2))
    x = np.maximum(group_norm(x, 1, state["stem.1.weight"], state["stem.1.bias"]), 0)
    expected = []
    for number, (stride, groups) in enumerate(zip(STRIDES, (1, 2, 4, 4), strict=True), start=1):
        part = f"layer{number}.0"
        x = convolve(x, state[f"{part}.conv.weight"], stride)
        x = np.maximum(group_norm(x, groups, state[f"{part}.norm.weight"], state[f"{part}.norm.bias"]), 0)
        expected.append(x.mean((2, 3, 4)))
    logits = expected[-1] @ state["head.weight"].T + state["head.bias"]

    with torch.no_grad():
        output = network(raster)
    for feature, value in zip(output.features, expected, strict=True):
        np.testing.assert_allclose(feature.numpy(), value, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(output.logits.numpy(), logits, rtol=1e-10, atol=1e-12)


def test_the_trials_networks_have_the_trials_sizes():
    teacher = {"widths": [16, 32, 64, 64], "block": "residual", "norm": "batch"}

    # Counted by hand from the trial's scratch code: stem 300 + 8, blocks, head 16·20 + 20.
    assert count_parameters(NetworkSpec("compact", CLASSES, {}, {"grey": True})) == 12_400
    assert count_parameters(NetworkSpec("compact", CLASSES, teacher, {"grey": True})) == 452_580
    assert count_parameters(NetworkSpec("compact", CLASSES)) == 12_400 + 2 * 4 * 3 * 5 * 5


def test_depth_adds_blocks_without_changing_the_dims():
    shallow = build_network(NetworkSpec("compact", CLASSES))
    deep = build_network(NetworkSpec("compact", CLASSES, {"depth": [1, 2, 3, 1]}))

    assert deep.dims == shallow.dims == (4, 8, 16, 16)
    assert len(deep.body.layer3) == 3
    assert deep.body.layer3[1].conv.stride == (1, 1, 1)


def test_the_first_residual_block_keeps_the_identity_and_others_project():
    body = build_network(NetworkSpec("compact", CLASSES, {"block": "residual", "depth": 2})).body

    assert not list(body.layer1[0].shortcut.parameters())
    assert body.layer2[0].shortcut[0].stride == (2, 2, 2)
    assert not list(body.layer2[1].shortcut.parameters())


@pytest.mark.parametrize("width", [1, 3, 6, 13, 18, 64])
def test_any_width_can_be_normalised_in_groups(width):
    network = build_network(NetworkSpec("compact", CLASSES, {"widths": [width] * 4}))
    groups = network.body.layer1[0].norm.num_groups

    assert width % groups == 0
    assert 1 <= groups <= max(1, width // 4)


def test_widening_grows_the_realised_count_about_as_the_square_of_the_factor():
    options = {"widths": [8, 16, 32, 32], "norm": "batch"}
    base = count_parameters(NetworkSpec("compact", CLASSES, options))
    double = widen(options, 2.0)

    assert double == {"widths": [16, 32, 64, 64], "norm": "batch"}
    assert 3.7 < count_parameters(NetworkSpec("compact", CLASSES, double)) / base < 4.0
    assert widen({}, 0.1)["widths"] == [2, 2, 2, 2]
    with pytest.raises(ConfigError, match="above 0"):
        widen(options, 0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wdths": [4]}, "no option 'wdths'; did you mean 'widths'"),
        ({"block": "residul"}, "did you mean 'residual'"),
        ({"norm": "layer"}, "allowed: group, batch"),
        ({"widths": [4, 0, 4, 4]}, "at least 1"),
        ({"widths": [4] * 5}, "5 widths but 4 strides"),
        ({"depth": [1, 2]}, "one number, or 4"),
        ({"stem": {"kernal": 3}}, "did you mean 'kernel'"),
        ({"strides": [1, 2, [1, 2], 2]}, "three for time, height and width"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        build_network(NetworkSpec("compact", CLASSES, options))
