"""From the canonical raster to a network's input: resize, scale to 0..1, normalise. Part of the network's identity.

Shapes: B clips, T frames, H×W pixels, c channels (3, or 1 where `grey`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.hints import read_options, whole


@dataclass(frozen=True)
class Transform:
    """size: (height, width) in pixels, or None for the raster's own. mean, std: per channel, of values in 0..1.

    grey: the three channels are averaged to one before anything else (then mean and std have one value).
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    grey: bool = False

    @classmethod
    def read(cls, given: Mapping[str, Any], defaults: "Transform", model: str) -> "Transform":
        """`given` (a recipe's mapping) over `defaults`. Raises ConfigError for unknown keys and impossible values."""
        merged = read_options(given, asdict(defaults), f"{model} (transform)")
        grey = bool(merged["grey"])
        mean = _per_channel(merged["mean"], grey, f"transform.mean of model {model!r}")
        std = _per_channel(merged["std"], grey, f"transform.std of model {model!r}")
        if min(std) <= 0:
            raise ConfigError(f"transform.std of model {model!r} is {merged['std']!r}; it must be positive")
        return cls(_size(merged["size"], model), mean, std, grey)

    @property
    def channels(self) -> int:
        """How many channels the network's input has."""
        return 1 if self.grey else 3

    def to_json(self) -> dict[str, Any]:
        """A mapping of JSON values that `read` understands."""
        values = {"mean": list(self.mean), "std": list(self.std), "grey": self.grey}
        return {"size": list(self.size) if self.size else None, **values}

    def __call__(self, raster: Tensor, dtype: torch.dtype) -> Tensor:
        """raster uint8 (B,T,H,W,3) -> `dtype` (B,c,T,h,w). Memory stays channels last: no copy but the conversion."""
        # The integer sum is exact and fast: equal channels give exactly their own value.
        levels = 3 * 255 if self.grey else 255
        values = raster.sum(-1, keepdim=True, dtype=torch.int32) if self.grey else raster
        clip = self._resize(values.to(dtype).permute(0, 4, 1, 2, 3))
        mean = clip.new_tensor([levels * mean for mean in self.mean]).view(-1, 1, 1, 1)
        std = clip.new_tensor([levels * std for std in self.std]).view(-1, 1, 1, 1)
        return (clip - mean) / std

    def _resize(self, clip: Tensor) -> Tensor:
        if self.size is None or tuple(clip.shape[-2:]) == self.size:
            return clip
        frames = clip.transpose(1, 2).flatten(0, 1)
        frames = F.interpolate(frames, size=self.size, mode="bilinear", align_corners=False, antialias=True)
        return frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


def _per_channel(value: Any, grey: bool, what: str) -> tuple[float, ...]:
    channels = 1 if grey else 3
    values = tuple(float(item) for item in value) if isinstance(value, (list, tuple)) else (float(value),)
    if len(set(values)) == 1:
        return values[:1] * channels
    if len(values) != channels:
        raise ConfigError(f"{what} is {value!r}; it needs one number{'' if grey else ', or three'}")
    return values


def _size(value: Any, model: str) -> tuple[int, int] | None:
    if value is None:
        return None
    what = f"transform.size of model {model!r}"
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigError(f"{what} is {value!r}; it must be [height, width], or null for the raster's own size")
    return whole(value[0], what), whole(value[1], what)
