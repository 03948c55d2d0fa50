import json
import shutil

import pytest
import torch
import torchvision

from pipeline.errors import InputError
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, load_weights, network_digest, read_facts, save_network

SPECS = {
    "group": NetworkSpec("compact", ("a", "b", "c"), {}, {"grey": True, "size": (24, 24)}),
    "batch": NetworkSpec(
        "compact", ("a", "b", "c"), {"block": "residual", "norm": "batch", "taps": ["layer1", "layer4"]}
    ),
    "frame": NetworkSpec("frame", ("a", "b"), {"backbone": "mobilenet_v3_small", "head": "ordered", "num_frames": 4}),
}
RASTER = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SPECS)
def test_a_saved_network_comes_back_bit_for_bit(tmp_path, name):
    network = build_network(SPECS[name], seed=8)
    network(RASTER)  # moves the statistics of batch norms
    network.eval()
    save_network(tmp_path / "net", network, {"saw_labels": True, "raster": [4, 32, 32]})

    again = load_network(tmp_path / "net")

    assert again.spec == network.spec
    assert not again.training
    assert network_digest(again) == network_digest(network)
    with torch.no_grad():
        ours, theirs = network(RASTER), again(RASTER)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.features, theirs.features, strict=True))
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == ["model.json", "model.safetensors"]


def test_model_json_says_what_others_ask(tmp_path):
    network = build_network(SPECS["batch"])
    save_network(tmp_path, network, {"saw_labels": False, "raster": {"size": [32, 32]}})

    facts = read_facts(tmp_path)

    assert (facts["classes"], facts["num_classes"]) == (["a", "b", "c"], 3)
    assert (facts["taps"], facts["dims"], facts["norm"]) == (["layer1", "layer4"], [4, 16], "batch")
    assert (facts["saw_labels"], facts["raster"]) == (False, {"size": [32, 32]})
    assert facts["parameters"] == sum(value.numel() for value in network.parameters())


def test_equal_networks_are_saved_as_equal_bytes(tmp_path):
    for name in ("one", "two"):
        save_network(tmp_path / name, build_network(SPECS["group"], seed=3), {})

    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_one_changed_bit_is_found(tmp_path):
    save_network(tmp_path, build_network(SPECS["group"]), {})
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)

    with pytest.raises(InputError, match="digests differ"):
        load_network(tmp_path)


def test_a_folder_without_model_json_or_of_a_newer_schema_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.json"):
        load_network(tmp_path)
    save_network(tmp_path, build_network(SPECS["group"]), {})
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**facts, "schema": "2.0"}))

    with pytest.raises(InputError, match=r"schema '2\.0', this version reads 1\.0"):
        load_network(tmp_path)


def test_the_digest_is_of_spec_and_tensors_not_of_memory_order_or_origin(tmp_path):
    network = build_network(SPECS["group"], seed=1)
    digest = network_digest(network)
    save_network(tmp_path, network, {})

    for value in network.body.parameters():
        value.data = value.data.contiguous()
    assert network_digest(network) == digest
    named = NetworkSpec("compact", (), SPECS["group"].options, SPECS["group"].transform, str(tmp_path))
    assert network_digest(build_network(named, seed=2)) == digest

    with torch.no_grad():
        network.body.head.bias[0] += 1e-3
    assert network_digest(network) != digest
    other = NetworkSpec("compact", ("a", "b", "d"), {}, SPECS["group"].transform)
    assert network_digest(build_network(other, seed=1)) != digest


def test_a_saved_folder_as_weights_brings_its_class_names(tmp_path):
    save_network(tmp_path, build_network(SPECS["group"], seed=1), {})
    spec = NetworkSpec("compact", (), {}, SPECS["group"].transform, str(tmp_path))

    assert build_network(spec).classes == ("a", "b", "c")


def test_a_librarys_own_file_fills_the_network(tmp_path):
    own = torchvision.models.get_model("s3d", weights=None, num_classes=5).state_dict()
    file = tmp_path / "kinetics.pth"
    torch.save({"state_dict": own}, file)

    network = build_network(NetworkSpec("s3d", tuple("abcde"), {}, {}, str(file)))

    assert all(torch.equal(value, own[name]) for name, value in network.body.state_dict().items())


def test_a_classifier_of_another_size_is_left_out_only_when_told(tmp_path):
    save_network(tmp_path, build_network(SPECS["group"], seed=1), {})
    network = build_network(NetworkSpec("compact", ("x", "y"), {}, SPECS["group"].transform), seed=5)
    head = network.body.head.weight.detach().clone()

    said = r"other shape: body\.head\.weight \(3, 16\), here \(2, 16\)[\s\S]*new_head: true"
    with pytest.raises(InputError, match=said):
        load_weights(network, tmp_path)
    load_weights(network, tmp_path, new_head=True)

    assert torch.equal(network.body.head.weight, head)
    assert torch.equal(network.body.stem[0].weight, load_network(tmp_path).body.stem[0].weight)


def test_a_backbones_file_fills_a_frame_network_and_leaves_its_head(tmp_path):
    own = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    torch.save(own.state_dict(), tmp_path / "backbone.pt")
    spec = NetworkSpec("frame", ("a", "b"), {"backbone": "mobilenet_v3_small"})
    plain = build_network(spec, seed=6)
    network = build_network(
        NetworkSpec(spec.model, spec.classes, spec.options, {}, str(tmp_path / "backbone.pt")), seed=6
    )

    assert torch.equal(network.body.backbone.features[0][0].weight, own.features[0][0].weight)
    assert torch.equal(network.body.backbone.classifier[0].weight, own.classifier[0].weight)
    assert torch.equal(network.body.head.linear.weight, plain.body.head.linear.weight)


def test_tensors_that_are_missing_or_unknown_are_named(tmp_path):
    network = build_network(SPECS["group"])
    state = {name.removeprefix("body."): value for name, value in network.state_dict().items()}
    state["layer1.0.cnv.weight"] = state.pop("layer1.0.conv.weight")
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(InputError) as caught:
        load_weights(network, tmp_path / "w.pt")

    assert "missing: body.layer1.0.conv.weight" in str(caught.value)
    assert "unknown: body.layer1.0.cnv.weight; did you mean 'body.layer1.0.conv.weight'?" in str(caught.value)


def test_new_head_forgives_the_head_alone(tmp_path):
    state = dict(build_network(SPECS["group"]).state_dict())
    state["body.layer4.0.conv.weight"] = torch.zeros(16, 16, 1, 1, 1)
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"other shape: body\.layer4"):
        load_weights(build_network(SPECS["group"]), tmp_path / "w.pt", new_head=True)


def test_a_half_written_copy_is_not_a_network(tmp_path):
    save_network(tmp_path / "net", build_network(SPECS["group"]), {})
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "net" / "model.json", tmp_path / "copy")

    with pytest.raises(InputError, match=r"no weights file .*model\.safetensors"):
        load_network(tmp_path / "copy")
