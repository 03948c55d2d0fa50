"""Frame networks: a 2D backbone on every frame, and a temporal head on what it gives.

`probe`: a linear layer on standardised statistics of what a frozen backbone gives, per stage; it is fitted as
multinomial logistic regression (`models.probe`), not by gradient steps. `auto`: what its fit chooses of these.
`mean`: logits averaged over frames (TSN, Wang 2016). `shift`: the same, with channels shifted in time inside the
residual blocks (TSM, Lin 2019). `ordered`: the frames' features in their order, concatenated, then one linear layer.
Shapes: B clips, T frames, D features of a frame (the embedding), D_s those of stage s, ΣD all of them in their order,
the embedding last, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import cut
from pipeline.models.backbones import SMALL, Backbone, make_backbone
from pipeline.models.hints import one_of, read_options, whole
from pipeline.models.network import Parts
from pipeline.models.shift import Clock, shift_in_time
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, as_map, check_path, run
from pipeline.models.transform import Transform
from pipeline.models.trial import evaluating

# backbone: a name of torchvision's or timm's. num_frames: T, needed by `ordered` alone. layer_norm: of each frame's
# features before the head; null means with `ordered` only. shift_share: part of the channels that moves, each way.
# With `stages` the network is another: the first stages alone, with a head of their own (`models.cut`).
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
        _check_frames(features, self.num_frames, "ordered")
        return self.linear(self.dropout(self.norm(features).flatten(1)))


class ProbeHead(nn.Module):
    """One linear layer on `describe`d features of a clip, standardised by the training rows' mean and s.d."""

    mean: Tensor
    scale: Tensor

    def __init__(self, widths: Sequence[int], num_frames: int, num_classes: int) -> None:
        super().__init__()
        count = 3 * sum(widths) + num_frames * widths[-1]
        self.num_frames, self.embedding = num_frames, widths[-1]
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.linear = nn.Linear(count, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B,T,ΣD) -> (B,C). Raises ConfigError where T is not what the head was built for."""
        _check_frames(features, self.num_frames, "probe")
        return self.linear((describe(features, self.embedding) - self.mean) / self.scale)


def describe(features: Tensor, embedding: int) -> Tensor:
    """Per-frame features (B,T,ΣD) as one vector a clip: over time the mean, the s.d. and the mean absolute difference
    of neighbouring frames of all of them, then the embedding (the last `embedding` of them) of each frame in order."""
    steps = (features[:, 1:] - features[:, :-1]).abs() if features.shape[1] > 1 else torch.zeros_like(features)
    spread = features.std(1, unbiased=False)
    return torch.cat([features.mean(1), spread, steps.mean(1), features[..., -embedding:].flatten(1)], dim=1)


def _check_frames(features: Tensor, num_frames: int, head: str) -> None:
    if features.shape[1] != num_frames:
        raise ConfigError(
            f"the {head} head was built for {num_frames} frames, the clips have {features.shape[1]}: set the model's "
            "num_frames to views.num_frames"
        )


class FrameBody(nn.Module):
    """backbone on each frame, head on all. `frozen`: the backbone stays in evaluation mode and gets no gradient.

    `stages`: the taps whose pooled features, beside the embedding, are what a frozen backbone gives of a frame.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, clock: Clock, frozen: bool, stages: Sequence[Tap], embedding: int
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.clock, self.frozen = backbone, head, clock, frozen
        self.stages, self.embedding = tuple(stages), embedding
        self.backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "FrameBody":
        """As of nn.Module; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, clip: Tensor) -> Tensor:
        """(B,3,T,H,W) -> logits (B,C)."""
        if isinstance(self.head, ProbeHead):
            return self.head(self.features(clip))
        self.clock.frames = clip.shape[2]
        frames = clip.transpose(1, 2).flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(frames)
        return self.head(features.unflatten(0, (clip.shape[0], -1)))

    def features(self, clip: Tensor) -> Tensor:
        """(B,3,T,H,W) -> (B,T,ΣD): what the backbone gives of each frame, the stages' pooled maps and the embedding."""
        self.clock.frames = clip.shape[2]
        batch, frames = clip.shape[0], clip.transpose(1, 2).flatten(0, 1)
        modules = [self.get_submodule(tap.path) for tap in self.stages]

        def per_frame(index: int, output: Any) -> Tensor:
            return as_map(output, self.stages[index], batch).mean((3, 4)).transpose(1, 2)

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            embedding, stages, _ = run(self.backbone, modules, frames, per_frame)
        assert embedding is not None
        return torch.cat([*stages, embedding.unflatten(0, (batch, -1))], dim=2)

    def from_features(self, features: Tensor) -> Tensor:
        """Stored features (B,T,ΣD) -> logits (B,C): the head alone."""
        return self.head(features if isinstance(self.head, ProbeHead) else features[..., -self.embedding :])


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The frame network that `spec` describes, without weights. Raises ConfigError for options that cannot be,
    and where a backbone needs a package that is not installed."""
    if spec.options.get("stages") is not None:
        return _build_cut(spec, num_classes, common)
    options = read_options(spec.options, {**common, **DEFAULTS}, spec.model)
    if options["head"] == "auto":  # until its fit has chosen
        options = {**options, "head": "probe"}
    _check(options)
    found = make_backbone(options["backbone"])
    transform = _transform(spec, found)
    clock = Clock()
    if options["head"] == "shift":
        shift_in_time(found.module, clock, options["shift_share"], options["backbone"])
    taps = tuple(_tap(found, path, options["backbone"]) for path in options["taps"] or found.stages)
    if options["head"] == "probe":
        head: nn.Module = _probe(options, found, taps, num_classes)
    else:
        head = _head(options, found.width, num_classes)
    return Parts(
        body=FrameBody(found.module, head, clock, options["frozen"], taps, found.width),
        taps=taps,
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head="head",
        library=found.name,
        library_root="backbone",
        trial_shape=(options["num_frames"] or 2, *(found.size or (SMALL, SMALL))),
    )


def _build_cut(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The network of the option `stages` (`models.cut`)."""
    if "head" in spec.options:
        raise ConfigError("option stages of a frame network brings its own head: leave the option head out")
    options = read_options(spec.options, {**common, **cut.DEFAULTS}, spec.model)
    found = make_backbone(options["backbone"])
    transform, tensors = _transform(spec, found), set(found.module.state_dict())
    backbone = cut.first_stages(found, options["stages"])
    head = cut.motion_head(backbone, options, found.size, num_classes)
    return Parts(
        body=FrameBody(backbone, head, Clock(), options["frozen"], (), head.width),
        taps=cut.taps_of(found, backbone, options),
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head="head",
        library=found.name,
        library_root="backbone",
        library_without=frozenset(tensors - set(backbone.state_dict())),
        trial_shape=(2, *(found.size or (SMALL, SMALL))),
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


def _probe(options: Mapping[str, Any], found: Backbone, taps: Sequence[Tap], num_classes: int) -> ProbeHead:
    """A probe as wide as the stages of the backbone, which one blank frame tells."""
    body = FrameBody(found.module, nn.Identity(), Clock(), True, taps, found.width)
    size = found.size or (SMALL, SMALL)
    with torch.no_grad(), evaluating(body):
        total = body.features(torch.zeros(1, 3, 1, *size)).shape[2]
        widths = [as_map(output, tap, 1).shape[1] for tap, output in zip(taps, _outputs(body, taps, size), strict=True)]
    assert sum(widths) + found.width == total, (widths, found.width, total)
    return ProbeHead([*widths, found.width], options["num_frames"], num_classes)


def _outputs(body: FrameBody, taps: Sequence[Tap], size: tuple[int, int]) -> list[Any]:
    modules = [body.get_submodule(tap.path) for tap in taps]
    return run(body.backbone, modules, torch.zeros(1, 3, *size), lambda _, output: output)[1]


def _transform(spec: NetworkSpec, found: Backbone) -> Transform:
    transform = Transform.read(spec.transform, Transform(found.size, found.mean, found.std), spec.model)
    if transform.grey:
        raise ConfigError(f"the backbone {found.name!r} takes colour: leave transform.grey out")
    return transform


def _check(options: Mapping[str, Any]) -> None:
    head = one_of(options["head"], ("mean", "shift", "ordered", "probe"), "option head of a frame network")
    if head in ("ordered", "probe"):
        whole(options["num_frames"], f"option num_frames of a frame network with head: {head}")
    if head == "probe" and not options["frozen"]:
        raise ConfigError(
            "head: probe is fitted on what a frozen backbone gives: set frozen: true, or take head: shift"
        )
    if head == "shift" and options["frozen"]:
        raise ConfigError(
            "a frozen backbone cannot learn to use shifted channels: take head: ordered, or frozen: false"
        )
