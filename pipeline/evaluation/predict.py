"""Logits of a network for stored clips, and what the views of one video say together.

Legend: n clips, V videos, C classes, T frames of H × W.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.errors import JobError
from pipeline.models.network import VideoNetwork


def predict(network: VideoNetwork, frames: np.ndarray, *, batch: int = 16, device: str = "cpu") -> np.ndarray:
    """Logits (n, C) float32 of uint8 rasters (n, T, H, W, 3), in eval mode; the network's mode is put back after.

    Every forward sees exactly `batch` clips (the last one is filled with black), so that a clip's logits do not
    depend on how many others are asked for. JobError names the first clip whose logits are not finite.
    """
    assert frames.ndim == 5, f"rasters are (n, T, H, W, 3), not {frames.shape}"
    assert frames.dtype == np.uint8, f"rasters are uint8, not {frames.dtype}"
    was_training = network.training
    network.eval().to(device)
    try:
        parts = [_forward(network, frames[start : start + batch], batch, device) for start in _starts(frames, batch)]
    finally:
        network.train(was_training)
    logits = np.concatenate(parts) if parts else np.zeros((0, len(network.classes)), np.float32)
    return _finite(logits)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits / temperature over the last axis, in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_video(
    video_ids: Sequence[str], logits: np.ndarray, *, temperature: float = 1.0
) -> tuple[tuple[str, ...], np.ndarray]:
    """Sorted video ids and their mean softmax (V, C) over all stored views, float64; rows may come in any order."""
    assert len(video_ids) == len(logits), f"{len(video_ids)} ids for {len(logits)} rows of logits"
    ids, row_of = np.unique(np.asarray(video_ids, dtype=object).astype(str), return_inverse=True)
    return tuple(ids.tolist()), mean_by_row(softmax(logits, temperature), row_of, len(ids))


def mean_by_row(values: np.ndarray, row_of: np.ndarray, rows: int) -> np.ndarray:
    """Mean (rows, C) of the values (n, C) that belong to each row; every row has at least one value."""
    sums = np.zeros((rows, values.shape[1]))
    np.add.at(sums, row_of, values)
    return sums / np.bincount(row_of, minlength=rows)[:, None]


def top_classes(probabilities: np.ndarray, classes: Sequence[str], k: int = 5) -> list[tuple[str, float]]:
    """The k most probable classes (name, probability) of one video's probabilities (C,), best first."""
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [(classes[index], float(probabilities[index])) for index in order]


def _starts(frames: np.ndarray, batch: int) -> range:
    return range(0, len(frames), batch)


def _forward(network: VideoNetwork, clips: np.ndarray, batch: int, device: str) -> np.ndarray:
    full = np.zeros((batch, *clips.shape[1:]), np.uint8)
    full[: len(clips)] = clips
    with torch.inference_mode():
        logits = network(torch.from_numpy(full).to(device)).logits
    return logits[: len(clips)].float().cpu().numpy()


def _finite(logits: np.ndarray) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise JobError(f"evaluate: logits of clip {bad[0]} ({len(bad)} of {len(logits)}) are not finite; train it anew")
    return logits
