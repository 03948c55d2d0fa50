"""The first stages of a backbone with a head over space and time: the same maps, not more, and a network like any."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.networks import Network
from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData
from pipeline.errors import ConfigError, InputError
from pipeline.evaluation.cost import cost
from pipeline.evaluation.predict import predict
from pipeline.export.export import _Logits, export_program
from pipeline.flow.features import reads_features
from pipeline.models.backbones import make_backbone
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network, count_parameters, widen_spec
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, load_weights, save_network
from tests.unit.distill.toys import CLASSES, arrays, job, source

NAMES = tuple(f"class{n}" for n in range(CLASSES))
RASTER = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def cut_spec(backbone: str = "mobilenet_v3_small", **options: Any) -> NetworkSpec:
    return NetworkSpec("frame", NAMES, {"backbone": backbone, "stages": 2, "hidden": 8, **options})


def cut_network(backbone: str = "mobilenet_v3_small", **options: Any) -> VideoNetwork:
    return build_network(cut_spec(backbone, **options), seed=1).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "widths"),
    [
        ("mobilenet_v3_small", (16, 24)),
        ("resnet18", (64, 128)),
        ("efficientnet_lite0", (24, 40)),
        ("regnet_x_400mf", (32, 64)),
        ("swin_t", (96, 192)),
    ],
)
def test_the_stages_give_what_they_give_in_the_whole_backbone(backbone: str, widths: tuple[int, ...]) -> None:
    network, whole = cut_network(backbone), build_network(NetworkSpec("frame", NAMES, {"backbone": backbone}), seed=1)
    own = {
        name: value for name, value in whole.state_dict().items() if name in network.state_dict() and "head" not in name
    }
    network.load_state_dict(own, strict=False)
    assert network.dims == (*widths, 8)
    for mine, theirs in zip(network(RASTER).features[:2], whole.eval()(RASTER).features, strict=False):
        assert torch.equal(mine, theirs)


def test_what_is_behind_the_last_stage_is_neither_held_nor_computed() -> None:
    small, large = cut_network("resnet18", stages=1), cut_network("resnet18", stages=2)
    whole = build_network(NetworkSpec("frame", NAMES, {"backbone": "resnet18"}), seed=1)
    assert not any("layer2" in name for name in small.state_dict())
    assert not any("layer3" in name or "fc" in name for name in large.state_dict())
    assert count_parameters(large.spec) == sum(value.numel() for value in large.parameters())
    flops = [cost(network, (4, 64, 64), repeats=1).flops for network in (small, large, whole)]
    assert flops[0] < flops[1] < flops[2]


@torch.no_grad()
def test_it_can_tell_the_order_of_the_frames() -> None:
    network = cut_network()
    assert not torch.allclose(network(RASTER).logits, network(RASTER.flip(1)).logits, rtol=1e-3)


@torch.no_grad()
def test_the_head_is_one_convolution_over_space_and_time_its_mean_and_a_linear_layer() -> None:
    network = cut_network()
    head, clip = network.body.head, network.transform(RASTER, torch.float32)
    maps = torch.stack([network.body.backbone(clip[:, :, time]) for time in range(4)], dim=2)
    hidden = head.conv(maps)
    assert hidden.shape[:3] == (2, 8, 4)
    output = network(RASTER)
    torch.testing.assert_close(output.features[-1], hidden.mean((2, 3, 4)))
    torch.testing.assert_close(output.logits, head.linear(hidden.mean((2, 3, 4))))


def test_a_frozen_one_trains_its_head_alone_and_sees_every_view_anew() -> None:
    network = cut_network(frozen=True).train()
    before = {name: value.clone() for name, value in network.body.backbone.state_dict().items()}
    network(RASTER).logits.sum().backward()
    assert all(value.grad is None for value in network.body.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.body.backbone.state_dict().items())
    assert network.parameters_of(1, 2) == []
    assert {id(v) for v in network.parameters_of(3, 3)} == {id(v) for v in network.body.head.parameters()}
    frozen = {"backbone": "resnet18", "frozen": True}
    assert reads_features(Network(model="frame", options=frozen))
    assert not reads_features(Network(model="frame", options={**frozen, "stages": 2}))


def whole_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """A library's weights file: the whole backbone with its classifier."""
    state = make_backbone(backbone).module.state_dict()
    state = {name: value + 0.5 for name, value in state.items()} | {"fc.weight": torch.zeros(1000, 512)}
    torch.save(state, path)
    return state


def test_weights_of_the_whole_backbone_fill_the_stages_that_are_kept(tmp_path: Path) -> None:
    state = whole_weights(tmp_path / "whole.pt", "resnet18")
    network = cut_network("resnet18")
    head = network.body.head.linear.weight.clone()
    load_weights(network, tmp_path / "whole.pt")
    assert torch.equal(network.body.backbone.get_submodule("layer2.1.conv2").weight, state["layer2.1.conv2.weight"])
    assert torch.equal(network.body.head.linear.weight, head)


@pytest.mark.parametrize(
    ("lost", "added", "said"),
    [("layer2.0.conv1.weight", None, "missing: .*layer2"), (None, "layer9.weight", r"unknown: .*layer9")],
)
def test_only_what_was_cut_away_may_be_left_over(
    lost: str | None, added: str | None, said: str, tmp_path: Path
) -> None:
    state = whole_weights(tmp_path / "whole.pt", "resnet18")
    state = {name: value for name, value in state.items() if name != lost}
    state |= {added: torch.zeros(1)} if added else {}
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(InputError, match=said):
        load_weights(cut_network("resnet18"), tmp_path / "broken.pt")


@torch.no_grad()
def test_saved_loaded_exported_and_asked_it_says_the_same(tmp_path: Path) -> None:
    network = cut_network()
    logits = network(RASTER).logits
    save_network(tmp_path / "net", network, {})
    again = load_network(tmp_path / "net")
    assert torch.equal(again(RASTER).logits, logits)
    assert again.dims == network.dims
    program = export_program(_Logits(network), (4, 64, 64))
    torch.testing.assert_close(program.module()(RASTER), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(predict(network, RASTER.numpy())), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_it_learns_from_a_teacher_by_all_terms(frozen: bool) -> None:
    held = MemoryData.from_arrays(**arrays(), sources=[source()])
    trained = train(job(network=cut_spec(frozen=frozen), steps=3), held)
    assert trained.steps == 3
    assert trained.metrics["kd"] > 0
    assert {"corr_1", "corr_2", "corr_3"} <= trained.metrics.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": 5}, r"stages is 5, but the backbone 'mobilenet_v3_small' has 4"),
        ({"stages": 0}, "option stages .* whole number"),
        ({"head": "ordered"}, "leave the option head out"),
        ({"hiden": 4}, "did you mean 'hidden'"),
        ({"hidden": 0}, "option hidden"),
        ({"backbone": "vit_b_16"}, "does not run its parts one after another"),
        ({"taps": ["features.12"]}, "no module 'features.12'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_network(NetworkSpec("frame", NAMES, {"backbone": "mobilenet_v3_small", "stages": 2, **options}))


def test_a_backbone_with_other_ways_through_is_not_cut() -> None:
    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) + x).mean((2, 3))

    from pipeline.models.backbones import Backbone
    from pipeline.models.cut import first_stages

    with pytest.raises(ConfigError, match="one after another"):
        first_stages(Backbone(Around(), "around", ["one", "two"], 3, (0.5,), (0.5,)), 2)


def test_it_is_not_widened_for_assistants() -> None:
    with pytest.raises(ConfigError, match="only compact networks can be widened"):
        widen_spec(cut_spec(), 2.0)
