"""Metrics per video: mean softmax over the stored views against the given, never refined, labels.

Legend: n clips (views), V labelled videos, C classes. Accuracies and errors are fractions of 1, NLL is in nats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from pipeline.errors import InputError
from pipeline.evaluation.intervals import accuracy_interval
from pipeline.evaluation.predict import by_video, mean_by_row, softmax

ECE_BINS = 15
TEMPERATURES = (0.05, 20.0)
_FLOOR = 1e-12


@dataclass(frozen=True)
class VideoTable:
    """The labelled videos of one split as one network sees them; rows are sorted by video id."""

    video_ids: tuple[str, ...]
    labels: np.ndarray  # (V,) int64, as given
    groups: np.ndarray | None  # (V,) str
    logits: np.ndarray  # (n, C), views of labelled videos
    row_of: np.ndarray  # (n,) row of each view's video
    teacher_predicted: np.ndarray | None  # (V,) int64
    unlabelled: int  # videos left out

    def probabilities(self, temperature: float = 1.0) -> np.ndarray:
        """Mean softmax (V, C) over the views of each video."""
        return mean_by_row(softmax(self.logits, temperature), self.row_of, len(self.video_ids))

    @property
    def predicted(self) -> np.ndarray:
        """Most probable class (V,)."""
        return self.probabilities().argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """(V,) bool; two networks' tables over the same videos pair row by row."""
        return self.predicted == self.labels


def video_table(
    video_ids: Sequence[str],
    logits: np.ndarray,
    labels: Mapping[str, int | None],
    *,
    groups: Mapping[str, str] | None = None,
    teacher_logits: np.ndarray | None = None,
) -> VideoTable:
    """Join views (n ids, logits (n, C)) with given labels per video; None or -1 is an unlabelled video.

    `teacher_logits` (n, C) are the teacher's for the same rows, in the same class order. InputError where a video is
    not in `labels` or none of them has a label.
    """
    ids = np.asarray(video_ids, dtype=object).astype(str)
    given = {name: _label(name, labels) for name in np.unique(ids).tolist()}
    keep = np.array([given[name] >= 0 for name in ids], dtype=bool)
    if not keep.any():
        raise InputError(f"evaluate: none of {len(given)} videos has a label; give labels or another split")
    names, row_of = np.unique(ids[keep], return_inverse=True)
    return VideoTable(
        video_ids=tuple(names.tolist()),
        labels=np.array([given[name] for name in names], dtype=np.int64),
        groups=None if groups is None else np.array([groups[name] for name in names]),
        logits=np.asarray(logits)[keep],
        row_of=row_of,
        teacher_predicted=_teacher(ids[keep], teacher_logits, keep),
        unlabelled=len(given) - len(names),
    )


def fit_temperature(validation: VideoTable) -> float:
    """Temperature in [0.05, 20] that minimises the video NLL on validation (Guo et al. 2017, on mean softmax)."""
    low, high = np.log(TEMPERATURES)

    def loss(log_temperature: float) -> float:
        return nll(validation.probabilities(float(np.exp(log_temperature))), validation.labels)

    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x))


def video_metrics(
    table: VideoTable,
    classes: Sequence[str],
    *,
    temperature: float | None = None,
    quarantined: Sequence[str] = (),
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is reported of one network on one split, JSON-able.

    `temperature` from `fit_temperature` on another split than this adds `scaled`. Of five classes or fewer there is no
    top-5 (None): it would be 1 whatever the network does. `quarantined` are the split's labelled videos
    that could not be decoded: they are in no other figure than `quarantined_videos` and `top1_quarantined_wrong`.
    """
    assert not set(quarantined) & set(table.video_ids), "a video is in targets or in quarantine, never both"
    assert table.logits.shape[1] == len(classes), f"{table.logits.shape[1]} logits for {len(classes)} classes"
    probabilities = table.probabilities()
    hits = int(table.correct.sum())
    interval = accuracy_interval(table.correct, table.labels, table.groups, level=level, draws=draws, seed=seed)
    return {
        "videos": len(table.video_ids),
        "clips": len(table.logits),
        "unlabelled_videos": table.unlabelled,
        "quarantined_videos": len(quarantined),
        "top1_quarantined_wrong": hits / (len(table.video_ids) + len(quarantined)),
        **scores(probabilities, table.labels),
        "top1_interval": interval.as_dict(),
        "scaled": _scaled(table, temperature),
        "clip": _clips(table, level, draws, seed),
        "agreement": _agreement(table),
        "classes": list(classes),
        "confusion": confusion(probabilities, table.labels).tolist(),
    }


def mean_metrics(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`video_metrics` of replicates as one: numbers that are floats as their mean, confusion counts as their sum.

    Counts and texts are the first one's; they are the same for all. An interval of the mean is the caller's to put in.
    """
    return {name: _mean_value(name, [run[name] for run in runs]) for name in runs[0]}


def _mean_value(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return mean_metrics(values)
    if name == "confusion":
        return np.sum(values, axis=0).tolist()
    return float(np.mean(values)) if isinstance(values[0], float) else values[0]


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """top1, top5 (None of five classes or fewer), ece (15 bins, weighted by bin), nll of probabilities (V, C)."""
    shares, target = _tensors(probabilities, labels)
    count = shares.shape[1]

    def accuracy(k: int) -> float:
        return float(multiclass_accuracy(shares, target, num_classes=count, top_k=k, average="micro"))

    ece = multiclass_calibration_error(shares, target, num_classes=count, n_bins=ECE_BINS, norm="l1")
    top5 = accuracy(5) if count > 5 else None
    return {"top1": accuracy(1), "top5": top5, "ece": float(ece), "nll": nll(probabilities, labels)}


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log probability of the label, floor 1e-12."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, _FLOOR)).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (C, C): row = given label, column = prediction."""
    shares, target = _tensors(probabilities, labels)
    return multiclass_confusion_matrix(shares, target, num_classes=shares.shape[1]).numpy()


def gap_recovered(teacher: float, student: float, alone: float) -> float | None:
    """(student - alone) / (teacher - alone), of means over replicates; None where the teacher is not above `alone`."""
    gap = teacher - alone
    return (student - alone) / gap if gap > 0 else None


def _tensors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    # torchmetrics takes a softmax of its own as soon as one value is above 1, rounding included
    return torch.from_numpy(np.clip(probabilities, 0.0, 1.0)), torch.from_numpy(labels)


def _clips(table: VideoTable, level: float, draws: int, seed: int) -> dict[str, Any]:
    """Scores of single views; views of one video are alike, so the video, or its group, is what is independent."""
    labels = table.labels[table.row_of]
    correct = table.logits.argmax(axis=1) == labels
    units = np.arange(len(table.video_ids)) if table.groups is None else table.groups
    interval = accuracy_interval(correct, labels, units[table.row_of], level=level, draws=draws, seed=seed)
    return {**scores(softmax(table.logits), labels), "top1_interval": interval.as_dict()}


def _scaled(table: VideoTable, temperature: float | None) -> dict[str, float | None] | None:
    if temperature is None:
        return None
    result = scores(table.probabilities(temperature), table.labels)
    return {"temperature": temperature, "ece": result["ece"], "nll": result["nll"]}


def _agreement(table: VideoTable) -> float | None:
    return None if table.teacher_predicted is None else float((table.teacher_predicted == table.predicted).mean())


def _teacher(ids: np.ndarray, logits: np.ndarray | None, keep: np.ndarray) -> np.ndarray | None:
    return None if logits is None else by_video(ids.tolist(), np.asarray(logits)[keep])[1].argmax(axis=1)


def _label(name: str, labels: Mapping[str, int | None]) -> int:
    if name not in labels:
        raise InputError(f"evaluate: video {name!r} has logits but is not in the manifest; run `manifest` again")
    label = labels[name]
    return -1 if label is None else int(label)
