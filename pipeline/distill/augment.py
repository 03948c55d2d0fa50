"""Photometric augmentation that stored targets allow: the student sees a clip a little brighter, starker or noisier.

A teacher's stored answer belongs to the pixels of one view. So crop, flip and time stay as they were stored (others
are other targets), and what changes is to be so small that the teacher would say the same: the light of the whole clip,
and noise. Strengths at which it would not are not legal.

Shapes: b clips of this rank, B of the global batch, T frames, H×W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.identity import integer
from pipeline.distill.spec import Augment


def photometric(frames: Tensor, spec: Augment, positions: np.ndarray, *, seed: int, step: int) -> Tensor:
    """uint8 (b,T,H,W,3) → uint8, each clip by a draw of its own from seed, step and its position in the global batch
    (`positions` (b,)), so that any number of ranks sees the same."""
    if not spec.active:
        return frames
    changed = [
        _one(clip, spec, integer("augment", seed, step, int(n))) for clip, n in zip(frames, positions, strict=True)
    ]
    return torch.stack(changed)


def positions(batch_size: int, drawn: int | None, rank: int, world: int) -> np.ndarray:
    """Positions in the global batch of this rank's rows, (b,): with `drawn` labelled rows in front, as `memory` deals
    them."""
    every = np.arange(batch_size)
    return (
        every[rank::world]
        if drawn is None
        else np.concatenate([every[:drawn][rank::world], every[drawn:][rank::world]])
    )


def _one(clip: Tensor, spec: Augment, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw % 2**63)
    light, stark = (2 * torch.rand(2, generator=generator) - 1).tolist()
    values = clip.float()
    mean = values.mean()
    values = (values - mean) * (1 + spec.contrast * stark) + mean + 255 * spec.brightness * light
    if spec.noise:
        values = values + (255 * spec.noise * torch.randn(clip.shape, generator=generator)).to(clip.device)
    return values.round().clamp(0, 255).to(torch.uint8)
