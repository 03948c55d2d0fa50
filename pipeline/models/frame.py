"""Frame networks: a 2D backbone on every frame, and a temporal head on what it gives.

`mean`: logits averaged over frames (TSN, Wang 2016). `shift`: the same, with channels shifted in time inside the
residual blocks (TSM, Lin 2019). `ordered`: the frames' features in their order, concatenated, then one linear layer.
Shapes: B clips, T frames, D features of a frame, C classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.backbones import SMALL, Backbone, make_backbone
from pipeline.models.hints import one_of, read_options, whole
from pipeline.models.network import Parts
from pipeline.models.shift import Clock, shift_in_time
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, check_path
from pipeline.models.transform import Transform

# backbone: a name of torchvision's or timm's. num_frames: T, needed by `ordered` alone. layer_norm: of each frame's
# features before the head; null means with `ordered` only. shift_share: part of the channels that moves, each way.
DEFAULTS: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "head": "mean",
    "num_frames": None,
    "frozen": False,
    "dropout": 0.0,
    "layer_norm": None,
    "shift_share": 0.125,
}


class MeanHead(nn.Module):
    """Logits of each frame, averaged over the frames."""

    def __init__(self, width: int, num_classes: int, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B,T,D) -> (B,C)."""
        return self.linear(self.dropout(self.norm(features))).mean(1)


class OrderedHead(nn.Module):
    """One linear layer on the features of all frames in their order: it can tell before from after."""

    def __init__(self, width: int, num_frames: int, num_classes: int, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_frames * width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B,T,D) -> (B,C). Raises ConfigError where T is not what the head was built for."""
        if features.shape[1] != self.num_frames:
            raise ConfigError(
                f"the ordered head was built for {self.num_frames} frames, the clips have {features.shape[1]}: "
                "set the model's num_frames to views.num_frames"
            )
        return self.linear(self.dropout(self.norm(features).flatten(1)))


class FrameBody(nn.Module):
    """backbone on each frame, head on all. `frozen`: the backbone stays in evaluation mode and gets no gradient."""

    def __init__(self, backbone: nn.Module, head: nn.Module, clock: Clock, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.clock, self.frozen = backbone, head, clock, frozen
        self.backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "FrameBody":
        """As of nn.Module; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, clip: Tensor) -> Tensor:
        """(B,3,T,H,W) -> logits (B,C)."""
        self.clock.frames = clip.shape[2]
        frames = clip.transpose(1, 2).flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(frames)
        return self.head(features.unflatten(0, (clip.shape[0], -1)))


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The frame network that `spec` describes, without weights. Raises ConfigError for options that cannot be,
    and where a backbone needs a package that is not installed."""
    options = read_options(spec.options, {**common, **DEFAULTS}, spec.model)
    _check(options)
    found = make_backbone(options["backbone"])
    transform = _transform(spec, found)
    clock = Clock()
    if options["head"] == "shift":
        shift_in_time(found.module, clock, options["shift_share"], options["backbone"])
    body = FrameBody(found.module, _head(options, found.width, num_classes), clock, options["frozen"])
    paths = options["taps"] or found.stages
    return Parts(
        body=body,
        taps=tuple(_tap(found, path, options["backbone"]) for path in paths),
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head="head",
        library=found.name,
        library_root="backbone",
        trial_shape=(options["num_frames"] or 2, *(found.size or (SMALL, SMALL))),
    )


def _tap(found: Backbone, path: str, name: str) -> Tap:
    """A recipe names a cut from the backbone, a saved spec from the body."""
    inner = check_path(found.module, path.removeprefix("backbone."), name)
    return Tap(f"backbone.{inner}", found.channels_last, found.prefix)


def _head(options: Mapping[str, Any], width: int, num_classes: int) -> nn.Module:
    layer_norm, dropout = options["layer_norm"], options["dropout"]
    if options["head"] == "ordered":
        normed = True if layer_norm is None else layer_norm
        return OrderedHead(width, options["num_frames"], num_classes, dropout, normed)
    return MeanHead(width, num_classes, dropout, bool(layer_norm))


def _transform(spec: NetworkSpec, found: Backbone) -> Transform:
    transform = Transform.read(spec.transform, Transform(found.size, found.mean, found.std), spec.model)
    if transform.grey:
        raise ConfigError(f"the backbone {found.name!r} takes colour: leave transform.grey out")
    return transform


def _check(options: Mapping[str, Any]) -> None:
    head = one_of(options["head"], ("mean", "shift", "ordered"), "option head of a frame network")
    if head == "ordered":
        whole(options["num_frames"], "option num_frames of a frame network with head: ordered")
    if head == "shift" and options["frozen"]:
        raise ConfigError(
            "a frozen backbone cannot learn to use shifted channels: take head: ordered, or frozen: false"
        )
