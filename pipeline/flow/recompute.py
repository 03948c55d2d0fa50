"""One micro-batch made anew as it was made first, and compared with what is stored of it."""

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.commit import Marker, read_marker, read_object
from pipeline.artifacts.schemas import REPLAY, column
from pipeline.flow.build import frames_job
from pipeline.flow.context import Context
from pipeline.flow.stored import Stored
from pipeline.flow.teacher_stage import build_labeler, runtime
from pipeline.targets import verify as check
from pipeline.targets.codec import pack
from pipeline.targets.verify import Finding, Key
from pipeline.video.micro_batch import FramesStage, frames_table, has_frames, replay_rows

Slot = dict[str, Any]


class Recomputer:
    """Holds decode children and the teacher of one targets artefact. A context manager; `checked` counts."""

    def __init__(self, context: Context, stored: Stored) -> None:
        job = frames_job(context.recipe, {stored.plan: stored.frames}, keep_pixels=True)
        self.stored, self.quality = stored, job.jpeg_quality if job.cache == "jpeg" else None
        self._job = replace(job, cache="none")
        self._stages: dict[str, FramesStage] = {}
        self.labeler = build_labeler(stored.job)
        self.runtime = runtime([stored.job], [self.labeler])
        self.checked: Counter[str] = Counter()
        self._shard = functools.lru_cache(maxsize=1)(self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stage in self._stages.values():
            stage.close()

    def compare(self, shard: str, number: int) -> list[Finding]:
        """What differs in a micro-batch: pixels of the cache, drawing and values of each stored view."""
        marker, rows, values = self._shard(shard)
        buried = self._buried(shard, rows, quarantined(self.stored.folder, marker))
        planned = self._planned(shard, number)
        readers = {row["video_id"]: row["reader"] for row in rows}
        slots, frames = self._decode(shard, number, planned, buried, readers)
        packed = pack(outputs := self.labeler(frames), self.stored.codec)
        exact = "forward" not in marker.facts and marker.facts.get("runtime") == [self.runtime]
        exact = exact and self.stored.device == self.stored.fields["device"]
        at = {(row["clip_id"], int(row["view_id"])): n for n, row in enumerate(rows)}
        found = list(self._pixels(shard, number, slots, frames))
        for place, key in enumerate(_keys(planned)):
            if key not in at:
                continue
            found += self._view(shard, key, rows[at[key]], slots[place])
            said = (
                check.same_bits(values, packed, at[key], place)
                if exact
                else check.close_values(values, outputs, at[key], place)
            )
            if said and "error" not in slots[place]:
                whose = check.whose(packed, values, at[key]) if exact else None
                found.append(Finding(self.stored.name(shard), _words(said, whose, planned, exact), *key))
            self.checked["views recomputed"] += 1
            self.checked["compared bit for bit" if exact else "compared within tolerance"] += 1
        return found

    def _read(self, shard: str) -> tuple[Marker, list[Slot], dict[str, np.ndarray]]:
        marker = read_marker(self.stored.folder, shard)
        assert marker is not None, shard
        table = pa.concat_tables([read_object(self.stored.folder, obj) for obj in marker.objects])
        values = {name: column(table, name) for name in table.column_names if name not in REPLAY}
        return marker, replay_rows(table), values

    def _planned(self, shard: str, number: int) -> pa.Table:
        planned = self.stored.planned.shards[shard]
        return planned.filter(pc.equal(planned.column("micro_batch"), number))

    def _buried(self, shard: str, rows: list[Slot], lost: set[str]) -> set[str]:
        """Videos that were buried before the shard was made: their slots were empty."""
        buried = {video for video, where in self.stored.planned.tombstones if where == shard}
        return buried - lost - {row["video_id"] for row in rows}

    def _decode(
        self, shard: str, number: int, planned: pa.Table, buried: set[str], readers: dict[str, str]
    ) -> tuple[list[Slot], np.ndarray]:
        """The planned views, each by the reader that its video's rows name; two readers may differ in the last digit of
        a time, and which one answered depends on deadlines and crashes. By the recipe's where no row is left."""
        videos = planned.column("video_id").to_pylist()
        uris = ["" if video in buried else self.stored.paths.get(video, video) for video in videos]
        chosen = [readers.get(video, "") for video in videos]
        row = {"plan": self.stored.plan, "shard_id": shard, "micro_batch": number, "video_ids": videos, "part": ""}
        row |= {name: planned.column(name[:-1]).to_pylist() for name in ("clip_ids", "view_ids")}
        slots, frames = [Slot() for _ in videos], np.empty(0)
        for reader in dict.fromkeys(chosen):
            theirs = [place for place, name in enumerate(chosen) if name == reader]
            asked = [uri if name == reader else "" for uri, name in zip(uris, chosen, strict=True)]
            done = self._stage(reader)({**row, "uris": asked})
            frames = frames if frames.size else np.zeros_like(done["frames"])
            frames[theirs] = done["frames"][theirs]
            for place, slot in enumerate(json.loads(done["slots"])):
                slots[place] = slot if chosen[place] == reader else slots[place]
        good = [place for place, slot in enumerate(slots) if has_frames(slot)]
        if self.quality is not None and good:  # what the teacher saw are the decoded JPEGs
            frames[good] = column(frames_table([slots[n] for n in good], frames[good], self.quality), "frames")
        return slots, frames

    def _stage(self, reader: str) -> FramesStage:
        """Decodes with `reader` alone, or as the recipe says where it is empty."""
        if reader not in self._stages:
            self._stages[reader] = FramesStage(replace(self._job, reader=reader, alone=True) if reader else self._job)
        return self._stages[reader]

    def _pixels(self, shard: str, number: int, slots: list[Slot], frames: np.ndarray) -> Iterator[Finding]:
        marker = read_marker(self.stored.frames, shard)
        parts = [obj for obj in marker.objects if f".part-{number:05d}." in obj.name] if marker else []
        for obj in parts:
            table = read_object(self.stored.frames, obj)
            cached = column(table, "frames")
            at = {key: place for place, key in enumerate(_keys(table))}
            for place, slot in enumerate(slots):
                key = (slot.get("clip_id", ""), int(slot.get("view_id", -1)))
                if key in at and not np.array_equal(cached[at[key]], frames[place]):
                    yield Finding(self.stored.name(shard), "the cached frames are not those of the video", *key)
            self.checked["cached views decoded anew"] += table.num_rows

    def _view(self, shard: str, key: Key, stored: Slot, slot: Slot) -> Iterator[Finding]:
        name = self.stored.name(shard)
        if "error" in slot:
            error = slot["error"]
            yield Finding(name, f"stored, and cannot be decoded now ({error['reason']}: {error['message']})", *key)
        else:
            yield from check.check_drawing(name, stored, slot)


def quarantined(folder: Path, marker: Marker) -> set[str]:
    """The videos in the quarantine of a shard."""
    if marker.quarantine is None or not marker.quarantine.rows:
        return set()
    return set(read_object(folder, marker.quarantine, ["video_id"]).column("video_id").to_pylist())


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table.column("clip_id").to_pylist(), map(int, table.column("view_id").to_pylist()), strict=True))


def _words(said: list[str], whose: int | None, planned: pa.Table, exact: bool) -> str:
    if not exact:
        return f"not what the teacher says of it: {'; '.join(said)}"
    text = f"not what the teacher says of it ({', '.join(said)} differ)"
    if whose is None or whose >= planned.num_rows:
        return text
    clip, view = _keys(planned)[whose]
    return f"{text}: these are the values of clip {clip!r}, view {view}"
