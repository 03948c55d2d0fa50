"""Training data in memory: all views as one uint8 array, batches gathered by row, the order from `artifacts.order`.

With `labelled_share` a fixed share of every global batch is drawn from the labelled clips and the rest from the others,
each in an order of its own.

Legend: N clips, V views of each, R rows (views of all clips), B global batch, b = B / world, C classes, C_l channels of
a teacher's substage l.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from pipeline.artifacts.identity import integer
from pipeline.artifacts.order import ClipIndex, Keys, chosen_clips, clip_index, training_order
from pipeline.errors import ConfigError, InputError

Statistics = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TopKRows:
    """The k largest logits of each row, in the manifest's class order: index (R,k), logit (R,k), mean and sd (R,) of
    all C, tail (R,2,M), log Σ exp(x / τ) over the rest, raw and z-scored, per temperature. Indexed as an array is."""

    index: np.ndarray
    logit: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    tail: np.ndarray
    temperatures: tuple[float, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: np.ndarray) -> "TopKRows":
        return self._each(lambda column: column[rows])

    def float32(self) -> "TopKRows":
        """The same with float32 values and int64 indices."""
        return replace(self._each(_float), index=self.index.astype(np.int64))

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> "TopKRows":
        index, logit, mean, sd, tail = map(change, (self.index, self.logit, self.mean, self.sd, self.tail))
        return TopKRows(index, logit, mean, sd, tail, self.temperatures, self.classes)


Logits = np.ndarray | TopKRows
Source = tuple[Logits, list[np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """One rank's part of a mini-batch: frames uint8 (b,T,H,W,3), q (b,C), weight (b,), per source (logits (b,C) or
    their top k, [features (b,C_l)]) in float32, the newest source last."""

    frames: np.ndarray
    q: np.ndarray
    weight: np.ndarray
    sources: list[Source]


@dataclass(frozen=True)
class Validation:
    """Labelled videos that select a training's best step: frames uint8 (n,T,H,W,3) of their stored views, the video of
    each view row_of (n,), labels (V,)."""

    frames: np.ndarray
    row_of: np.ndarray
    labels: np.ndarray


class TrainingData(Protocol):
    """What the loop reads. Sources are ordered: the newest one is last.

    `clips`: how many are read per epoch. `mean_weight`: w̄ over them, 0 where none is labelled. `source_dims`:
    (C_1..C_L) per source. `statistics`: per source a list of (mean (C_l,), s.d. (C_l,)), or None where none were given.
    `half_precision`: per source whether its features were stored as half floats. `validation`: None where no step is
    selected.
    """

    @property
    def clips(self) -> int: ...
    @property
    def mean_weight(self) -> float: ...
    @property
    def source_dims(self) -> list[tuple[int, ...]]: ...
    @property
    def statistics(self) -> list[Statistics | None]: ...
    @property
    def half_precision(self) -> list[bool]: ...
    @property
    def validation(self) -> Validation | None: ...

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        labelled_share: float | None = None,
    ) -> Iterator[Batch]:
        """This rank's part of the global batches of the steps start .. stop - 1."""


@dataclass(frozen=True)
class SourceArrays:
    """One teacher's targets: logits (R,C) or their top k in the manifest's class order, features per substage (R,C_l),
    and their mean and s.d. over all training views (needed for λ_dist)."""

    logits: Logits
    features: list[np.ndarray]
    statistics: Statistics | None = None


class MemoryData:
    """Views of N clips; an epoch reads each clip once, in view (epoch + int(sha256(clip_id))) mod V."""

    def __init__(
        self,
        shards: Sequence[Keys],
        frames: np.ndarray,
        q: np.ndarray,
        weight: np.ndarray,
        sources: Sequence[SourceArrays] = (),
        *,
        window: int = 4,
        validation: Validation | None = None,
    ) -> None:
        """`shards`: clip_id and view_id of the rows of each shard, R in all, the views of a clip next to each other;
        frames uint8 (R,T,H,W,3); q (N,C) and weight (N,) per clip, in the order of their rows. InputError where the
        numbers do not fit."""
        self._index = clip_index(shards)
        rows = int(self._index.shard_rows.sum())
        lengths = {"frames": (len(frames), rows), "q": (len(q), self.clips), "weight": (len(weight), self.clips)}
        lengths |= {f"logits of source {n}": (len(source.logits), rows) for n, source in enumerate(sources)}
        for name, (given, wanted) in lengths.items():
            if given != wanted:
                raise InputError(f"{name}: {given} rows were given for {wanted} ({self.clips} clips, {rows} views)")
        self._frames, self._q, self._weight = frames, _float(q), _float(weight)
        self._clip = np.repeat(np.arange(self.clips), self._index.views)
        self._sources, self._window = list(sources), window
        self.validation = validation

    @classmethod
    def from_arrays(
        cls, frames: np.ndarray, q: np.ndarray, weight: np.ndarray, sources: Sequence[SourceArrays] = ()
    ) -> Self:
        """From frames (N,V,T,H,W,3), q (N,C), weight (N,); sources with rows (N·V, …), a clip's views together. Clips
        are named by their position."""
        clips, views = frames.shape[:2]
        names = np.repeat(np.array([f"clip{n}" for n in range(clips)], object), views)
        keys = (names, np.tile(np.arange(views), clips))
        return cls([keys], frames.reshape(-1, *frames.shape[2:]), q, weight, sources)

    @property
    def clips(self) -> int:
        return self._index.clips

    @property
    def mean_weight(self) -> float:
        return float(self._weight.mean(dtype=np.float64))

    @property
    def source_dims(self) -> list[tuple[int, ...]]:
        return [tuple(features.shape[1] for features in source.features) for source in self._sources]

    @property
    def statistics(self) -> list[Statistics | None]:
        return [source.statistics for source in self._sources]

    @property
    def half_precision(self) -> list[bool]:
        return [any(part.dtype == np.float16 for part in source.features) for source in self._sources]

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int,
        labelled_share: float | None = None,
    ) -> Iterator[Batch]:
        """This rank's part of the global batches of the steps start .. stop - 1, in `artifacts.order.training_order`.

        With `labelled_share` the rows that were drawn as labelled ones come first. ConfigError where there are fewer
        clips than one batch needs, or the ranks cannot have equal parts.
        """
        part = {"rank": rank, "world": world, "window": self._window}
        if labelled_share is None:
            for rows in training_order(self._index, start, stop, batch_size=batch_size, seed=seed, **part):
                yield self._gather(rows)
            return
        drawn = labelled_rows(labelled_share, batch_size)
        labelled, others = self._by_label(drawn, batch_size)
        pair = (
            training_order(labelled, start, stop, batch_size=drawn, seed=integer("labelled", seed), **part),
            training_order(others, start, stop, batch_size=batch_size - drawn, seed=seed, **part),
        )
        for ours, rest in zip(*pair, strict=True):
            yield self._gather(np.concatenate([ours, rest]))

    def _by_label(self, drawn: int, batch_size: int) -> tuple[ClipIndex, ClipIndex]:
        """The labelled clips and the others. ConfigError where one side cannot fill its part of a batch."""
        mask = self._weight > 0
        labelled, rest = int(mask.sum()), int((~mask).sum())
        if labelled < drawn or rest < batch_size - drawn:
            raise ConfigError(
                f"train.labelled_share draws {drawn} labelled and {batch_size - drawn} other clips into each batch of "
                f"{batch_size}, and there are {labelled} and {rest}: change train.labelled_share or train.batch_size, "
                "or leave labelled_share out (it is for few labels and many clips without)"
            )
        return chosen_clips(self._index, mask), chosen_clips(self._index, ~mask)

    def _gather(self, rows: np.ndarray) -> Batch:
        sources = [
            (_float32(source.logits[rows]), [_float(features[rows]) for features in source.features])
            for source in self._sources
        ]
        clips = self._clip[rows]
        return Batch(self._frames[rows], self._q[clips], self._weight[clips], sources)


def labelled_rows(share: float, batch_size: int) -> int:
    """How many rows of a global batch are drawn from the labelled clips: the nearest whole number, 1 at least."""
    return min(max(1, round(share * batch_size)), batch_size - 1)


def one_hot(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Given labels (N,), -1 where there is none, as q (N,C) and weight (N,): one-hot with weight 1, or zeros."""
    labelled = labels >= 0
    q = np.zeros((len(labels), classes), np.float32)
    q[labelled, labels[labelled]] = 1
    return q, labelled.astype(np.float32)


def _float32(logits: Logits) -> Logits:
    return logits.float32() if isinstance(logits, TopKRows) else _float(logits)


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32, copy=False)
