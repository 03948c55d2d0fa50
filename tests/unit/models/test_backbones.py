import pytest
import torch

from pipeline.models.backbones import make_backbone


@pytest.mark.parametrize(
    ("name", "stages", "width"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"], 512),
        ("mobilenet_v2", ["features.3", "features.6", "features.13", "features.18"], 1280),
        ("efficientnet_lite0", ["blocks.1", "blocks.2", "blocks.4", "blocks.6"], 1280),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2", "stages.3"], 320),
    ],
)
def test_a_backbone_is_cut_where_its_resolution_changes(name, stages, width):
    found = make_backbone(name)

    assert (list(found.stages), found.width, found.size) == (stages, width, None)
    with torch.no_grad():
        assert found.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, width)


def test_a_plain_transformer_is_cut_at_quarters_and_keeps_its_input_size():
    found = make_backbone("vit_tiny_patch16_224")

    assert list(found.stages) == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    assert (found.prefix, found.size) == (1, (224, 224))


def test_lite0_is_the_variant_that_its_published_weights_belong_to():
    found = make_backbone("efficientnet_lite0")

    assert found.name == "tf_efficientnet_lite0"
    assert found.module.bn1.eps == 1e-3
    assert (found.mean, found.std) == ((0.498,) * 3, (0.502,) * 3)
