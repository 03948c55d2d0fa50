"""Temporal shift (TSM, Lin, Gan & Han 2019): some channels come from the frame before, some from the frame after.

Done in front of the first convolution of each residual block, so that the shortcut carries every frame unshifted. By
hooks on that convolution: the names of the backbone's weights stay the library's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


@dataclass
class Clock:
    """How many frames a clip has in the forward that is running; the body sets it, the shifts read it."""

    frames: int = 1


@dataclass
class TemporalShift:
    """A pre-forward hook: `share` of the channels move forward and as many backward in time; 0 fills the ends."""

    clock: Clock
    share: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """args[0]: (B·T,C,H,W), shifted within each clip."""
        return (shifted(args[0], self.clock.frames, self.share), *args[1:])


def shifted(frames: Tensor, count: int, share: float) -> Tensor:
    """(B·T,C,H,W) of clips of T = `count` frames: the first `share` of the channels from the frame after, the next
    `share` from the frame before, the rest as they are; 0 where there is no such frame."""
    x = frames.unflatten(0, (-1, count))
    fold = int(x.shape[2] * share)
    after, before, rest = x[:, :, :fold], x[:, :, fold : 2 * fold], x[:, :, 2 * fold :]
    after = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], dim=1)
    before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
    return torch.cat([after, before, rest], dim=2).flatten(0, 1)


def shift_in_time(backbone: nn.Module, clock: Clock, share: float, name: str) -> int:
    """Hooks a shift into every residual block of `backbone` and returns their number. Raises ConfigError if none."""
    entries = [entry for block in backbone.modules() if (entry := _first_convolution(block)) is not None]
    if not entries:
        raise ConfigError(
            f"head: shift needs residual blocks (ResNet, MobileNet, EfficientNet); {name!r} has none known"
        )
    for entry in entries:
        entry.register_forward_pre_hook(TemporalShift(clock, share))
    return len(entries)


def _first_convolution(block: nn.Module) -> nn.Module | None:
    """The convolution that the branch beside a shortcut begins with; None for every other module."""
    kind = type(block).__name__
    if kind in ("BasicBlock", "Bottleneck"):
        return block.get_submodule("conv1")
    if kind == "InvertedResidual" and getattr(block, "has_skip", False):
        return block.get_submodule("conv_pw")
    if kind in ("InvertedResidual", "MBConv") and getattr(block, "use_res_connect", False):
        return block.get_submodule("conv.0" if hasattr(block, "conv") else "block.0")
    return None
