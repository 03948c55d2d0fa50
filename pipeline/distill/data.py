"""From committed artefacts to training data: frames, targets and labels zipped by key, shard by shard.

    frames ─┐
    targets ┼─ common rows of each shard ─▶ wanted videos ─▶ one array per column ─▶ MemoryData
    labels ─┘ (per video)

Frames and the targets of every teacher come from one plan, so the same shard of each holds the same views in the same
order; a reader keeps the keys (clip_id, view_id) that all sides have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifacts.dataset import Artefact, open_dataset
from pipeline.artifacts.order import common_rows
from pipeline.artifacts.schemas import column, declaration
from pipeline.distill.memory import (
    Batch,
    Logits,
    MemoryData,
    SourceArrays,
    Statistics,
    TopKRows,
    TrainingData,
    Validation,
    one_hot,
)
from pipeline.distill.plain import Json
from pipeline.errors import InputError

__all__ = ["Batch", "DataSpec", "MemoryData", "SourceArrays", "SourceSpec", "TrainingData", "load", "one_hot"]

Labels = dict[str, tuple[np.ndarray, float]]  # video_id -> q (C,), weight


@dataclass(frozen=True)
class SourceSpec(Json):
    """One teacher's targets: folder and pinned snapshot, folder of its statistics (needed for λ_dist), and per manifest
    class the column of its logits (None: its classes are the manifest's, in order)."""

    targets: str
    snapshot: str | None = None
    statistics: str | None = None
    class_index: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ValidationSpec(Json):
    """Videos that select a training's best step: frames and pinned snapshot of the evaluation views, pairs (video_id,
    class from 0), and at most how many views of each are read, evenly spread. `column` as of a DataSpec."""

    frames: str
    snapshot: str
    given: tuple[tuple[str, int], ...]
    views: int
    column: str = "frames"


@dataclass(frozen=True)
class DataSpec(Json):
    """What a job reads. Labels come from a `labels` artefact or as `given` pairs (video_id, class from 0); a video in
    neither is unlabelled. `keep` limits the videos. Without sources, clips of weight 0 are left out: nothing could be
    learnt from them. `window`: shards whose clips are mixed in the training order. `column` of `frames` is what the
    network reads: rasters, or the stored features of its frozen part.
    """

    frames: str
    classes: int
    snapshot: str | None = None
    labels: str | None = None
    given: tuple[tuple[str, int], ...] | None = None
    sources: tuple[SourceSpec, ...] = ()
    keep: tuple[str, ...] | None = None
    window: int = 4
    validation: ValidationSpec | None = None
    column: str = "frames"


@dataclass(frozen=True)
class _Shard:
    """The kept rows of one shard: per side (frames first, then the sources) their rows (n,), and their keys."""

    shard_id: str
    rows: list[np.ndarray]
    clips: np.ndarray
    views: np.ndarray
    videos: np.ndarray


def load(spec: DataSpec) -> MemoryData:
    """Everything that `spec` names, in memory. InputError where no row is left or shapes do not fit."""
    frames = open_dataset(spec.frames, spec.snapshot)
    targets = [open_dataset(source.targets, source.snapshot) for source in spec.sources]
    labels = _labels(spec)
    shards = _shards([frames, *targets], _wanted(spec, labels))
    if not shards:
        folders = ", ".join([spec.frames, *(source.targets for source in spec.sources)])
        raise InputError(f"no view to train on: {folders} share no committed view of the wanted videos; run precompute")
    sides = enumerate(zip(spec.sources, targets, strict=True), start=1)
    return MemoryData(
        [(shard.clips, shard.views) for shard in shards],
        _stack(frames, shards, 0, spec.column),
        *_label_rows(shards, labels, spec.classes),
        [_source(side, source, artefact, shards) for side, (source, artefact) in sides],
        window=spec.window,
        validation=None if spec.validation is None else load_validation(spec.validation),
    )


@dataclass(frozen=True)
class Rows:
    """What a fit without steps reads: values (R,…) of views, video (R,) each view's position in `videos`, q (V,C) and
    weight (V,) of these."""

    values: np.ndarray
    video: np.ndarray
    videos: tuple[str, ...]
    q: np.ndarray
    weight: np.ndarray


def load_rows(spec: DataSpec) -> Rows:
    """All labelled views of `spec`, shard by shard. InputError where none is left."""
    artefact, labels = open_dataset(spec.frames, spec.snapshot), _labels(spec)
    shards = _shards([artefact], _wanted(spec, labels))
    if not shards:
        raise InputError(f"no labelled view to fit on: {spec.frames} holds none of the wanted videos; run precompute")
    names = np.concatenate([shard.videos for shard in shards])
    videos, video = np.unique(names.astype(str), return_inverse=True)
    q, weight = zip(*(labels[name] for name in videos), strict=True)
    values = _stack(artefact, shards, 0, spec.column)
    return Rows(values, video, tuple(videos.tolist()), np.stack(q), np.array(weight, np.float32))


def load_validation(spec: ValidationSpec) -> Validation:
    """The videos of `spec` with their views in memory. InputError where none of them has any."""
    artefact, wanted = open_dataset(spec.frames, spec.snapshot), dict(spec.given)
    frames: list[np.ndarray] = []
    videos: list[str] = []
    for shard in artefact.shard_ids:
        names = _columns(artefact, shard, ["video_id"])[0].tolist()
        rows = [row for name in dict.fromkeys(names) if name in wanted for row in _spread(names, name, spec.views)]
        if rows:
            frames.append(column(artefact.shard(shard, [spec.column]), spec.column)[rows])
            videos += [names[row] for row in rows]
    if not videos:
        raise InputError(f"{spec.frames} holds no view of the {len(wanted)} validation videos: run precompute")
    ids = sorted(set(videos))
    place = {name: row for row, name in enumerate(ids)}
    labels = np.array([wanted[name] for name in ids], np.int64)
    return Validation(np.concatenate(frames), np.array([place[name] for name in videos], np.int64), labels)


def _spread(names: Sequence[str], name: str, most: int) -> list[int]:
    """Rows of a video's views, at most so many, evenly spread."""
    rows = [row for row, found in enumerate(names) if found == name]
    count = min(most, len(rows))
    return [rows[(2 * n + 1) * len(rows) // (2 * count)] for n in range(count)]


def _labels(spec: DataSpec) -> Labels:
    if spec.labels is None:
        pairs = spec.given or ()
        q, weight = one_hot(np.asarray([label for _, label in pairs], np.int64), spec.classes)
        return {video: (q[n], float(weight[n])) for n, (video, _) in enumerate(pairs)}
    table = open_dataset(spec.labels).table(["video_id", "q", "weight"])
    q, weight = column(table, "q"), column(table, "weight")
    if q.shape[1:] != (spec.classes,):
        raise InputError(f"{spec.labels} has labels of {q.shape[1]} classes, the job has {spec.classes}")
    return {video: (q[n], float(weight[n])) for n, video in enumerate(column(table, "video_id"))}


def _wanted(spec: DataSpec, labels: Labels) -> set[str] | None:
    wanted = None if spec.keep is None else set(spec.keep)
    if spec.sources:
        return wanted
    labelled = {video for video, (_, weight) in labels.items() if weight > 0}
    return labelled if wanted is None else wanted & labelled


def _shards(sides: Sequence[Artefact], wanted: set[str] | None) -> list[_Shard]:
    everywhere = [shard for shard in sides[0].shard_ids if all(shard in side.shard_ids for side in sides)]
    shards = [_shard(shard_id, sides, wanted) for shard_id in everywhere]
    return [shard for shard in shards if len(shard.clips)]


def _shard(shard_id: str, sides: Sequence[Artefact], wanted: set[str] | None) -> _Shard:
    keys = [_columns(side, shard_id, ["clip_id", "view_id"]) for side in sides]
    rows = common_rows([(clips, views) for clips, views in keys])
    clips, views = (values[rows[0]] for values in keys[0])
    videos = _columns(sides[0], shard_id, ["video_id"])[0][rows[0]]
    kept = np.flatnonzero([wanted is None or video in wanted for video in videos])
    return _Shard(shard_id, [side[kept] for side in rows], clips[kept], views[kept], videos[kept])


def _columns(side: Artefact, shard_id: str, names: Sequence[str]) -> list[np.ndarray]:
    table = side.shard(shard_id, names)
    return [column(table, name) for name in names]


def _label_rows(shards: Sequence[_Shard], labels: Labels, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """q (N,C) and weight (N,) per clip; zeros where the video is unlabelled."""
    of_clip = {clip: video for shard in shards for clip, video in zip(shard.clips, shard.videos, strict=True)}
    nothing = (np.zeros(classes, np.float32), 0.0)
    found = [labels.get(video, nothing) for video in of_clip.values()]
    return np.stack([q for q, _ in found]), np.array([weight for _, weight in found], np.float32)


def _stack(artefact: Artefact, shards: Sequence[_Shard], side: int, name: str) -> np.ndarray:
    """One column over all shards, filled shard by shard: the peak is the result and one shard."""
    ends = np.cumsum([len(shard.clips) for shard in shards])
    out = np.empty(0)
    for shard, end in zip(shards, ends, strict=True):
        values = column(artefact.shard(shard.shard_id, [name]), name)[shard.rows[side]]
        if not out.size:
            out = np.empty((ends[-1], *values.shape[1:]), values.dtype)
        if values.shape[1:] != out.shape[1:]:
            raise InputError(f"{name} of {shard.shard_id}: shape {values.shape[1:]}, before it {out.shape[1:]}")
        out[end - len(values) : end] = values
    return out


def _source(side: int, spec: SourceSpec, artefact: Artefact, shards: Sequence[_Shard]) -> SourceArrays:
    first = artefact.shard(shards[0].shard_id)
    names = first.column_names
    logits: Logits
    if "topk_index" in names:
        logits = _topk(side, spec, artefact, shards, first.schema)
    else:
        logits = _stack(artefact, shards, side, "logits")
        if spec.class_index is not None:
            logits = np.ascontiguousarray(logits[:, list(spec.class_index)])
    substages = sum(name.startswith("substage_") for name in names)
    features = [_stack(artefact, shards, side, f"substage_{n}") for n in range(1, substages + 1)]
    return SourceArrays(logits, features, read_statistics(spec.statistics) if spec.statistics else None)


def _topk(side: int, spec: SourceSpec, artefact: Artefact, shards: Sequence[_Shard], schema: pa.Schema) -> TopKRows:
    """Kept logits under the manifest's class numbers. InputError where the manifest has a part of the teacher's classes
    only: mean, s.d. and tail are of all of them."""
    temperatures = tuple((declaration(schema) or {})["temperatures"])
    index, logit, mean, sd = (
        _stack(artefact, shards, side, name) for name in ("topk_index", "topk_logit", "logit_mean", "logit_sd")
    )
    tail = _stack(artefact, shards, side, "tail_lse") if temperatures else np.empty((len(index), 2, 0), np.float32)
    classes = int(_stack(artefact, shards, side, "logit_count")[0])
    if spec.class_index is not None:
        if sorted(spec.class_index) != list(range(classes)):
            raise InputError(
                f"{spec.targets}: top-k targets of {classes} classes cannot be cut to the manifest's "
                f"{len(spec.class_index)}: store them without precompute.codec.top_k"
            )
        ours = np.argsort(np.asarray(spec.class_index))  # the teacher's class number → the manifest's
        index = ours[index.astype(np.int64)].astype(index.dtype)
    return TopKRows(index, logit, mean, sd, tail, temperatures, classes)


def read_statistics(folder: str | Path) -> Statistics:
    """Per substage (mean (C_l,), s.d. (C_l,)), float64, from a committed `statistics` artefact."""
    table = open_dataset(folder).table()
    substage, channel, mean, sd = (column(table, name) for name in ("substage", "channel", "mean", "sd"))
    order = np.lexsort((channel, substage))
    parts = [order[substage[order] == n] for n in np.unique(substage)]
    return [(mean[part], sd[part]) for part in parts]
