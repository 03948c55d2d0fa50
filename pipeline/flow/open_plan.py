"""One plan with what is still to do, and its open micro-batches as rows of the graph; without torch and Ray.

A plan of millions of views stays small here: names of committed shards come from a listing, and the rows of a shard are
read when the shard is issued.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.commit import Marker, read_marker
from pipeline.artifacts.files import listing
from pipeline.flow.plans import PlanView

ROWS = pa.schema(
    [
        ("plan", pa.string()),
        ("shard_id", pa.string()),
        ("micro_batch", pa.int32()),
        ("video_ids", pa.list_(pa.string())),
        ("uris", pa.list_(pa.string())),
        ("clip_ids", pa.list_(pa.string())),
        ("view_ids", pa.list_(pa.int32())),
        ("part", pa.string()),
        ("teachers", pa.string()),
    ]
)


@dataclass
class OpenPlan:
    """`frames`: the folder of the rasters, `cached`: whether they are to be stored there; `targets`: one folder per
    teacher. `frames_done`, `done`: shards that are committed; `todo`: those that lack something, in order."""

    name: str
    view: PlanView
    frames: Path
    cached: bool
    targets: tuple[Path, ...]
    frames_done: frozenset[str] = field(init=False)
    done: tuple[frozenset[str], ...] = field(init=False)
    todo: tuple[str, ...] = field(init=False)
    _buried: dict[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.frames_done = committed_shards(self.frames)
        self.done = tuple(committed_shards(folder) for folder in self.targets)
        self._buried = _by_shard(self.view.tombstones)
        lacking = (shard for shard in self.view.shards if self._lacks(shard))
        self.todo = tuple(shard for shard in lacking if shard not in self._buried or self.table(shard).num_rows)

    def _lacks(self, shard: str) -> bool:
        return (self.cached and shard not in self.frames_done) or any(shard not in done for done in self.done)

    @property
    def open_views(self) -> int:
        """Views of what is to do, buried ones included."""
        return sum(self.view.shards.views(shard) for shard in self.todo)

    @property
    def undecoded_views(self) -> int:
        """Of them those whose frames are not cached; the others are read back."""
        return sum(self.view.shards.views(shard) for shard in self.todo if shard not in self.frames_done)

    def unlabelled_views(self, number: int) -> int:
        """Of them those which one teacher has not labelled."""
        return sum(self.view.shards.views(shard) for shard in self.todo if shard not in self.done[number])

    def teachers(self, shard: str) -> list[int]:
        """Numbers of the teachers whose targets the shard lacks."""
        return [number for number, done in enumerate(self.done) if shard not in done]

    def buried(self, shard: str) -> frozenset[str]:
        """Videos of a shard that were removed or replaced since it was planned."""
        return self._buried.get(shard, frozenset())

    def table(self, shard: str) -> pa.Table:
        """The planned rows of a shard without videos that were buried since."""
        table = self.view.shards[shard]
        return table.filter(pc.invert(_is_in(table, self.buried(shard)))) if self.buried(shard) else table

    def known(self, shard: str) -> tuple[Path, Marker] | None:
        """The folder and marker in which the shard's quarantine stands already, if it does."""
        for folder, done in zip((self.frames, *self.targets), (self.frames_done, *self.done), strict=True):
            marker = read_marker(folder, shard) if shard in done else None
            if marker is not None:
                return folder, marker
        return None

    def some_paths(self, count: int) -> list[str]:
        """Up to so many videos of what is to do, from all over the plan."""
        if not self.todo:
            return []
        shards = self.todo[:: max(1, len(self.todo) // count)][:count]
        each = -(-count // len(shards))
        found = (dict.fromkeys(self.table(shard).column("video_id").to_pylist()) for shard in shards)
        some = [video for videos in found for video in list(videos)[:: max(1, len(videos) // each)][:each]]
        return list(self.view.paths(pa.array(some, pa.string())).to_pylist())

    def rows(self) -> Iterator[pa.Table]:
        """A table (schema ROWS) per open shard: one row per micro-batch."""
        for shard in self.todo:
            yield self.shard_rows(shard)

    def shard_rows(self, shard: str) -> pa.Table:
        """`part` names the micro-batch's committed frames, if there are any; `teachers` who still has to label it.

        A buried video keeps its slots, without a uri: what stands in a batch, and so every value that is computed from
        it, depends on the plan alone. Micro-batches of nothing else are left out.
        """
        table = self._living(shard)
        numbers = table.column("micro_batch").to_numpy()
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        offsets = pa.array(np.r_[starts, len(numbers)], pa.int32())

        def lists(values: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, values)

        videos = table.column("video_id").combine_chunks()
        parts, uris = self._parts(shard), self._uris(shard, videos)
        columns: dict[str, Any] = {
            "plan": [self.name] * len(starts),
            "shard_id": [shard] * len(starts),
            "micro_batch": numbers[starts],
            "video_ids": lists(videos),
            "uris": lists(uris),
            "clip_ids": lists(table.column("clip_id").combine_chunks()),
            "view_ids": lists(table.column("view_id").combine_chunks()),
            "part": [parts.get(number, "") for number in numbers[starts].tolist()],
            "teachers": [json.dumps(self.teachers(shard))] * len(starts),
        }
        return pa.table(columns, schema=ROWS)

    def _living(self, shard: str) -> pa.Table:
        """The planned rows of those micro-batches of a shard in which a video is left."""
        table = self.view.shards[shard].combine_chunks()
        if not self.buried(shard):
            return table
        lives = table.filter(pc.invert(_is_in(table, self.buried(shard)))).column("micro_batch")
        return table.filter(pc.is_in(table.column("micro_batch"), pc.unique(lives))).combine_chunks()

    def _uris(self, shard: str, videos: pa.Array) -> pa.Array:
        lives = pc.invert(pc.is_in(videos, pa.array(self.buried(shard), pa.string())))
        return pc.replace_with_mask(pa.array([""] * len(videos)), lives, self.view.paths(videos.filter(lives)))

    def _parts(self, shard: str) -> dict[int, str]:
        """Committed frames by the number of their micro-batch, which stands in the name."""
        marker = read_marker(self.frames, shard) if shard in self.frames_done else None
        if marker is None:
            return {}
        return {int(re.split(r"\.part-(\d+)\.", obj.name)[1]): json.dumps(asdict(obj)) for obj in marker.objects}


def _by_shard(tombstones: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for video, shard in tombstones:
        found.setdefault(shard, set()).add(video)
    return {shard: frozenset(videos) for shard, videos in found.items()}


def _is_in(table: pa.Table, videos: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(table.column("video_id"), pa.array(videos, pa.string()))


def committed_shards(folder: Path) -> frozenset[str]:
    """Names of the shards that are committed: one listing, whatever their number."""
    names = (path.stem for path in listing(folder, "shard-*.json"))
    return frozenset(name for name in names if re.fullmatch(r"shard-\d+", name))
