"""The plan: which views are to be made, append-only, in shards and micro-batches.

Videos not planned yet form new shards; existing shards never change. A removed or changed video becomes a tombstone,
and a changed one is planned again in a new shard. All views of a video lie in one shard, next to each other.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_markers, read_object, shard_name, write_table
from pipeline.artifacts.schemas import PLAN, TOMBSTONES
from pipeline.errors import JobError

Views = Callable[[str], list[tuple[str, int]]]
Buried = tuple[str, str]
REMOVED, CHANGED, RETRIED = "removed", "changed", "retried"
_SHARDS, _TOMBSTONES = "shard-", "tombstones-"


@dataclass(frozen=True)
class Plan:
    """The committed plan: rows per shard in slot order, and tombstones (video_id, shard_id) with their reason."""

    shards: Mapping[str, pa.Table]
    tombstones: Mapping[Buried, str]

    @property
    def views(self) -> int:
        return sum(table.num_rows for table in self.shards.values())


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
    shards = {name: _rows(folder, marker) for name, marker in read_markers(folder, _SHARDS).items()}
    buried: dict[Buried, str] = {}
    for marker in read_markers(folder, _TOMBSTONES).values():
        buried |= {(row["video_id"], row["shard_id"]): row["reason"] for row in _rows(folder, marker).to_pylist()}
    return Plan(shards, buried)


def difference(plan: Plan, sources: Mapping[str, str]) -> tuple[list[str], dict[Buried, str]]:
    """Videos to plan, sorted, and tombstones to set, for the videos that should be planned now.

    `sources`: video_id -> "bytes:etag". A video whose planned source differs is both buried and planned again.
    """
    standing: set[str] = set()
    buried: dict[Buried, str] = {}
    for video_id, shard_id, source in reversed(list(_planned(plan))):
        if sources.get(video_id) == source and video_id not in standing:
            standing.add(video_id)
        else:
            buried[(video_id, shard_id)] = CHANGED if video_id in sources else REMOVED
    return sorted(set(sources) - standing), buried


def extend_plan(
    folder: Path, sources: Mapping[str, str], views: Views, *, shard_views: int, micro_batch: int
) -> PlanChange:
    """Commit new shards and tombstones so that the plan covers `sources`; writes nothing where it does already.

    `views(video_id)` gives the (clip_id, view_id) of a video; a shard is closed once it holds `shard_views` views,
    rounded up to whole videos. Shards are committed before tombstones: a kill in between is mended by the next call.
    """
    plan = read_plan(folder)
    new, buried = difference(plan, sources)
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


def _planned(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(video_id, shard_id, source) of every planned video that is not buried, in shard order."""
    for shard_id, table in plan.shards.items():
        pairs = zip(table.column("video_id").to_pylist(), table.column("source").to_pylist(), strict=True)
        for video_id, source in dict(pairs).items():
            if (video_id, shard_id) not in plan.tombstones:
                yield video_id, shard_id, source


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
    keys = [(video_id, clip_id, view_id) for video_id in videos for clip_id, view_id in views(video_id)]
    columns = {
        "shard_id": [shard_id] * len(keys),
        "micro_batch": [row // micro_batch for row in range(len(keys))],
        "slot": [row % micro_batch for row in range(len(keys))],
        "video_id": [key[0] for key in keys],
        "clip_id": [key[1] for key in keys],
        "view_id": [key[2] for key in keys],
        "source": [sources[key[0]] for key in keys],
    }
    return pa.table(columns, schema=PLAN)


def _commit(folder: Path, name: str, table: pa.Table) -> None:
    attempt = new_attempt()
    written = write_table(folder, f"{name}.{attempt}.parquet", table)
    if not commit(folder, Marker(name, attempt, (written,))):
        raise JobError(f"{folder}: another process extended this plan at the same time; run the same command again")


def _rows(folder: Path, marker: Marker) -> pa.Table:
    return pa.concat_tables([read_object(folder, obj) for obj in marker.objects])
