"""The whole commit protocol as one scenario, without Ray: plan, shards of frames and targets, leases, snapshots,
compaction, gc; and what stands afterwards. kill_points.py kills it everywhere."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.collect import COMPACTION, collect, garbage
from pipeline.artifacts.commit import DataObject, new_attempt, read_markers, read_object, write_table
from pipeline.artifacts.compact import compact
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.files import walk
from pipeline.artifacts.layout import write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.places import is_remote
from pipeline.artifacts.schemas import frames_schema, tensor_array
from pipeline.artifacts.snapshot import pin
from pipeline.manifest.plan import extend_plan, read_plan
from pipeline.targets.codec import Codec, pack
from pipeline.targets.committer import ShardCommitter, TeacherTargets

BEFORE = {"a": "1:x", "b": "1:x"}  # planned and labelled before anything is killed
AFTER = {"a": "1:x", "b": "2:y", "bad": "1:x", "c": "1:x", "d": "1:x"}  # b changed, three are new, one unreadable
ONE = {"a": "1:x", "b": "1:x"}  # all there is in the short scenario
ARTEFACTS = ("plan", "frames", "targets")
T, H, W, CLASSES, B = 2, 4, 4, 3, 2
LATER = 4e9  # for gc: everything is old


def views(video: str) -> list[tuple[str, int]]:
    return [(f"{video}#random1of1", view) for view in range(B)]


def stamp(clip: str, view: int) -> int:
    return hashlib.sha256(f"{clip}/{view}".encode()).digest()[0]


def prepare(base: Path) -> None:
    """One shard that stands before, and a snapshot of it that a reader pinned. Nothing in the short scenario."""
    if is_remote(base):
        return
    extend(base, BEFORE)
    commit_shards(base, lambda: None)
    pin(base / "frames")


def work(base: Path, owner: str, *, duration: float, renew: float) -> None:
    """Everything that the protocol is made of, from what `prepare` left to the end; can be done again at any point."""

    def lease(folder: Path, renew: float = renew) -> Lease:
        return Lease(folder, owner, duration=duration, renew=renew)

    if is_remote(base):
        work_shortly(base, lease)
        return
    for name in ARTEFACTS:
        write_about(base / name, {"key": name})
    with lease(base / "plan"):
        extend(base, AFTER)
    with lease(base / "frames") as frames, lease(base / "targets") as targets:
        commit_shards(base, frames.check)
        targets.check()
    buried = read_plan(base / "plan").tombstones
    for name in ("frames", "targets"):
        pin(base / name, tombstones=buried)
    for name in ("frames", "targets"):
        with lease(base / name / COMPACTION) as compaction:
            compact(base / name, check=compaction.check)
    clean(base, ARTEFACTS, owner, duration=duration, renew=renew)
    with lease(base / "renewed", renew=0.02) as renewed:
        while renewed._beat < 4:
            time.sleep(0.005)
    clean(base, ["renewed"], owner, duration=duration, renew=renew)


def work_shortly(base: Path, lease: Callable[[Path], Lease]) -> None:
    """Each kind of thing once, for a store in which every operation is a request: one shard of two parts, one lease,
    one snapshot, one compaction, one gc."""
    with lease(base / "frames") as frames:
        extend(base, ONE)
        commit_shards(base, frames.check)
        pin(base / "frames")
        compact(base / "frames", check=frames.check)
    clean(base, ["frames"], frames.owner, duration=frames.duration, renew=frames.renew)


def clean(base: Path, names: Iterable[str], owner: str, *, duration: float, renew: float) -> None:
    """gc, of everything however young."""
    for name in names:
        collect(base / name, LATER, owner, duration=duration, renew=renew)


def extend(base: Path, sources: dict[str, str]) -> None:
    extend_plan(base / "plan", sources, views, shard_views=2 * B, micro_batch=B)


def commit_shards(base: Path, check: Callable[[], None]) -> None:
    """What decode workers and the driver's committer do for every shard that has no targets yet."""
    plan = read_plan(base / "plan")
    frames, done = read_markers(base / "frames", "shard-"), read_markers(base / "targets", "shard-")
    todo = {shard: plan.shards[shard] for shard in plan.shards if shard not in done}
    if not todo:
        return
    committer = ShardCommitter(
        parts={shard: table.num_rows // B for shard, table in todo.items()},
        frames=base / "frames",
        teachers=(TeacherTargets(base / "targets", Codec("float32")),),
        check=check,
        known=lambda shard: (base / "frames", frames[shard]) if shard in frames else None,
    )
    for shard, table in todo.items():
        for number in range(table.num_rows // B):
            planned = table.slice(number * B, B).to_pylist()
            part = frames[shard].objects[number] if shard in frames else None
            committer.add(micro_batch(base / "frames", shard, number, planned, part))


def micro_batch(
    folder: Path, shard: str, number: int, planned: list[dict[str, Any]], part: DataObject | None
) -> dict[str, Any]:
    """A micro-batch as it comes out of the graph; its frames are read where they are committed, else written."""
    slots = [slot(row) for row in planned]
    good = [one for one in slots if "error" not in one]
    if part is None:
        part = write_table(folder, f"{shard}.part-{number:05d}.{new_attempt()}.parquet", frames_table(good))
    else:
        assert read_object(folder, part).num_rows == len(good)
    stamps = np.array([[stamp(row["clip_id"], row["view_id"])] for row in planned], np.float32)
    packed = pack({"logits": stamps + np.arange(CLASSES) / 8, "substage_1": -stamps}, Codec("float32"))
    return {
        "shard_id": shard,
        "micro_batch": number,
        "teachers": "[0]",
        "slots": json.dumps(slots),
        "part": json.dumps(asdict(part)),
        "decode_s": 0.0,
        "teacher_s": 0.0,
        "t0.batch": B,
        **{f"t0.{name}": values for name, values in packed.items()},
    }


def slot(row: dict[str, Any]) -> dict[str, Any]:
    key = {name: row[name] for name in ("clip_id", "view_id", "video_id")}
    if row["video_id"] == "bad":
        error = {"reason": "unreadable", "message": "", "reader": "pyav", "reader_version": "1", "attempts": 2}
        return key | {"uri": "bad.mp4", "error": error}
    return key | {"times": [0.0, 0.5], "indices": [0, 1], "crop": [0.0, 0.0, 1.0, 1.0], "flip": False, "reader": "pyav"}


def frames_table(slots: list[dict[str, Any]]) -> pa.Table:
    schema = frames_schema(T, H, W)
    stamps = np.array([stamp(one["clip_id"], one["view_id"]) for one in slots], np.uint8).reshape(-1, 1, 1, 1, 1)
    values: dict[str, Any] = {"frames": tensor_array(np.broadcast_to(stamps, (len(slots), T, H, W, 3)))}
    values["crop"] = tensor_array(np.array([one["crop"] for one in slots], np.float32).reshape(-1, 4))
    plain = [field for field in schema if field.name not in values]
    values |= {field.name: pa.array([one[field.name] for one in slots], field.type) for field in plain}
    return pa.table([values[name] for name in schema.names], schema=schema)


def state(base: Path) -> dict[str, Any]:
    """What stands: keys, values, digests, markers, files; attempts' names and leases left out. Checks every sha256."""
    plan = read_plan(base / "plan")
    found: dict[str, Any] = {
        "plan": {shard: digest(plan.shards[shard]) for shard in plan.shards},
        "tombstones": sorted([*key, reason] for key, reason in plan.tombstones.items()),
    }
    for name in ("frames", "targets"):
        snapshot = pin(base / name, tombstones=plan.tombstones)
        artefact = open_dataset(base / name, snapshot.digest, check=True)
        table = artefact.table()
        batches = artefact.training_rows(0, 1, seed=1, epoch=1, batch=2)
        found[name] = {
            "digest": snapshot.digest,
            "keys": sorted(f"{row['clip_id']}/{row['view_id']}" for row in table.to_pylist()),
            "values": digest(table),
            "training": text_digest([{key: value.tolist() for key, value in batch.items()} for batch in batches]),
            "rows": {shard: marker.rows for shard, marker in read_markers(base / name, "shard-").items()},
        }
    found["files"] = sorted(files(base))
    found["garbage"] = [str(waste.path) for name in ARTEFACTS for waste in garbage(base / name, LATER)]
    return found


def digest(table: pa.Table) -> str:
    return text_digest((table.schema.names, table.to_pylist()))


def text_digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def files(base: Path) -> Iterator[str]:
    """Names below `base` with attempts' names left out, without leases."""
    for stored in walk(base):
        name = str(stored.path).removeprefix(str(base))
        if not stored.path.name.startswith("lease."):
            yield re.sub(r"\.[0-9a-f]{12}\.", ".*.", name)
