import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.registry import build_network, count_parameters, names, widen_spec
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import network_digest

SPEC = NetworkSpec("compact", ("a", "b", "c"))


def test_the_seed_alone_decides_the_initial_weights():
    torch.manual_seed(1)
    first = network_digest(build_network(SPEC, seed=4))
    torch.manual_seed(2)

    assert network_digest(build_network(SPEC, seed=4)) == first
    assert network_digest(build_network(SPEC, seed=5)) != first


def test_building_leaves_the_global_random_state_as_it_was():
    state = torch.get_rng_state()
    build_network(NetworkSpec("frame", ("a", "b"), {"backbone": "mobilenet_v3_small", "dropout": 0.5}))
    count_parameters(SPEC)

    assert torch.equal(torch.get_rng_state(), state)


def test_the_head_is_not_initialised_with_zeros():
    head = build_network(SPEC).body.head

    assert float(head.weight.detach().abs().min()) > 0
    assert head.weight.shape == (3, 16)


def test_the_networks_spec_is_complete_and_builds_the_same_network():
    network = build_network(SPEC, seed=1)

    assert network.spec.options["widths"] == [4, 8, 16, 16]
    assert network.spec.transform["mean"] == [0.5, 0.5, 0.5]
    again = build_network(network.spec, seed=1)
    assert again.spec == network.spec
    assert network_digest(again) == network_digest(network)


def test_counting_is_of_the_realised_network():
    for spec in (SPEC, NetworkSpec("frame", ("a", "b"), {"backbone": "mobilenet_v3_small"})):
        assert count_parameters(spec) == sum(value.numel() for value in build_network(spec).parameters())


def test_unknown_models_are_answered_with_the_nearest():
    assert {"compact", "frame", "r2plus1d_18", "swin3d_b"} <= set(names())
    with pytest.raises(ConfigError, match=r"no model 'r2plus1d_8'; did you mean 'r2plus1d_18'\?"):
        build_network(NetworkSpec("r2plus1d_8", ("a",)))


def test_only_compact_networks_are_widened():
    assert widen_spec(NetworkSpec("compact", ("a",), {}, {}, "x.pt"), 3.0) == NetworkSpec(
        "compact", ("a",), {"widths": [12, 24, 48, 48]}
    )
    with pytest.raises(ConfigError, match="only compact networks can be widened, not 'r3d_18'"):
        widen_spec(NetworkSpec("r3d_18", ("a",)), 2.0)


def test_logits_without_names_need_their_number():
    network = build_network(NetworkSpec("compact", (), {"num_classes": 7}))

    assert (network.num_classes, network.classes) == (7, ())
    assert build_network(network.spec).num_classes == 7
    with pytest.raises(ConfigError, match="no class names"):
        build_network(NetworkSpec("compact"))
    with pytest.raises(ConfigError, match="num_classes is 7, but 1 classes"):
        build_network(NetworkSpec("compact", ("a",), {"num_classes": 7}))
