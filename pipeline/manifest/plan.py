"""The plan: which views are to be made, append-only, in shards and micro-batches.

Videos not planned yet form new shards; existing shards never change. A removed or changed video becomes a tombstone,
and a changed one is planned again in a new shard; so is a quarantined one that is to be tried again. All views of a
video lie in one shard, next to each other.

A plan of ten million views stays small here: a shard's rows are read when somebody asks for them, and what is compared
with the manifest are columns of Arrow, one entry per video.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_markers, read_object, shard_name, write_table
from pipeline.artifacts.schemas import PLAN, TOMBSTONES
from pipeline.errors import JobError

Views = Callable[[str], list[tuple[str, int]]]
Buried = tuple[str, str]
REMOVED, CHANGED, RETRIED = "removed", "changed", "retried"
_SHARDS, _TOMBSTONES = "shard-", "tombstones-"
_READERS = 8  # threads: a shared file system answers slowly, not seldom


@dataclass(frozen=True)
class Shards(Mapping[str, pa.Table]):
    """Rows per shard in slot order, read when asked for."""

    folder: Path
    markers: Mapping[str, Marker]

    def __getitem__(self, shard_id: str) -> pa.Table:
        return _rows(self.folder, self.markers[shard_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.markers)

    def __len__(self) -> int:
        return len(self.markers)

    def __contains__(self, shard_id: object) -> bool:
        return shard_id in self.markers

    def views(self, shard_id: str) -> int:
        """How many views a shard holds, without reading it."""
        return self.markers[shard_id].rows

    def columns(self, names: list[str]) -> Iterator[pa.Table]:
        """These columns of all shards in order; several files are read at the same time."""
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(lambda marker: _rows(self.folder, marker, names), self.markers.values())


@dataclass(frozen=True)
class Plan:
    """The committed plan, and tombstones (video_id, shard_id) with their reason."""

    shards: Shards
    tombstones: Mapping[Buried, str]

    @property
    def views(self) -> int:
        return sum(marker.rows for marker in self.shards.markers.values())

    @cached_property
    def planned(self) -> "Planned":
        """Every planned video that is not buried, in shard order."""
        return _planned(self)


@dataclass(frozen=True)
class Planned:
    """Columns with one entry per planned video: its id, the file's state as planned, its shard (of `shards`)."""

    videos: pa.Array
    sources: pa.Array
    places: np.ndarray
    shards: tuple[str, ...]

    def key(self, row: int) -> Buried:
        return self.videos[row].as_py(), self.shards[self.places[row]]


@dataclass(frozen=True)
class PlanChange:
    """What one extension added."""

    new_shards: tuple[str, ...]
    new_videos: tuple[str, ...]
    tombstones: Mapping[Buried, str]

    @property
    def empty(self) -> bool:
        return not self.new_shards and not self.tombstones


def read_plan(folder: Path) -> Plan:
    """Everything that is committed; an empty plan where nothing is."""
    buried: dict[Buried, str] = {}
    for marker in read_markers(folder, _TOMBSTONES).values():
        buried |= {(row["video_id"], row["shard_id"]): row["reason"] for row in _rows(folder, marker).to_pylist()}
    return Plan(Shards(folder, read_markers(folder, _SHARDS)), buried)


def difference(
    plan: Plan, sources: Mapping[str, str], retry: Collection[Buried] = frozenset()
) -> tuple[list[str], dict[Buried, str]]:
    """Videos to plan, sorted, and tombstones to set, for the videos that should be planned now.

    `sources`: video_id -> "bytes:etag". A video whose planned source differs is both buried and planned again; so is
    one of `retry`, (video_id, shard_id) of what is to be tried anew. Of a video that stands twice the newest remains.
    """
    planned = plan.planned
    wanted = pa.array(sources.keys(), pa.string())
    at = pc.index_in(planned.videos, wanted).fill_null(-1).to_numpy(zero_copy_only=False)
    again = _again(planned, retry)
    stands = (at >= 0) & ~again
    stands[stands] = _equal(pa.array(sources.values(), pa.string()).take(at[stands]), planned.sources.filter(stands))
    newest = np.full(len(wanted), -1, np.int64)
    np.maximum.at(newest, at[stands], np.flatnonzero(stands))
    kept = np.zeros(len(at), bool)
    kept[newest[newest >= 0]] = True
    buried = {planned.key(row): _reason(at[row], again[row]) for row in np.flatnonzero(~kept)[::-1].tolist()}
    return sorted(wanted.filter(newest < 0).to_pylist()), buried


def extend_plan(
    folder: Path,
    sources: Mapping[str, str],
    views: Views,
    *,
    shard_views: int,
    micro_batch: int,
    retry: Collection[Buried] = frozenset(),
) -> PlanChange:
    """Commit new shards and tombstones so that the plan covers `sources`; writes nothing where it does already.

    `views(video_id)` gives the (clip_id, view_id) of a video; a shard is closed once it holds `shard_views` views,
    rounded up to whole videos. `retry` as in `difference`. Shards are committed before tombstones: a kill in between is
    mended by the next call.
    """
    plan = read_plan(folder)
    new, buried = difference(plan, sources, retry)
    first = max((int(name.rpartition("-")[2]) for name in plan.shards), default=-1) + 1
    names = []
    for number, videos in enumerate(_shards(new, views, shard_views), start=first):
        names.append(shard_name(number))
        _commit(folder, names[-1], _table(names[-1], videos, views, sources, micro_batch))
    if buried:
        rows = [{"video_id": v, "shard_id": s, "reason": reason} for (v, s), reason in sorted(buried.items())]
        count = len(read_markers(folder, _TOMBSTONES))
        _commit(folder, f"{_TOMBSTONES}{count:08d}", pa.Table.from_pylist(rows, schema=TOMBSTONES))
    return PlanChange(tuple(names), tuple(new), buried)


def _planned(plan: Plan) -> Planned:
    """All views of a video lie next to each other: a video is where its id differs from that of the row before."""
    gone: dict[str, list[str]] = {}
    for video_id, shard_id in plan.tombstones:
        gone.setdefault(shard_id, []).append(video_id)
    names, parts = tuple(plan.shards), []
    for shard_id, table in zip(names, plan.shards.columns(["video_id", "source"]), strict=True):
        first = _first_of_runs(table.column("video_id").combine_chunks())
        parts.append(_without(table.filter(first), gone.get(shard_id, [])))
    empty = PLAN.empty_table().select(["video_id", "source"])
    whole = pa.concat_tables([empty, *parts]).combine_chunks()
    places = np.repeat(np.arange(len(parts), dtype=np.int32), [part.num_rows for part in parts])
    return Planned(_one(whole.column("video_id")), _one(whole.column("source")), places, names)


def _first_of_runs(values: pa.Array) -> pa.Array:
    if len(values) < 2:
        return pa.array([True] * len(values), pa.bool_())
    return pa.concat_arrays([pa.array([True]), pc.not_equal(values[1:], values[:-1])])


def _without(table: pa.Table, videos: list[str]) -> pa.Table:
    if not videos:
        return table
    return table.filter(pc.invert(pc.is_in(table.column("video_id"), pa.array(videos, pa.string()))))


def _again(planned: Planned, retry: Collection[Buried]) -> np.ndarray:
    """Which planned videos are among `retry`."""
    again = np.zeros(len(planned.videos), bool)
    if retry:
        wanted = set(retry)
        videos = pa.array({video_id for video_id, _ in wanted}, pa.string())
        near = np.flatnonzero(pc.is_in(planned.videos, videos).to_numpy(zero_copy_only=False))
        again[[row for row in near.tolist() if planned.key(row) in wanted]] = True
    return again


def _equal(left: pa.Array, right: pa.Array) -> np.ndarray:
    return pc.equal(left, right).to_numpy(zero_copy_only=False)


def _reason(place: int, again: bool) -> str:
    if place < 0:
        return REMOVED
    return RETRIED if again else CHANGED


def _one(values: pa.ChunkedArray) -> pa.Array:
    found = values.combine_chunks()
    assert isinstance(found, pa.Array), "more than 2 GiB of names"
    return found


def _shards(videos: list[str], views: Views, shard_views: int) -> Iterator[list[str]]:
    held: list[str] = []
    count = 0
    for video_id in videos:
        held.append(video_id)
        count += len(views(video_id))
        if count >= shard_views:
            yield held
            held, count = [], 0
    if held:
        yield held


def _table(shard_id: str, videos: list[str], views: Views, sources: Mapping[str, str], micro_batch: int) -> pa.Table:
    wanted = {video_id: views(video_id) for video_id in videos}
    keys = [(video_id, clip_id, view_id) for video_id, found in wanted.items() for clip_id, view_id in found]
    places = _places([len(found) for found in wanted.values()], micro_batch)
    columns = {
        "shard_id": [shard_id] * len(keys),
        "micro_batch": [number for number, _ in places],
        "slot": [slot for _, slot in places],
        "video_id": [key[0] for key in keys],
        "clip_id": [key[1] for key in keys],
        "view_id": [key[2] for key in keys],
        "source": [sources[key[0]] for key in keys],
    }
    return pa.table(columns, schema=PLAN)


def _places(views: list[int], micro_batch: int) -> list[tuple[int, int]]:
    """(micro-batch, slot) of every view, for videos of so many views each.

    A video begins in a new micro-batch where it would reach into one more than it fills: each one decodes it anew.
    """
    found: list[tuple[int, int]] = []
    number = slot = 0
    for count in views:
        if -(-(slot + count) // micro_batch) > -(-count // micro_batch):
            number, slot = number + 1, 0
        for _ in range(count):
            if slot == micro_batch:
                number, slot = number + 1, 0
            found.append((number, slot))
            slot += 1
    return found


def _commit(folder: Path, name: str, table: pa.Table) -> None:
    attempt = new_attempt()
    written = write_table(folder, f"{name}.{attempt}.parquet", table)
    if not commit(folder, Marker(name, attempt, (written,))):
        raise JobError(f"{folder}: another process extended this plan at the same time; run the same command again")


def _rows(folder: Path, marker: Marker, columns: list[str] | None = None) -> pa.Table:
    return pa.concat_tables([read_object(folder, obj, columns) for obj in marker.objects])
