import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.taps import Tap, as_map, check_path, last_of_each_resolution, pooled, quarters, run, spatial_size


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)


@pytest.mark.parametrize(
    ("output", "tap", "shape"),
    [
        (numbered(2, 5, 3, 4, 4), Tap("x"), (2, 5, 3, 4, 4)),
        (numbered(2, 3, 4, 4, 5), Tap("x", channels_last=True), (2, 5, 3, 4, 4)),
        (numbered(6, 5, 4, 4), Tap("x"), (2, 5, 3, 4, 4)),
        (numbered(6, 4, 4, 5), Tap("x", channels_last=True), (2, 5, 3, 4, 4)),
        (numbered(2, 7, 5), Tap("x", prefix=1), (2, 5, 1, 6, 1)),
        (numbered(6, 7, 5), Tap("x", prefix=1), (2, 5, 3, 6, 1)),
        ((numbered(2, 13, 5), (3, 2, 2)), Tap("x", prefix=1), (2, 5, 3, 2, 2)),
        (numbered(2, 5), Tap("x"), (2, 5, 1, 1, 1)),
        (numbered(6, 5), Tap("x"), (2, 5, 3, 1, 1)),
    ],
)
def test_every_understood_output_becomes_a_map_of_its_clips(output, tap, shape):
    assert as_map(output, tap, 2).shape == shape


def test_frames_of_one_clip_stay_together_and_in_order():
    frames = numbered(6, 2, 2, 2)

    maps = as_map(frames, Tap("x"), 2)

    assert torch.equal(maps[1, :, 2], frames[5])
    assert torch.equal(maps[0, :, 1], frames[1])


def test_pooling_leaves_out_the_class_token_and_averages_the_rest():
    tokens = numbered(2, 4, 3)

    assert torch.equal(pooled(tokens, Tap("x", prefix=1), 2), tokens[:, 1:].mean(1))


@pytest.mark.parametrize("output", [numbered(5, 4), numbered(4), "text", numbered(2, 1, 1, 1, 1, 1)])
def test_an_output_that_is_no_map_is_refused_with_its_shape(output):
    with pytest.raises(ConfigError, match=r"module 'layer9' gives .* no feature map of 2 clips"):
        as_map(output, Tap("layer9"), 2)


def test_an_unknown_module_is_answered_with_the_nearest_known_one():
    body = nn.Sequential()
    body.add_module("layer1", nn.Sequential(nn.ReLU()))
    body.add_module("head", nn.Linear(1, 1))

    assert check_path(body, "layer1.0", "mine") == "layer1.0"
    with pytest.raises(
        ConfigError, match=r"no module 'layer2' to cut at; did you mean 'layer1'\? \(its parts: layer1, head\)"
    ):
        check_path(body, "layer2", "mine")


def test_run_stops_behind_the_wanted_module_and_leaves_no_hook():
    calls: list[str] = []

    class Part(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return x + 1

    body = nn.Sequential(Part("a"), Part("b"), Part("c"))
    output, kept, order = run(body, list(body), torch.zeros(1), lambda index, value: (index, float(value)), upto=2)

    assert (output, kept, order, calls) == (None, [(0, 1.0), (1, 2.0)], [0, 1], ["a", "b"])
    assert not any(part._forward_hooks for part in body)


def test_hooks_are_gone_after_an_error_too():
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    body = nn.Sequential(nn.Identity(), Broken())
    with pytest.raises(RuntimeError, match="broken"):
        run(body, [body[0]], torch.zeros(1), lambda index, value: value)

    assert not body[0]._forward_hooks


def test_an_operation_in_place_behind_the_cut_does_not_change_the_feature():
    body = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    clip = torch.full((2, 3, 1, 2, 2), -1.0)

    _, features, _ = run(body, [body[0]], clip, lambda _, output: pooled(output, Tap("0"), 2))

    assert torch.equal(features[0], torch.full((2, 3), -1.0))


def test_the_last_module_of_each_resolution_ends_a_substage():
    sizes = [
        ("stem", (16, 16)),
        ("a", (8, 8)),
        ("b", (8, 8)),
        ("c", (4, 4)),
        ("d", (2, 2)),
        ("pool", (1, 1)),
        ("fc", None),
    ]

    assert last_of_each_resolution(sizes) == ["stem", "b", "c", "d"]
    assert last_of_each_resolution(sizes, count=2) == ["c", "d"]


def test_quarters_of_the_blocks():
    assert quarters([str(number) for number in range(12)]) == ["2", "5", "8", "11"]
    assert quarters(["0", "1", "2", "3", "4", "5"]) == ["1", "2", "4", "5"]


def test_spatial_size_of_what_modules_give():
    assert spatial_size(torch.zeros(2, 5, 3, 6, 7)) == (6, 7)
    assert spatial_size(torch.zeros(2, 6, 7, 5), channels_last=True) == (6, 7)
    assert spatial_size((torch.zeros(2, 13, 5), (3, 2, 4))) == (2, 4)
    assert spatial_size(torch.zeros(2, 5)) is None
