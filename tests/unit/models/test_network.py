import copy

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

CLASSES = tuple(f"class{number}" for number in range(6))
SPECS = {
    "plain": NetworkSpec("compact", CLASSES, {}, {"grey": True}),
    "residual": NetworkSpec("compact", CLASSES, {"widths": [4, 6, 8, 8], "block": "residual", "norm": "batch"}),
    "frame": NetworkSpec("frame", CLASSES, {"backbone": "mobilenet_v3_small", "head": "shift"}),
    "swin": NetworkSpec("swin3d_t", CLASSES),
}
RASTER = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def networks() -> dict[str, VideoNetwork]:
    return {name: build_network(spec, seed=3).eval() for name, spec in SPECS.items()}


@pytest.mark.parametrize("name", SPECS)
def test_upto_gives_the_full_forwards_first_features_and_no_logits(networks, name):
    network = networks[name]
    with torch.no_grad():
        full = network(RASTER)
        for part in range(1, network.substages + 1):
            early = network(RASTER, upto=part)
            assert early.logits is None
            assert len(early.features) == part
            assert all(torch.equal(a, b) for a, b in zip(early.features, full.features, strict=False))

    assert full.logits.shape == (3, 6)
    assert tuple(feature.shape[1] for feature in full.features) == network.dims


def test_upto_computes_nothing_beyond_its_substage(networks, monkeypatch):
    network = copy.deepcopy(networks["plain"])

    def must_not_run(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("computed beyond the substage")

    monkeypatch.setattr(network.body.layer3, "forward", must_not_run)

    assert len(network(RASTER, upto=2).features) == 2
    with pytest.raises(AssertionError, match="computed beyond"):
        network(RASTER, upto=3)


@pytest.mark.parametrize("name", SPECS)
def test_pooled_features_are_the_means_of_the_maps_in_float64(networks, name):
    network = copy.deepcopy(networks[name]).double()
    with torch.no_grad():
        features, maps = network(RASTER).features, network.maps(RASTER)

    for feature, value in zip(features, maps, strict=True):
        assert value.dim() == 5
        assert value.shape[0] == 3
        array = value.numpy()
        independent = array.reshape(*array.shape[:2], -1).sum(2) / array[0, 0].size
        assert feature.numpy() == pytest.approx(independent, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_parameters_fall_into_substages_without_rest_or_overlap(networks, name):
    network = networks[name]
    parts = [network.parameters_of(part, part) for part in range(1, network.substages + 1)]
    ids = [id(value) for part in parts for value in part]

    assert sorted(ids) == sorted(id(value) for value in network.parameters())
    assert all(parts)
    assert [id(value) for value in network.parameters_of(2, 3)] == [id(v) for part in parts[1:3] for v in part]


def test_the_stem_belongs_to_the_first_substage_and_the_head_to_the_last(networks):
    names = {id(value): name for name, value in networks["residual"].named_parameters()}
    first = {names[id(value)].split(".")[1] for value in networks["residual"].parameters_of(1, 1)}
    last = {names[id(value)].split(".")[1] for value in networks["residual"].parameters_of(4, 4)}

    assert first == {"stem", "layer1"}
    assert last == {"layer4", "head"}


def test_training_some_substages_leaves_the_others_in_evaluation_mode(networks):
    network = copy.deepcopy(networks["residual"]).train_substages(3, 4)
    before = copy.deepcopy(network.state_dict())

    network(RASTER)

    moved = {name.split(".")[1] for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layer3", "layer4"}
    assert network.train().body.stem[1].training


def test_finding_the_substages_of_parameters_changes_neither_modes_nor_statistics():
    network = build_network(SPECS["residual"], seed=3)
    network.body.layer2.eval()
    before = copy.deepcopy(network.state_dict())

    network.parameters_of(1, 2)

    assert network.body.layer1[0].norm1.training
    assert not network.body.layer2[0].norm1.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_frozen_norms_keep_their_statistics_in_training():
    spec = NetworkSpec("compact", CLASSES, {"norm": "batch", "frozen_norm": True})
    network = build_network(spec).train()
    before = network.state_dict()["body.stem.1.running_mean"].clone()

    network(RASTER)

    assert torch.equal(network.state_dict()["body.stem.1.running_mean"], before)
    assert network.body.stem.training


def test_a_recipe_may_name_its_cuts_and_the_spec_keeps_them():
    spec = NetworkSpec("compact", CLASSES, {"taps": ["stem", "layer2.0.conv"]})
    network = build_network(spec)

    assert network.dims == (4, 8)
    assert network.spec.options["taps"] == ["stem", "layer2.0.conv"]
    assert build_network(network.spec).dims == (4, 8)


@pytest.mark.parametrize(
    ("taps", "said"),
    [
        (["layer1", "layer5"], "no module 'layer5' to cut at; did you mean 'layer"),
        (["layer2", "layer1"], "name each once"),
        (["layer1", "layer1"], "name each once"),
    ],
)
def test_wrong_cuts_are_refused_when_the_network_is_built(taps, said):
    with pytest.raises(ConfigError, match=said):
        build_network(NetworkSpec("compact", CLASSES, {"taps": taps}))


def test_gradients_of_a_feature_reach_its_substages_only():
    network = build_network(SPECS["plain"], seed=1)
    network(RASTER, upto=2).features[1].pow(2).sum().backward()

    reached = [value.grad is not None and bool(value.grad.abs().sum() > 0) for value in network.parameters_of(1, 2)]
    assert all(reached)
    assert all(value.grad is None for value in network.parameters_of(3, 4))
