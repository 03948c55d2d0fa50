"""The end of the precompute graph, in the driver: buffers micro-batches by shard and commits each whole shard once.

Frames commit before targets. A video of which any slot failed goes to quarantine whole. Doubled micro-batches (a Ray
task that ran twice) are dropped; only what the marker names exists. Nothing of a committed shard stays in memory but
its number.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt, read_marker, read_object, write_table
from pipeline.artifacts.files import remove
from pipeline.artifacts.schemas import QUARANTINE
from pipeline.errors import JobError
from pipeline.targets.codec import Codec, table
from pipeline.targets.share import BadShare

Row = Mapping[str, Any]
Slot = dict[str, Any]


@dataclass(frozen=True)
class TeacherTargets:
    """Where one teacher's targets go and how; its number is its place in the list, `t0.…`, `t1.…` in the rows."""

    folder: Path
    codec: Codec
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Open:
    """A shard of which some micro-batches are there; `videos`: whether each that was seen can be decoded."""

    rows: dict[int, Row] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """What was committed: for progress and the summary. `quarantined`: reason by video_id."""

    shards: int = 0
    videos: int = 0
    views: int = 0
    frames_bytes: int = 0
    targets_bytes: int = 0
    halved: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)


@dataclass
class ShardCommitter:
    """Commits the shards of one plan.

    `parts`: number of micro-batches per open shard. `frames`: where frames are cached, None where they are not.
    `known(shard_id)`: the folder and marker whose quarantine holds already for a shard, if there is one: what was
    quarantined stays so. `check` is called before each commit (the lease), `share` judges freshly decoded videos.
    """

    parts: dict[str, int]
    frames: Path | None
    teachers: tuple[TeacherTargets, ...]
    check: Callable[[], None]
    known: Callable[[str], tuple[Path, Marker] | None] = lambda shard_id: None
    facts: Mapping[str, Any] = field(default_factory=dict)
    uri_of: Callable[[str], str] = lambda uri: uri
    share: BadShare = field(default_factory=lambda: BadShare(1.0))
    tally: Tally = field(default_factory=Tally)
    _committed: set[str] = field(default_factory=set)
    _open: dict[str, _Open] = field(default_factory=dict)

    def add(self, row: Row) -> str | None:
        """Take one finished micro-batch; returns the shard's id if this one completed it.

        JobError where too many videos are bad, a value is not finite, or the lease is lost.
        """
        shard_id = str(row["shard_id"])
        if shard_id in self._committed:
            return None
        found = self._open.setdefault(shard_id, _Open())
        if int(row["micro_batch"]) in found.rows:
            return None
        found.rows[int(row["micro_batch"])] = row
        self._judge(found, json.loads(row["slots"]))
        if len(found.rows) < self.parts[shard_id]:
            return None
        self._commit(shard_id, [found.rows[number] for number in sorted(found.rows)])
        self._committed.add(shard_id)
        del self._open[shard_id], self.parts[shard_id]
        return shard_id

    @property
    def open_shards(self) -> int:
        return len(self._open)

    def _judge(self, found: _Open, slots: list[Slot]) -> None:
        """Each video counts once, when it is first seen; one that was read back was judged when it was decoded."""
        for slot in slots:
            video = slot["video_id"]
            if video not in found.videos and not slot.get("buried"):
                found.videos[video] = reason = slot["error"]["reason"] if "error" in slot else ""
                if not slot.get("absent"):
                    self.share.note(self.uri_of(str(slot.get("uri", video))), str(reason))

    def _commit(self, shard_id: str, rows: list[Row]) -> None:
        slots = [json.loads(row["slots"]) for row in rows]
        earlier = self.known(shard_id)
        bad = self._quarantine(earlier, [slot for batch in slots for slot in batch if "error" in slot])
        if self.frames is not None and (earlier is None or earlier[0] != self.frames):
            self._commit_frames(shard_id, rows, bad)
        for number in json.loads(rows[0]["teachers"]):
            self._commit_targets(shard_id, number, rows, slots, bad)
        self._count(slots, bad, fresh=earlier is None)

    def _quarantine(self, earlier: tuple[Path, Marker] | None, failed: list[Slot]) -> pa.Table:
        before = QUARANTINE.empty_table()
        if earlier is not None and earlier[1].quarantine is not None:
            before = read_object(earlier[0], earlier[1].quarantine)
        known = set(before.column("video_id").to_pylist())
        by_video = {slot["video_id"]: slot for slot in failed if slot["video_id"] not in known}
        rows = [_quarantine_row(by_video[name], self.uri_of) for name in sorted(by_video)]
        return pa.concat_tables([before, pa.Table.from_pylist(rows, schema=QUARANTINE)]) if rows else before

    def _commit_frames(self, shard_id: str, rows: list[Row], bad: pa.Table) -> None:
        assert self.frames is not None
        parts = tuple(DataObject(**json.loads(row["part"])) for row in rows)
        facts = {**self.facts, "seconds": round(sum(row["decode_s"] for row in rows), 3)}
        if not self._mark(self.frames, shard_id, parts, bad, facts):
            self._accept(shard_id, bad)

    def _accept(self, shard_id: str, bad: pa.Table) -> None:
        """Somebody committed these frames first: theirs count. Targets follow only where the same videos are lost."""
        assert self.frames is not None
        theirs = read_marker(self.frames, shard_id)
        assert theirs is not None, f"{shard_id} is committed and is not"
        there = QUARANTINE.empty_table() if theirs.quarantine is None else read_object(self.frames, theirs.quarantine)
        if set(there.column("video_id").to_pylist()) != set(bad.column("video_id").to_pylist()):
            raise JobError(
                f"{self.frames}: another process committed {shard_id} with other videos in quarantine; the same "
                "command goes on from there"
            )

    def _commit_targets(
        self, shard_id: str, number: int, rows: list[Row], slots: list[list[Slot]], bad: pa.Table
    ) -> None:
        teacher = self.teachers[number]
        picks = _good(slots, set(bad.column("video_id").to_pylist()))
        kept = [batch[place] for batch, good in zip(slots, picks, strict=True) for place in good]
        start, batch = f"t{number}.", f"t{number}.batch"
        names = [name for name in rows[0] if name.startswith(start) and name != batch]
        packed = {name.removeprefix(start): _gather(rows, picks, name) for name in names}
        name = f"{shard_id}.{new_attempt()}.parquet"
        coded = table(packed, kept, teacher.codec)
        written = write_table(teacher.folder, name, coded, byte_stream_split=teacher.codec.byte_stream_split)
        facts = {**self.facts, **teacher.facts, **self._forward(rows, batch), **_made_by(rows, number)}
        self._mark(teacher.folder, shard_id, (written,), bad, facts)

    def _forward(self, rows: list[Row], name: str) -> dict[str, Any]:
        """How the teacher ran, for the marker: seconds, and clips per forward where memory made it fewer."""
        facts: dict[str, Any] = {"seconds": round(sum(row["teacher_s"] for row in rows), 3)}
        smallest = min(int(row[name]) for row in rows)
        if smallest < self.facts.get("micro_batch", smallest):
            self.tally.halved += 1
            facts["forward"] = smallest
        facts["runtime"] = [json.loads(each) for each in sorted({row["runtime"] for row in rows if "runtime" in row})]
        return facts

    def _mark(
        self, folder: Path, shard_id: str, objects: tuple[DataObject, ...], bad: pa.Table, facts: Mapping[str, Any]
    ) -> bool:
        """False where somebody was first: then ours are removed, and nobody ever saw them."""
        attempt = new_attempt()
        quarantine = write_table(folder, f"{shard_id}.quarantine.{attempt}.parquet", bad)
        self.check()
        won = commit(folder, Marker(shard_id, attempt, objects, quarantine, dict(facts)))
        if won:
            written = sum(obj.size for obj in (*objects, quarantine))
            self.tally.frames_bytes += written if folder == self.frames else 0
            self.tally.targets_bytes += written if folder != self.frames else 0
        else:
            theirs = read_marker(folder, shard_id)
            named = set() if theirs is None else {obj.name for obj in theirs.objects}
            for obj in (*objects, quarantine):
                if obj.name not in named:
                    remove(folder / obj.name)
        return won

    def _count(self, slots: list[list[Slot]], bad: pa.Table, *, fresh: bool) -> None:
        lost = set(bad.column("video_id").to_pylist())
        views = [slot["video_id"] for batch in slots for slot in batch if not slot.get("buried")]
        self.tally.shards += 1
        self.tally.videos += len(set(views))
        self.tally.views += sum(video not in lost for video in views)
        if fresh:
            reasons = bad.column("reason").to_pylist()
            self.tally.quarantined |= dict(zip(bad.column("video_id").to_pylist(), reasons, strict=True))


def _good(slots: list[list[Slot]], lost: set[str]) -> list[list[int]]:
    """Places of the slots to keep, per micro-batch: those with frames, that is with a clip, of videos not lost."""
    return [[i for i, s in enumerate(batch) if "clip_id" in s and s["video_id"] not in lost] for batch in slots]


def _made_by(rows: list[Row], number: int) -> dict[str, Any]:
    """For verify: the digest of the network that answered, and the hardware and torch that it ran on."""
    digests = {json.loads(row["digests"])[str(number)] for row in rows if "digests" in row}
    kinds = sorted({row["runtime"] for row in rows if "runtime" in row})
    return {"teacher": sorted(digests), "runtime": [json.loads(kind) for kind in kinds]} if digests else {}


def _gather(rows: list[Row], picks: list[list[int]], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(row[name])[good] for row, good in zip(rows, picks, strict=True)])


def _quarantine_row(slot: Slot, uri_of: Callable[[str], str]) -> dict[str, Any]:
    error = slot["error"]
    return {"video_id": slot["video_id"], "uri": uri_of(slot["uri"]), "step": "decode"} | {
        name: error[name] for name in ("reason", "message", "reader", "reader_version", "attempts")
    }
