"""The end of the precompute graph, in the driver: buffers micro-batches by shard and commits each whole shard once.

Frames commit before targets. A video of which any slot failed goes to quarantine whole. Doubled micro-batches (a Ray
task that ran twice) are dropped; only what the marker names exists.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt, read_object, write_table
from pipeline.artifacts.schemas import QUARANTINE
from pipeline.targets.codec import encode


@dataclass
class ShardCommitter:
    """Commits the shards of one plan.

    `parts`: number of micro-batches per open shard. `frames_done`: markers of shards whose frames stand already.
    `targets` None commits frames only. `check` is called before each commit (the lease).
    """

    parts: Mapping[str, int]
    frames: Path
    frames_done: Mapping[str, Marker]
    targets: Path | None
    dtype: str
    byte_stream_split: bool
    facts: Mapping[str, Any]
    check: Callable[[], None]
    uri_of: Callable[[str], str] = lambda uri: uri
    quarantined: dict[str, str] = field(default_factory=dict)
    committed: list[str] = field(default_factory=list)
    _open: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> str | None:
        """Take one finished micro-batch; returns the shard's id if this one completed it."""
        shard_id = str(row["shard_id"])
        if shard_id in self.committed:
            return None
        rows = self._open.setdefault(shard_id, {})
        rows.setdefault(int(row["micro_batch"]), row)
        if len(rows) < self.parts[shard_id]:
            return None
        self._commit(shard_id, [rows[number] for number in sorted(rows)])
        self.committed.append(shard_id)
        del self._open[shard_id]
        return shard_id

    @property
    def open_shards(self) -> int:
        return len(self._open)

    def _commit(self, shard_id: str, rows: list[Mapping[str, Any]]) -> None:
        slots = [json.loads(row["slots"]) for row in rows]
        bad = self._quarantine(shard_id, [slot for batch in slots for slot in batch if "error" in slot])
        self.quarantined |= {str(row["video_id"]): str(row["reason"]) for row in bad.to_pylist()}
        if shard_id not in self.frames_done:
            self._commit_frames(shard_id, rows, bad)
        if self.targets is not None:
            self._commit_targets(shard_id, rows, slots, bad)

    def _quarantine(self, shard_id: str, failed: list[dict[str, Any]]) -> pa.Table:
        if shard_id in self.frames_done:
            known = self.frames_done[shard_id].quarantine
            return QUARANTINE.empty_table() if known is None else read_object(self.frames, known)
        by_video = {slot["video_id"]: slot for slot in failed}
        rows = [_quarantine_row(by_video[name], self.uri_of) for name in sorted(by_video)]
        return pa.Table.from_pylist(rows, schema=QUARANTINE)

    def _commit_frames(self, shard_id: str, rows: list[Mapping[str, Any]], bad: pa.Table) -> None:
        parts = tuple(DataObject(**json.loads(row["part"])) for row in rows)
        self._mark(self.frames, shard_id, parts, bad)

    def _commit_targets(
        self, shard_id: str, rows: list[Mapping[str, Any]], slots: list[list[dict[str, Any]]], bad: pa.Table
    ) -> None:
        assert self.targets is not None
        lost = set(bad.column("video_id").to_pylist())
        kept, picks = [], []
        for batch in slots:
            good = [i for i, slot in enumerate(batch) if "error" not in slot and slot["video_id"] not in lost]
            picks.append(good)
            kept += [batch[i] for i in good]
        outputs = {
            name: _gather(rows, picks, name) for name in rows[0] if name == "logits" or name.startswith("substage_")
        }
        table = encode(outputs, kept, dtype=self.dtype)
        name = f"{shard_id}.{new_attempt()}.parquet"
        written = write_table(self.targets, name, table, byte_stream_split=self.byte_stream_split)
        self._mark(self.targets, shard_id, (written,), bad)

    def _mark(self, folder: Path, shard_id: str, objects: tuple[DataObject, ...], bad: pa.Table) -> None:
        attempt = new_attempt()
        quarantine = write_table(folder, f"{shard_id}.quarantine.{attempt}.parquet", bad)
        self.check()
        commit(folder, Marker(shard_id, attempt, objects, quarantine, dict(self.facts)))


def _gather(rows: list[Mapping[str, Any]], picks: list[list[int]], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(row[name])[good] for row, good in zip(rows, picks, strict=True)])


def _quarantine_row(slot: dict[str, Any], uri_of: Callable[[str], str]) -> dict[str, Any]:
    error = slot["error"]
    return {"video_id": slot["video_id"], "uri": uri_of(slot["uri"]), "step": "decode"} | {
        name: error[name] for name in ("reason", "message", "reader", "reader_version", "attempts")
    }
