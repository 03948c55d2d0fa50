import pytest
import torch
import torchvision

from pipeline.errors import ConfigError
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.torchvision_video import FAMILIES, categories

CLASSES = ("a", "b", "c")
EXPECTED = {
    "r3d_18": (["layer1", "layer2", "layer3", "layer4"], (64, 128, 256, 512)),
    "s3d": (["features.3", "features.6", "features.12", "features.15"], (192, 480, 832, 1024)),
    "swin3d_t": (["features.0", "features.2", "features.4", "features.6"], (96, 192, 384, 768)),
    "mvit_v1_b": (["blocks.0", "blocks.2", "blocks.13", "blocks.15"], (192, 384, 768, 768)),
    "mvit_v2_s": (["blocks.0", "blocks.2", "blocks.13", "blocks.15"], (96, 192, 384, 768)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_cuts_and_channels_of_the_families(name):
    with torch.device("meta"):
        network = build_network(NetworkSpec(name, CLASSES))

    assert ([tap.path for tap in network.taps], network.dims) == EXPECTED[name]
    assert network.body.get_submodule(FAMILIES[name].head).weight.shape[0] == 3


def test_the_swin_stages_end_before_the_patches_are_merged():
    with torch.device("meta"):
        body = torchvision.models.get_model("swin3d_t", weights=None)

    assert [type(part).__name__ for part in body.features] == ["Sequential", "PatchMerging"] * 3 + ["Sequential"]


def test_logits_are_torchvisions_own_on_the_normalised_clip():
    network = build_network(NetworkSpec("mc3_18", CLASSES), seed=2).eval()
    raster = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    own = torchvision.models.get_model("mc3_18", weights=None, num_classes=3).eval()
    own.load_state_dict(network.body.state_dict())
    preset = torchvision.models.get_model_weights("mc3_18")["DEFAULT"].transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (preset.mean, preset.std))

    with torch.no_grad():
        expected = own((raster.permute(0, 4, 1, 2, 3) / 255 - mean) / std)
        logits = network(raster).logits

    assert torch.allclose(logits, expected, atol=1e-5)


def test_fixed_families_resize_to_their_size_and_others_take_the_raster():
    with torch.device("meta"):
        assert build_network(NetworkSpec("s3d", CLASSES)).transform.size == (224, 224)
        assert build_network(NetworkSpec("r3d_18", CLASSES)).transform.size is None


def test_the_weights_bring_their_class_names():
    assert len(categories("r2plus1d_18", "DEFAULT")) == 400
    assert categories("r2plus1d_18", "R2Plus1D_18_Weights.KINETICS400_V1")[0] == "abseiling"
    with pytest.raises(ConfigError, match="has no weights 'KINETICS400'; did you mean 'KINETICS400_V1'"):
        categories("r2plus1d_18", "KINETICS400")


def test_other_names_for_the_weights_logits_are_refused_before_anything_is_fetched():
    with pytest.raises(ConfigError, match="bring 400 classes, the recipe names 3 that are not the same"):
        build_network(NetworkSpec("r3d_18", CLASSES, {}, {}, "DEFAULT"))


def test_grey_is_refused_where_the_stem_takes_colour():
    with pytest.raises(ConfigError, match="takes colour"), torch.device("meta"):
        build_network(NetworkSpec("r3d_18", CLASSES, {}, {"grey": True, "mean": 0.4, "std": 0.2}))


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="no option 'droput'; did you mean 'dropout'"):
        build_network(NetworkSpec("s3d", CLASSES, {"droput": 0.5}))
