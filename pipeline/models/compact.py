"""Compact networks: a VideoResNet family small enough to train on a slow core, in any width and depth.

Students and assistants are of this family. Shapes: B clips, c input channels, T×H×W positions, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.hints import one_of, read_options, triple, whole
from pipeline.models.network import Parts
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, check_path, mean_over_positions
from pipeline.models.transform import Transform

Triple = tuple[int, int, int]

# widths: channels of each substage. depth: blocks of each, one number or one per substage. strides: of the first block
# of each, (time, height, width). The stem has the first width.
DEFAULTS: dict[str, Any] = {
    "widths": [4, 8, 16, 16],
    "depth": 1,
    "block": "plain",
    "norm": "group",
    "stem": {"kernel": [3, 5, 5], "stride": [1, 2, 2]},
    "strides": [1, 2, 2, [1, 2, 2]],
    "dropout": 0.0,
}
TRANSFORM = Transform(size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class PlainBlock(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, before: int, after: int, stride: Triple, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, 3, stride, 1, bias=False)
        self.norm = _norm(norm, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,T,H,W) -> (B,after,T',H',W')."""
        return F.relu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, as the basic block of a VideoResNet."""

    def __init__(self, before: int, after: int, stride: Triple, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, stride, 1, bias=False)
        self.norm1 = _norm(norm, after)
        self.conv2 = nn.Conv3d(after, after, 3, 1, 1, bias=False)
        self.norm2 = _norm(norm, after)
        self.shortcut = nn.Identity() if before == after and stride == (1, 1, 1) else nn.Sequential()
        if isinstance(self.shortcut, nn.Sequential):
            self.shortcut.append(nn.Conv3d(before, after, 1, stride, bias=False)).append(_norm(norm, after))

    def forward(self, x: Tensor) -> Tensor:
        """(B,before,T,H,W) -> (B,after,T',H',W')."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class CompactBody(nn.Module):
    """stem, layer1..layerL, head. The head keeps PyTorch's own initialisation, never zeros (method.md §6)."""

    def __init__(self, channels: int, num_classes: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        widths, norm = options["widths"], options["norm"]
        block = ResidualBlock if options["block"] == "residual" else PlainBlock
        self.stem = _stem(channels, widths[0], options["stem"], norm)
        before = widths[0]
        for number, (width, depth, stride) in enumerate(_substages(options), start=1):
            blocks = [block(before, width, stride, norm)]
            blocks += [block(width, width, (1, 1, 1), norm) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.dropout = nn.Dropout(options["dropout"])
        self.head = nn.Linear(before, num_classes)
        self.layers = [f"layer{number}" for number in range(1, len(widths) + 1)]

    def forward(self, clip: Tensor) -> Tensor:
        """(B,c,T,H,W) -> logits (B,C)."""
        x = self.stem(clip)
        for layer in self.layers:
            x = self.get_submodule(layer)(x)
        return self.head(self.dropout(mean_over_positions(x)))


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The compact network that `spec` describes. Raises ConfigError for options that cannot be."""
    options = _check(read_options(spec.options, {**common, **DEFAULTS}, spec.model))
    transform = Transform.read(spec.transform, TRANSFORM, spec.model)
    body = CompactBody(transform.channels, num_classes, options)
    paths = options["taps"] or body.layers
    taps = tuple(Tap(check_path(body, path, spec.model)) for path in paths)
    return Parts(
        body=body,
        taps=taps,
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head="head",
    )


def widen(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same network with every width times `factor`, rounded to even numbers, at least 2. Parameters grow about as
    factor squared; count realised networks (`registry.count_parameters`). Raises ConfigError where factor ≤ 0."""
    if factor <= 0:
        raise ConfigError(f"a network cannot be widened by {factor!r}; the factor must be above 0")
    widths = options.get("widths", DEFAULTS["widths"])
    return {**options, "widths": [max(2, 2 * round(width * factor / 2)) for width in widths]}


def _norm(kind: str, channels: int) -> nn.Module:
    """Batch norm, or group norm in groups of about four channels."""
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    groups = next(count for count in range(max(1, channels // 4), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def _stem(channels: int, width: int, stem: Mapping[str, Any], norm: str) -> nn.Module:
    kernel, stride = triple(stem["kernel"], "stem.kernel"), triple(stem["stride"], "stem.stride")
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(channels, width, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, _norm(norm, width), nn.ReLU())


def _substages(options: Mapping[str, Any]) -> list[tuple[int, int, Triple]]:
    """(width, depth, stride of the first block) of each substage."""
    widths = options["widths"]
    depths = _per_substage(options["depth"], len(widths), "depth")
    strides = options["strides"]
    if len(strides) < len(widths):
        raise ConfigError(f"compact network: {len(widths)} widths but {len(strides)} strides; name one per substage")
    steps = [triple(stride, "strides") for stride in strides]
    return list(zip(widths, depths, steps, strict=False))


def _per_substage(value: Any, count: int, what: str) -> Sequence[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise ConfigError(f"compact network: {what} is {value!r}; it needs one number, or {count}")
    return [whole(item, what) for item in values]


def _check(options: dict[str, Any]) -> dict[str, Any]:
    one_of(options["block"], ("plain", "residual"), "option block of a compact network")
    one_of(options["norm"], ("group", "batch"), "option norm of a compact network")
    options["stem"] = read_options(options["stem"], DEFAULTS["stem"], "compact (stem)")
    if not isinstance(options["widths"], list) or not options["widths"]:
        raise ConfigError(f"compact network: widths is {options['widths']!r}; it needs one number per substage")
    for width in options["widths"]:
        whole(width, "a width of a compact network")
    return options
