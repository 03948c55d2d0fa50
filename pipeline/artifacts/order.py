"""The training order: index arithmetic on keys, a pure function of (seed, epoch), the same for every reader.

    keys per shard ─clip_index─▶ ClipIndex ─rows_of_epoch─▶ one row per clip, in order ─training_order─▶ rows per step

Shards are permuted, then the clips are shuffled within windows of W shards, so that a streaming reader holds W shards
at a time. Each clip appears once per epoch, in view (epoch + int(sha256(clip_id))) mod V. Rank r of N takes the
positions r, r + N, …; the last incomplete global batch of an epoch is dropped. Random numbers are Philox's raw output,
which NumPy promises never to change. Several artefacts of one plan (frames, targets of each teacher) are cut to
`common_rows` first; positions then count in the rows that are left, shard after shard.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.identity import integer
from pipeline.errors import ConfigError, InputError

Keys = tuple[np.ndarray, np.ndarray]  # clip_id (N,) of str and view_id (N,) of int, row by row


@dataclass(frozen=True)
class ClipIndex:
    """Where the views of each clip lie. S shards, n clips in row order; positions count over the rows of all shards."""

    shard_clips: np.ndarray  # (S,) clips per shard
    shard_rows: np.ndarray  # (S,) rows per shard
    first: np.ndarray  # (n,) position of the clip's first view
    views: np.ndarray  # (n,) number of its views, which lie next to each other
    phase: np.ndarray  # (n,) int(sha256(clip_id)) mod views

    @property
    def clips(self) -> int:
        return len(self.first)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ordinal of the shard, row within it) of positions of any shape."""
        ends = np.cumsum(self.shard_rows)
        shard = np.searchsorted(ends, positions, side="right")
        return shard, positions - (ends - self.shard_rows)[shard]


def clip_index(shards: Sequence[Keys]) -> ClipIndex:
    """Index the rows of all shards, in shard order. InputError where the views of a clip do not lie together."""
    parts = [_runs(clip_ids, view_ids) for clip_ids, view_ids in shards]
    rows = np.array([len(clip_ids) for clip_ids, _ in shards], dtype=np.int64)
    offsets = np.cumsum(rows) - rows
    clip_ids = [clip_id for names, _, _ in parts for clip_id in names]
    _refuse_doubles(clip_ids)
    views = _joined([views for _, _, views in parts])
    return ClipIndex(
        shard_clips=np.array([len(names) for names, _, _ in parts], dtype=np.int64),
        shard_rows=rows,
        first=_joined([first + offset for (_, first, _), offset in zip(parts, offsets, strict=True)]),
        views=views,
        phase=np.array([_phase(name, int(count)) for name, count in zip(clip_ids, views, strict=True)], dtype=np.int64),
    )


def chosen_clips(index: ClipIndex, keep: np.ndarray) -> ClipIndex:
    """The same rows with the clips of `keep` (n,) bool alone: positions still count over the rows of all shards."""
    shard = np.repeat(np.arange(len(index.shard_clips)), index.shard_clips)
    return ClipIndex(
        shard_clips=np.bincount(shard[keep], minlength=len(index.shard_clips)),
        shard_rows=index.shard_rows,
        first=index.first[keep],
        views=index.views[keep],
        phase=index.phase[keep],
    )


def common_rows(sides: Sequence[Keys]) -> list[np.ndarray]:
    """Rows of one shard that every side has, one int64 array per side, in the row order of the first side.

    `sides` are the keys of the same shard in several artefacts of one plan (frames, targets, …).
    """
    numbered = [_row_numbers(clip_ids, view_ids) for clip_ids, view_ids in sides]
    kept = [key for key in numbered[0] if all(key in rows for rows in numbered[1:])]
    return [np.array([rows[key] for key in kept], dtype=np.int64) for rows in numbered]


def epoch_order(shard_sizes: Sequence[int], *, seed: int, epoch: int, window: int = 4) -> np.ndarray:
    """A permutation of the positions 0 .. sum(shard_sizes) - 1 (int64): shards permuted, then shuffled within windows.

    The first positions lie in the first `window` permuted shards, and so on. Empty shards change nothing.
    """
    assert window >= 1, window
    sizes = np.asarray([size for size in shard_sizes if size], dtype=np.int64)
    shards = np.argsort(_random(len(sizes), "shards", seed, epoch), kind="stable")
    ordered = sizes[shards]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(ordered) - ordered, ordered)
    positions = np.repeat((np.cumsum(sizes) - sizes)[shards], ordered) + within
    windows = np.repeat(np.arange(len(sizes)) // window, ordered)
    return positions[np.lexsort((_random(len(positions), "clips", seed, epoch), windows))]


def view_of(clip_id: str, epoch: int, views: int) -> int:
    """The view in which an epoch shows a clip: (epoch + int(sha256(clip_id))) mod views."""
    return (epoch + _phase(clip_id, views)) % views


def rows_of_epoch(index: ClipIndex, *, seed: int, epoch: int, window: int = 4) -> np.ndarray:
    """The rows of one epoch, one per clip, in order: (n,) int64 positions over all shards."""
    rows = index.first + (epoch + index.phase) % index.views
    return rows[epoch_order(index.shard_clips.tolist(), seed=seed, epoch=epoch, window=window)]


def steps_per_epoch(clips: int, batch: int) -> int:
    """Full global batches in one epoch. ConfigError where there is not one."""
    if clips < batch:
        raise ConfigError(f"train.batch_size is {batch}, but only {clips} clips are there: an epoch has no full batch")
    return clips // batch


def training_order(
    index: ClipIndex, start: int, stop: int, *, batch_size: int, rank: int, world: int, seed: int, window: int = 4
) -> Iterator[np.ndarray]:
    """Positions of one rank for the global steps start .. stop - 1, (batch_size / world,) each.

    Step s is step s mod k of epoch s // k, k = steps_per_epoch. Nothing before `start` is computed but the order of its
    epoch. ConfigError where `batch_size` (global) is no multiple of `world`.
    """
    if batch_size % world or not 0 <= rank < world:
        raise ConfigError(f"train.batch_size {batch_size} must be a multiple of the {world} workers (rank {rank})")
    steps = steps_per_epoch(index.clips, batch_size)
    for epoch in range(start // steps, -(-stop // steps)):
        rows = rows_of_epoch(index, seed=seed, epoch=epoch, window=window)
        batches = rows[: steps * batch_size].reshape(steps, batch_size)[:, rank::world]
        yield from batches[max(0, start - epoch * steps) : stop - epoch * steps]


def _random(count: int, *parts: str | int) -> np.ndarray:
    return np.random.Philox(key=integer(*parts)).random_raw(count)


def _phase(clip_id: str, views: int) -> int:
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest(), "big") % views


def _runs(clip_ids: np.ndarray, view_ids: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, first rows and lengths of the runs of equal clip ids; views must ascend within a run."""
    starts = np.flatnonzero(np.r_[True, clip_ids[1:] != clip_ids[:-1]][: len(clip_ids)])
    lengths = np.diff(np.r_[starts, len(clip_ids)])
    inner = np.setdiff1d(np.arange(len(clip_ids)), starts)
    falling = inner[view_ids[inner] <= view_ids[inner - 1]] if len(inner) else inner
    if len(falling):
        raise InputError(f"views of clip {clip_ids[falling[0]]!r} are not in ascending order: not a shard of a plan")
    return clip_ids[starts].tolist(), starts.astype(np.int64), lengths.astype(np.int64)


def _refuse_doubles(clip_ids: Sequence[str]) -> None:
    if len(set(clip_ids)) == len(clip_ids):
        return
    double = next(name for name, after in zip(sorted(clip_ids), sorted(clip_ids)[1:], strict=False) if name == after)
    raise InputError(f"clip {double!r} lies in two places: its views must lie next to each other in one shard")


def _row_numbers(clip_ids: np.ndarray, view_ids: np.ndarray) -> dict[tuple[str, int], int]:
    rows = {key: row for row, key in enumerate(zip(clip_ids.tolist(), view_ids.tolist(), strict=True))}
    if len(rows) != len(clip_ids):
        raise InputError(f"a shard holds {len(clip_ids) - len(rows)} keys twice: not a shard of a plan")
    return rows


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
