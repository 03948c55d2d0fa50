"""A small random VideoMAE from a folder: transformers' own logits, cuts on its layers, nothing but JSON and tensors."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError, InputError
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network

transformers = pytest.importorskip("transformers")
CLASSES = ("push", "punch", "hug")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videomae")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    torch.manual_seed(3)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(path)
    said = {"image_mean": MEAN, "image_std": STD, "do_normalize": True}
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path


def raster(size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_logits_and_cuts_are_those_of_transformers(folder: Path) -> None:
    network = build_network(NetworkSpec("huggingface", weights=str(folder))).eval()
    assert (network.classes, network.dims) == (CLASSES, (16,) * 4)
    theirs = transformers.VideoMAEForVideoClassification.from_pretrained(folder).eval()
    pixels = (raster().permute(0, 1, 4, 2, 3) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    with torch.no_grad():
        ours, expected = network(raster()), theirs(pixels, output_hidden_states=True)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for feature, hidden in zip(ours.features, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(feature, hidden.mean(1), rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_built_again_without_the_folder(folder: Path, tmp_path: Path) -> None:
    network = build_network(NetworkSpec("huggingface", weights=str(folder))).eval()
    save_network(tmp_path / "net", network, {})
    again = load_network(tmp_path / "net")
    with torch.no_grad():
        assert torch.equal(again(raster()).logits, network(raster()).logits)
    assert again.transform.mean == tuple(MEAN)
    assert again.transform.size == (32, 32)


def test_a_larger_raster_is_resized_and_other_lengths_are_refused(folder: Path) -> None:
    network = build_network(NetworkSpec("huggingface", weights=str(folder))).eval()
    assert network(raster(48)).logits.shape == (2, 3)
    with pytest.raises(ConfigError, match=r"takes 4 frames, the views have 3"):
        network(raster()[:, :3])


def copy(folder: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    said = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**said, **changes}))
    return target


def test_pickles_code_and_other_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    pickled = copy(folder, tmp_path / "a")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle and is not read"):
        build_network(NetworkSpec("huggingface", weights=str(pickled)))
    coded = copy(folder, tmp_path / "b", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ConfigError, match="never run"):
        build_network(NetworkSpec("huggingface", weights=str(coded)))
    with pytest.raises(ConfigError, match=r"no video classifier of model_type 'bert' \(it has: .*videomae"):
        build_network(NetworkSpec("huggingface", weights=str(copy(folder, tmp_path / "c", model_type="bert"))))


def test_labels_without_names_take_the_recipes(folder: Path, tmp_path: Path) -> None:
    plain = copy(folder, tmp_path / "a", id2label={str(n): f"LABEL_{n}" for n in range(3)}, label2id={})
    network = build_network(NetworkSpec("huggingface", classes=("a", "b", "c"), weights=str(plain)))
    assert network.classes == ("a", "b", "c")
