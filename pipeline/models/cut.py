"""The first stages of a pretrained backbone with a small head over space and time: such a student can see already.

    frames ─▶ stages 1..n of the backbone, each frame alone ─▶ maps (B,D,T,h,w) ─▶ a 3D convolution ─▶ mean ─▶ linear

As in ECO (Zolfaghari 2018): motion is looked for in the maps of an early stage, where it still has a place, by a 3×3×3
convolution; averaged maps of an early stage would say little more than colour. What the backbone does after stage n is
cut away: neither stored nor computed.
Shapes: B clips, T frames, D channels of stage n, H channels of the head, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.backbones import SMALL, Backbone
from pipeline.models.hints import whole
from pipeline.models.taps import Tap, as_map, check_path, mean_over_positions, run
from pipeline.models.trial import evaluating

# stages: how many of the backbone's resolution stages are kept. hidden: H.
DEFAULTS: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "stages": None,
    "hidden": 64,
    "frozen": False,
    "dropout": 0.0,
}
HIDDEN = "head.conv"


class Cut(nn.Module):
    """The parts of a backbone at `paths`, one after another, under the names that they have there."""

    def __init__(self, module: nn.Module, paths: Sequence[str], channels_last: bool) -> None:
        super().__init__()
        self.paths, self.channels_last = tuple(paths), channels_last
        for path in paths:
            parent: nn.Module = self
            *outer, leaf = path.split(".")
            for name in outer:
                if name not in dict(parent.named_children()):
                    parent.add_module(name, nn.Module())
                parent = parent.get_submodule(name)
            parent.add_module(leaf, module.get_submodule(path))

    def forward(self, frames: Tensor) -> Tensor:
        """(N,3,H,W) -> (N,D,h,w)."""
        for path in self.paths:
            frames = self.get_submodule(path)(frames)
        return frames.permute(0, 3, 1, 2) if self.channels_last else frames


class MotionHead(nn.Module):
    """One 3×3×3 convolution on the maps of all frames (half the resolution in space), its mean, a linear layer."""

    def __init__(self, width: int, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        conv = nn.Conv3d(width, hidden, 3, (1, 2, 2), 1, bias=False)
        groups = next(count for count in range(max(1, hidden // 4), 0, -1) if hidden % count == 0)
        self.conv = nn.Sequential(conv, nn.GroupNorm(groups, hidden), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """(B,T,D,h,w) -> (B,C)."""
        return self.linear(self.dropout(mean_over_positions(self.conv(maps.transpose(1, 2)))))


def first_stages(found: Backbone, stages: Any) -> Cut:
    """Stages 1..`stages` of a backbone. ConfigError where it has fewer, or does not run its parts one after another."""
    count = whole(stages, "option stages of a frame network")
    if count > len(found.stages):
        raise ConfigError(f"option stages is {count}, but the backbone {found.name!r} has {len(found.stages)} stages")
    path = found.stages[count - 1]
    chain = _chain(found.module, path)
    cut = Cut(found.module, chain, found.channels_last)
    if not chain or not _is_the_same(found, cut, path):
        raise ConfigError(
            f"the backbone {found.name!r} does not run its parts one after another, so its first stages alone mean "
            "nothing: take another (ResNet, MobileNet, EfficientNet), or leave the option stages out"
        )
    return cut


def motion_head(cut: Cut, options: Mapping[str, Any], size: tuple[int, int] | None, num_classes: int) -> MotionHead:
    """A head as wide as the last stage that is kept, which one blank frame tells."""
    device = next(cut.parameters()).device
    with torch.no_grad(), evaluating(cut):
        width = cut(torch.zeros(1, 3, *(size or (SMALL, SMALL)), device=device)).shape[1]
    hidden = whole(options["hidden"], "option hidden of a frame network with stages")
    return MotionHead(width, hidden, num_classes, options["dropout"])


def taps_of(found: Backbone, cut: Cut, options: Mapping[str, Any]) -> tuple[Tap, ...]:
    """The stages that are kept and the head's convolution, so that there are two substages at least."""
    paths = options["taps"] or [*found.stages[: options["stages"]], HIDDEN]
    return tuple(_tap(found, cut, path) for path in paths)


def _tap(found: Backbone, cut: Cut, path: str) -> Tap:
    if path == HIDDEN:
        return Tap(path)
    inner = check_path(cut, path.removeprefix("backbone."), found.name)
    return Tap(f"backbone.{inner}", found.channels_last)


def _chain(module: nn.Module, path: str) -> list[str]:
    """Paths of the parts up to `path` in their order: children of the backbone, then of the container it stands in.
    Nothing where `path` stands deeper."""
    container, _, leaf = path.rpartition(".")
    if "." in container:
        return []
    before = _until(module, container or leaf)
    if not container:
        return before
    return [*before[:-1], *(f"{container}.{name}" for name in _until(module.get_submodule(container), leaf))]


def _until(module: nn.Module, last: str) -> list[str]:
    names = [name for name, _ in module.named_children()]
    return names[: names.index(last) + 1]


def _is_the_same(found: Backbone, cut: Cut, path: str) -> bool:
    """Whether the cut gives what the whole backbone gives at `path`; where there is no data, whether it runs."""
    size = found.size or (SMALL, SMALL)
    device = next(cut.parameters()).device
    picture = torch.linspace(-1, 1, 3 * size[0] * size[1], device=device).reshape(1, 3, *size)
    with torch.no_grad(), evaluating(found.module):
        part = found.module.get_submodule(path)
        whole_maps = run(found.module, [part], picture, lambda _, output: _as_frames(output, found))[1][0]
        try:
            maps = cut(picture)
        except (RuntimeError, TypeError):  # a part that takes more than one tensor, or another shape
            return False
    if whole_maps is None or maps.shape != whole_maps.shape:
        return False
    return device.type == "meta" or bool(torch.equal(maps, whole_maps))


def _as_frames(output: Any, found: Backbone) -> Tensor | None:
    """A stage's output as (N,D,h,w); None where it has no such maps."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    return as_map(output, Tap("", found.channels_last), 1).squeeze(2)
