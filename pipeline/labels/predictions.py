"""What the labellers say, with the evidence that each model never trained on the video it speaks of.

N training videos, V views, C classes, F fold models. Logits are raw; a temperature divides them before the softmax.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InputError

FLOOR = 1e-8
CHUNK = 8192


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """One fold model's raw logits (n, V, C) for the training videos at positions `rows` (n,), and the positions
    `trained_on` (m,) of all videos that it, or a network that it was distilled from, was fitted on."""

    rows: np.ndarray
    logits: np.ndarray
    trained_on: np.ndarray


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold logits (N, V, C) of all training videos, the only predictions that `refine` takes.

    `model` (N,) says which model wrote each row, `trained_on` (F, N) bool which videos each model was fitted on.
    Raises InputError where a row was written by a model that saw the video, or is not finite.
    """

    logits: np.ndarray
    model: np.ndarray
    trained_on: np.ndarray

    def __post_init__(self) -> None:
        _check_logits(self.logits, 3, "out-of-fold logits")
        videos = len(self.logits)
        if self.model.shape != (videos,) or self.trained_on.shape[1:] != (videos,):
            raise InputError(f"out-of-fold logits: evidence is needed for each of {videos} videos")
        seen = np.flatnonzero(self.trained_on[self.model, np.arange(videos)])
        if len(seen):
            raise InputError(
                f"{len(seen)} videos (first position {seen[0]}) were predicted by a model that was trained on them; "
                "predict each fold with the model that left it out"
            )

    @property
    def num_classes(self) -> int:
        return self.logits.shape[2]

    @classmethod
    def gather(cls, predictions: Sequence[FoldPrediction], num_videos: int) -> "OutOfFold":
        """Put the folds together; InputError unless every video is predicted by exactly one model."""
        rows = np.concatenate([part.rows for part in predictions])
        if not np.array_equal(np.sort(rows), np.arange(num_videos)):
            raise InputError(f"the folds predict {len(rows)} rows, not each of the {num_videos} training videos once")
        logits = np.concatenate([part.logits for part in predictions])[np.argsort(rows)]
        trained_on = np.zeros((len(predictions), num_videos), dtype=bool)
        model = np.empty(num_videos, dtype=np.int64)
        for number, part in enumerate(predictions):
            trained_on[number, part.trained_on] = True
            model[part.rows] = number
        return cls(logits, model, trained_on)

    @classmethod
    def unseen(cls, logits: np.ndarray) -> "OutOfFold":
        """Logits of a given teacher that declares `saw_labels: false`: it was fitted on none of these videos."""
        videos = len(logits)
        return cls(logits, np.zeros(videos, dtype=np.int64), np.zeros((1, videos), dtype=bool))


@dataclass(frozen=True, eq=False)
class Validation:
    """Raw logits (F, Nv, V, C) of every fold model on the validation videos, and their labels (Nv,).

    `trusted` says whether these labels are right; `groups` (Nv,) is None where every video is its own group. All arrays
    become read-only copies: validation rows are read for the self-test and the temperature and never rewritten.
    """

    logits: np.ndarray
    labels: np.ndarray
    trusted: bool
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_logits(self.logits, 4, "validation logits")
        videos, classes = self.logits.shape[1], self.logits.shape[3]
        if np.shape(self.labels) != (videos,) or self.group_of.shape != (videos,):
            raise InputError(f"validation: one label and one group are needed for each of {videos} videos")
        if videos and not (np.min(self.labels) >= 0 and np.max(self.labels) < classes):
            raise InputError(f"validation labels must lie in 0..{classes - 1}; leave unlabelled videos out")
        for name, value in (("logits", self.logits), ("labels", self.labels), ("groups", self.group_of)):
            object.__setattr__(self, name, _read_only(value))

    @property
    def group_of(self) -> np.ndarray:
        """Group of each video, (Nv,)."""
        return np.arange(self.logits.shape[1]) if self.groups is None else np.asarray(self.groups)


class Rows:
    """Logits (n, V, C) with one label per row (n,); what the channels ask of them is computed once per temperature."""

    def __init__(self, logits: np.ndarray, labels: np.ndarray) -> None:
        assert labels.shape == logits.shape[:1], (labels.shape, logits.shape)
        self.logits, self.labels = logits, labels
        self._of_label: dict[float, np.ndarray] = {}
        self._log: tuple[float, np.ndarray] | None = None

    @property
    def num_classes(self) -> int:
        return self.logits.shape[2]

    def label_probability(self, temperature: float) -> np.ndarray:
        """p̄ of each row's own label, (n,) float64."""
        if temperature not in self._of_label:
            self._of_label[temperature] = _label_probability(self.logits, self.labels, temperature)
        return self._of_label[temperature]

    def log_probability(self, temperature: float) -> np.ndarray:
        """log p̄ (n, C) float64; only the newest temperature is kept, since this can be large."""
        if self._log is None or self._log[0] != temperature:
            mean = mean_probability(self.logits, temperature)
            self._log = (temperature, np.log(mean, out=mean))
        return self._log[1]


def mean_probability(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """p̄ = mean over views of softmax(logits / temperature), at least 1e-8: (n, V, C) -> (n, C) float64."""
    mean = np.empty((logits.shape[0], logits.shape[2]))
    for part in chunks(len(logits)):
        exponentials = _shifted_exp(logits[part], temperature)
        exponentials /= exponentials.sum(axis=2, keepdims=True)
        mean[part] = exponentials.mean(axis=1)
    return np.maximum(mean, FLOOR, out=mean)


def _label_probability(logits: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    probability = np.empty(len(labels))
    for part in chunks(len(labels)):
        exponentials = _shifted_exp(logits[part], temperature)
        own = np.take_along_axis(exponentials, labels[part][:, None, None], axis=2)[..., 0]
        probability[part] = (own / exponentials.sum(axis=2)).mean(axis=1)
    return np.maximum(probability, FLOOR, out=probability)


def _shifted_exp(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=2, keepdims=True)
    scaled /= temperature
    return np.exp(scaled, out=scaled)


def chunks(rows: int) -> Iterator[slice]:
    """Slices that bound the float64 copies of a large table."""
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))


def _check_logits(logits: np.ndarray, dimensions: int, what: str) -> None:
    if logits.ndim != dimensions or logits.shape[-1] < 2 or logits.shape[-2] < 1:
        raise InputError(f"{what}: expected {dimensions} dimensions ending in (views, classes), got {logits.shape}")
    if not np.isfinite(logits).all():
        raise InputError(f"{what}: some values are not finite; look at the fold model's training log")


def _read_only(values: np.ndarray) -> np.ndarray:
    copy = np.array(values)
    copy.setflags(write=False)
    return copy
