"""Accuracy on training videos, to be read beside the test's: what a network fits, and how far that carries.

Where evaluation views of training videos are stored, every network's stored logits over them count, as on test. Else
the first stored training view of at most 512 labelled training videos: stored targets of the teacher and the
assistants, and for the others one pass of the trained network here. The same videos for every network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.artifacts.dataset import Artefact, open_dataset
from pipeline.artifacts.identity import unit_draw
from pipeline.artifacts.schemas import column
from pipeline.errors import InputError
from pipeline.flow.cascade import Trained
from pipeline.flow.step import content
from pipeline.flow.videos import Videos, Views

MOST_VIDEOS, MOST_HELD, MOST_READ = 512, 2**30, 2**31  # bytes of rasters in memory, of stored frames that are read


@dataclass(frozen=True)
class Sample:
    """The first view of each chosen video: (clip, view) by shard."""

    keys: dict[str, list[tuple[str, int]]]
    videos: np.ndarray  # (V,) rows of the manifest, in the order of `keys`


@dataclass
class TrainAccuracy:
    """Measures one network after another on the same training videos, whose frames are read once.

    `raster`: bytes of one view's frames.
    """

    videos: Videos
    views: Views
    raster: int
    _sample: Sample | None = field(default=None, init=False)
    _pixels: list[np.ndarray] = field(default_factory=list, init=False)

    def of(self, runs: Sequence[Trained], tables: Sequence[Any]) -> dict[str, Any] | None:
        """Mean over replicates with interval, JSON-able; None where no labelled training video can be scored.

        `tables`: the runs' `VideoTable`s over evaluation views of training videos, empty where none are stored.
        """
        if tables:
            correct, labels, groups = np.stack([table.correct for table in tables]), tables[0].labels, tables[0].groups
            return self._said(correct, labels, groups, "all stored evaluation views of each video")
        sample = self.sample
        predicted = [self._predicted(run, sample) for run in runs]
        if not len(sample.videos) or any(found is None for found in predicted):
            return None
        labels = self.videos.labels[sample.videos]
        groups = np.array([self.videos.groups[row] for row in sample.videos])
        correct = np.stack([found == labels for found in predicted])
        return self._said(correct, labels, groups, "one training view of each video")

    @property
    def sample(self) -> Sample:
        if self._sample is None:
            most = max(1, min(MOST_VIDEOS, MOST_HELD // self.raster))
            self._sample = draw(self._stored_frames(), self.videos, most)
        return self._sample

    def _stored_frames(self) -> Artefact:
        return open_dataset(self.views.folders["train"], self.views.digest("train"))

    def _frames(self, sample: Sample) -> list[np.ndarray]:
        """Rasters of the sample, shard by shard."""
        if not self._pixels:
            stored = self._stored_frames()
            self._pixels = [_frames(stored.shard(shard), keys) for shard, keys in sample.keys.items()]
        return self._pixels

    def _said(self, correct: np.ndarray, labels: np.ndarray, groups: np.ndarray, views: str) -> dict[str, Any]:
        from pipeline.evaluation.intervals import accuracy_interval

        interval = accuracy_interval(correct, labels, groups).as_dict()
        return {"top1": float(correct.mean()), "top1_interval": interval, "videos": len(labels), "views": views}

    def _predicted(self, run: Trained, sample: Sample) -> np.ndarray | None:
        """Classes (V,), from stored targets where they hold all logits; None where they hold the largest only."""
        targets = run.targets
        if run.role in ("student", "control"):
            return self._by_network(run, sample)
        stored = open_dataset(targets.folders["train"], targets.snapshots.get("train"))
        parts = []
        for shard, keys in sample.keys.items():
            table = stored.shard(shard)
            if "logits" not in table.column_names:
                return None
            logits = column(table, "logits")[_places(table, keys)]
            parts.append(logits if targets.class_index is None else logits[:, list(targets.class_index)])
        return np.concatenate(parts).argmax(axis=1) if parts else None

    def _by_network(self, run: Trained, sample: Sample) -> np.ndarray | None:
        from pipeline.evaluation.cost import one_thread
        from pipeline.evaluation.predict import predict
        from pipeline.models.weights import load_network

        network = load_network(content(run.model.folder))
        with one_thread():
            parts = [predict(network, pixels) for pixels in self._frames(sample)]
        return np.concatenate(parts).argmax(axis=1) if parts else None


def draw(frames: Artefact, videos: Videos, most: int = MOST_VIDEOS, read: int = MOST_READ) -> Sample:
    """At most `most` labelled videos by a draw from their id, out of all shards or, where these are more than `read`
    bytes, of evenly spaced ones (neighbours in a shard are neighbours by name, so often of one class)."""
    position = videos.position()
    shards = frames.shard_ids
    size = sum(part.size for shard in frames.snapshot.shards for part in shard.objects)
    wanted = max(1, min(len(shards), len(shards) * read // max(size, 1)))
    chosen = set(np.linspace(0, len(shards) - 1, wanted).round().astype(int).tolist())
    first: dict[str, tuple[str, tuple[str, int]]] = {}
    for shard in (shard for index, shard in enumerate(shards) if index in chosen):
        table = frames.shard(shard, ["video_id", "clip_id", "view_id"])
        for name, key in sorted(zip(table.column("video_id").to_pylist(), _keys(table), strict=True)):
            if name in position and videos.labels[position[name]] >= 0:
                first.setdefault(name, (shard, key))
    names = sorted(first, key=lambda name: (unit_draw("train accuracy", 0, name), name))[:most]
    ordered = sorted(names, key=lambda name: first[name])
    keys: dict[str, list[tuple[str, int]]] = {}
    for name in ordered:
        keys.setdefault(first[name][0], []).append(first[name][1])
    return Sample(keys, np.array([position[name] for name in ordered], dtype=int))


def _keys(table: Any) -> list[tuple[str, int]]:
    return list(zip(table.column("clip_id").to_pylist(), table.column("view_id").to_pylist(), strict=True))


def _places(table: Any, keys: list[tuple[str, int]]) -> list[int]:
    place = {key: row for row, key in enumerate(_keys(table))}
    lost = [key for key in keys if key not in place]
    if lost:
        raise InputError(
            f"evaluate: {len(lost)} training views have no targets, the first is {lost[0]}: run precompute"
        )
    return [place[key] for key in keys]


def _frames(table: Any, keys: list[tuple[str, int]]) -> np.ndarray:
    rows = table.take(_places(table, keys))
    return np.ascontiguousarray(column(rows, "frames"))
