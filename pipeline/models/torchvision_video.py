"""torchvision's video networks by name, cut as method.md §1 says. torchvision is imported when one is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.hints import read_options
from pipeline.models.network import Parts
from pipeline.models.sources import torchvision_member
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, check_path, last_of_each_resolution
from pipeline.models.transform import Transform
from pipeline.models.trial import trial_sizes


@dataclass(frozen=True)
class Family:
    """What the networks of one family have in common.

    cuts: paths in the order of execution, of which the last of each spatial resolution ends a substage.
    options: what torchvision's constructor takes beside the classes; None leaves torchvision's own value.
    size: (height, width) of the input where the family needs one, else None; then clips have 16 frames, too.
    """

    head: str
    cuts: Callable[[nn.Module], Sequence[str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    channels_last: bool = False
    prefix: int = 0


def _layers(body: nn.Module) -> Sequence[str]:
    return [f"layer{number}" for number in range(1, 5)]


def _features(body: nn.Module) -> Sequence[str]:
    return [f"features.{name}" for name, _ in body.get_submodule("features").named_children()]


def _blocks(body: nn.Module) -> Sequence[str]:
    return [f"blocks.{name}" for name, _ in body.get_submodule("blocks").named_children()]


_RESNET = Family(head="fc", cuts=_layers)
_S3D = Family(head="classifier.1", cuts=_features, options={"dropout": None}, size=(224, 224))
_SWIN = Family(
    head="head",
    cuts=_features,
    options={"dropout": None, "attention_dropout": None, "stochastic_depth_prob": None},
    channels_last=True,
)
_MVIT = Family(
    head="head.1",
    cuts=_blocks,
    options={
        "dropout": None,
        "attention_dropout": None,
        "stochastic_depth_prob": None,
    },
    size=(224, 224),
    prefix=1,
)

# (T,H,W) large enough for four resolutions, small enough to be run for real.
SMALL = (8, 64, 64)

FAMILIES: dict[str, Family] = {
    "r3d_18": _RESNET,
    "mc3_18": _RESNET,
    "r2plus1d_18": _RESNET,
    "s3d": _S3D,
    "swin3d_t": _SWIN,
    "swin3d_s": _SWIN,
    "swin3d_b": _SWIN,
    "mvit_v1_b": _MVIT,
    "mvit_v2_s": _MVIT,
}


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The torchvision network that `spec` names, without weights. Raises ConfigError for options that cannot be.

    The transform's default is that of torchvision's weights; its size only where weights are given or needed.
    """
    from torchvision.models import get_model

    family = FAMILIES[spec.model]
    options = read_options(spec.options, {**common, **family.options}, spec.model)
    transform = _transform(spec, family)
    body = get_model(spec.model, weights=None, num_classes=num_classes, **_arguments(options, family))
    shape = (16, *family.size) if family.size else SMALL
    paths = options["taps"] or _default_cuts(body, family, shape)
    taps = tuple(Tap(check_path(body, path, spec.model), family.channels_last, family.prefix) for path in paths)
    return Parts(
        body=body,
        taps=taps,
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head=family.head,
        library=spec.model,
        trial_shape=shape,
        shapes_only=family.size is not None,
    )


def categories(model: str, weights: str) -> tuple[str, ...]:
    """The names of the logits that torchvision's weights `weights` of `model` bring. Raises ConfigError for others."""
    return tuple(torchvision_member(model, weights).meta["categories"])


def _default_cuts(body: nn.Module, family: Family, shape: tuple[int, int, int]) -> list[str]:
    layout = {"channels_last": family.channels_last, "shapes_only": family.size is not None}
    return last_of_each_resolution(trial_sizes(body, family.cuts(body), (1, 3, *shape), **layout)[0])


def _arguments(options: Mapping[str, Any], family: Family) -> dict[str, Any]:
    return {name: options[name] for name in family.options if options[name] is not None}


def _transform(spec: NetworkSpec, family: Family) -> Transform:
    from torchvision.models import get_model_weights

    preset = get_model_weights(spec.model)["DEFAULT"].transforms()
    crop = preset.crop_size
    trained_at = (crop[0], crop[-1]) if spec.weights else None
    defaults = Transform(size=family.size or trained_at, mean=tuple(preset.mean), std=tuple(preset.std))
    transform = Transform.read(spec.transform, defaults, spec.model)
    if transform.grey:
        raise ConfigError(f"model {spec.model!r} takes colour: leave transform.grey out")
    return transform
