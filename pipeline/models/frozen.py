"""The frozen part of a network, which sees each view once: what it gives is stored and used by all that stands on it.

Shapes: B clips, T frames, ΣD features of a frame (`frame.FrameBody.features`).
"""

import numpy as np
import torch

from pipeline.models.frame import FrameBody
from pipeline.models.network import VideoNetwork
from pipeline.models.spec import NetworkSpec


def has_frozen_part(spec: NetworkSpec) -> bool:
    """Whether a network of this description has a part that never changes and gives one vector a frame: a frame
    network with `frozen: true`, not cut short (`stages`), whose maps would take more room than the frames."""
    return spec.model == "frame" and bool(spec.options.get("frozen")) and spec.options.get("stages") is None


def fits_on_features(spec: NetworkSpec) -> bool:
    """Whether its head is fitted on all stored features at once, not by the training loop."""
    return spec.model == "frame" and spec.options.get("head") in ("probe", "auto")


class FrozenPart:
    """Raster uint8 (n,T,H,W,3), n ≤ batch → features float32 (n,T,ΣD), the same for a clip whatever comes with it."""

    def __init__(self, network: VideoNetwork, batch: int, device: str = "cpu") -> None:
        assert isinstance(network.body, FrameBody)
        self.network, self.batch, self.device = network.eval().to(device), batch, torch.device(device)
        self.body = network.body

    def __call__(self, raster: np.ndarray) -> np.ndarray:
        slots = np.zeros((self.batch, *raster.shape[1:]), np.uint8)
        slots[: len(raster)] = raster
        with torch.inference_mode():
            clip = self.network.transform(torch.from_numpy(slots).to(self.device), torch.float32)
            return self.body.features(clip)[: len(raster)].cpu().numpy()
