"""A small job on noise: what the training loop's tests share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.distill.memory import MemoryData, SourceArrays, Validation, one_hot
from pipeline.distill.spec import Job, Objective, Optimiser
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

CLASSES, CLIPS, VIEWS = 5, 40, 2
TEACHER_DIMS = (5, 6, 7, 8)


def network_spec(**options: Any) -> NetworkSpec:
    """A network of about 2,000 parameters with four substages."""
    names = tuple(f"class{n}" for n in range(CLASSES))
    return NetworkSpec("compact", names, {"widths": [4, 4, 6, 6], **options}, {"grey": True})


def arrays(clips: int = CLIPS, seed: int = 0) -> dict[str, np.ndarray]:
    """Frames (N,V,4,16,16,3) of noise over a texture that the class gives, q and weights."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % CLASSES
    down, across = np.mgrid[:16, :16]
    textures = np.stack([np.sin(2.0 * across), np.sin(0.6 * across), np.sin(2.0 * down), np.sin(0.6 * down), 0 * down])
    noise = rng.integers(0, 100, (clips, VIEWS, 4, 16, 16, 3))
    frames = (noise + 70 * (1 + textures[labels])[:, None, None, :, :, None]).astype(np.uint8)
    q, weight = one_hot(labels, CLASSES)
    return {"frames": frames, "q": q, "weight": weight}


def source(clips: int = CLIPS, seed: int = 1) -> SourceArrays:
    """Targets of a teacher that knows the classes, more or less."""
    rng = np.random.default_rng(seed)
    rows = clips * VIEWS
    logits = rng.normal(size=(rows, CLASSES)) + 2 * np.eye(CLASSES)[np.arange(clips).repeat(VIEWS) % CLASSES]
    features = [rng.normal(2, 1.5, (rows, dim)) + logits[:, :1] for dim in TEACHER_DIMS]
    statistics = [(values.mean(0), values.std(0)) for values in features]
    return SourceArrays(logits.astype(np.float32), [values.astype(np.float32) for values in features], statistics)


def data(sources: int = 1, clips: int = CLIPS, **changes: np.ndarray) -> MemoryData:
    """Training data with that many sources."""
    return MemoryData.from_arrays(
        **{**arrays(clips), **changes}, sources=[source(clips, seed) for seed in range(1, sources + 1)]
    )


def validation(videos: int = 15, seed: int = 5) -> Validation:
    """Videos of two views each, of the same classes."""
    found = arrays(videos, seed)
    frames = found["frames"].reshape(-1, *found["frames"].shape[2:])
    return Validation(frames, np.arange(videos).repeat(VIEWS), np.arange(videos) % CLASSES)


def job(**changes: Any) -> Job:
    """Twelve steps of the full objective; keywords of Objective and Optimiser are sorted out by name."""
    fields: dict[str, Any] = {"name": "toy", "key": "toy-key", "network": network_spec(), "steps": 12, "batch_size": 8}
    own = {name: value for name, value in changes.items() if name in Job.__dataclass_fields__}
    objective = {name: value for name, value in changes.items() if name in Objective.__dataclass_fields__}
    optimiser = {name: value for name, value in changes.items() if name in Optimiser.__dataclass_fields__}
    assert len(own) + len(objective) + len(optimiser) == len(changes)
    defaults = {"objective": Objective(**objective), "optimiser": Optimiser(**optimiser), "checkpoint_every": 5}
    return Job(**{**fields, **defaults, "log_every": 1, **own})


def trained_teacher(**options: Any) -> VideoNetwork:
    """A network in evaluation mode to answer as a teacher."""
    return build_network(network_spec(**{"widths": [4, 6, 8, 8], **options}), seed=7).eval()


def equal_weights(a: VideoNetwork, b: VideoNetwork) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return equal_states(a.state_dict(), b.state_dict())


def equal_states(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two mappings hold the same tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder:
    """A reporter that remembers, and stops once `stop_at` steps are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.lines: dict[int, dict[str, float]] = {}
        self._stop_at = stop_at

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines[step] = dict(metrics)

    def stop(self) -> bool:
        return self._stop_at is not None and max(self.lines) >= self._stop_at
