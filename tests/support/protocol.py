"""The whole commit protocol as one scenario without Ray, and processes that are killed at its n-th operation.

    python -m tests.support.protocol '{"base": DIR-or-s3-address, "numbers": [1, 2, …], "looks": true, "lease": 0.05}'

For every n: a fresh copy of the prepared artefacts, a forked child that does the work and kills itself (SIGKILL) at its
n-th operation on the store, a second child that does the same work again and says what stands then. One line of JSON
each: n, where it was killed, and how what stands differs from an undisturbed run. Python and pyarrow are imported once;
this process itself starts no thread and reads no table.
"""

import gc
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
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
from pipeline.artifacts.places import is_remote, place
from pipeline.artifacts.schemas import frames_schema, tensor_array
from pipeline.artifacts.snapshot import pin
from pipeline.manifest.plan import extend_plan, read_plan
from pipeline.targets.codec import Codec, pack
from pipeline.targets.committer import ShardCommitter, TeacherTargets

BEFORE = {"a": "1:x", "b": "1:x"}  # planned and labelled before anything is killed
AFTER = {"a": "1:x", "b": "2:y", "bad": "1:x", "c": "1:x", "d": "1:x"}  # b changed, three are new, one unreadable
T, H, W, CLASSES, B = 2, 4, 4, 3, 2
LATER = 4e9  # for gc: everything is old
CHANGES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
LOOKS = {"os.listdir", "os.scandir"}


def views(video: str) -> list[tuple[str, int]]:
    return [(f"{video}#random1of1", view) for view in range(B)]


def stamp(clip: str, view: int) -> int:
    return hashlib.sha256(f"{clip}/{view}".encode()).digest()[0]


def prepare(base: Path) -> None:
    """One shard that stands before, and a snapshot of it that a reader pinned."""
    extend(base, BEFORE)
    commit_shards(base, lambda: None)
    pin(base / "frames")


def work(base: Path, owner: str, *, duration: float, renew: float) -> None:
    """Everything that the protocol is made of, from what `prepare` left to the end; can be done again at any point."""

    def lease(folder: Path, **how: float) -> Lease:
        return Lease(folder, owner, **({"duration": duration, "renew": renew} | how))

    for name in ("plan", "frames", "targets"):
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
    for name in ("plan", "frames", "targets"):
        collect(base / name, LATER, owner, duration=duration, renew=renew)
    with lease(base / "renewed", renew=0.02) as renewed:
        while renewed._beat < 4:
            time.sleep(0.005)
    collect(base / "renewed", LATER, owner, duration=duration, renew=renew)


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
            "everything": digest(open_dataset(base / name).table()),
            "training": text_digest([{key: value.tolist() for key, value in batch.items()} for batch in batches]),
            "rows": {shard: marker.rows for shard, marker in read_markers(base / name, "shard-").items()},
        }
    found["files"] = sorted(files(base))
    found["garbage"] = [
        str(waste.path) for name in ("plan", "frames", "targets") for waste in garbage(base / name, LATER)
    ]
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


class Killed:
    """Kills this process at its n-th operation below a folder (audit events of Python), or at its n-th event of
    requests to an object store (before one is sent, and when its answer is there but nobody has seen it).

    `looks` counts operations that only read, too: in a folder the same stands before each of them as before the next
    change. `torn`: a temporary file that the operation is about is cut to half first, as if the writer had died in the
    middle.
    """

    def __init__(self, base: Path, at: int, *, looks: bool = True, torn: bool = False, tell: int = 2) -> None:
        self.base, self.at, self.looks, self.torn, self.tell, self.count = str(base), at, looks, torn, tell, 0

    def arm(self) -> None:
        if is_remote(self.base):
            self._arm_requests()
        else:
            sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES | LOOKS or not str(arguments[0]).startswith(self.base):
            return
        if self.looks or not (event in LOOKS or (event == "open" and arguments[1] in ("r", "rb"))):
            self._step(f"{event} {str(arguments[0]).removeprefix(self.base)}", str(arguments[0]))

    def _arm_requests(self) -> None:
        from aiobotocore.session import AioSession

        original, killer = AioSession.__init__, self

        def counted(session: Any, *arguments: Any, **named: Any) -> None:
            original(session, *arguments, **named)
            session.register("before-send.s3", killer._before)
            session.register("response-received.s3", killer._after)

        AioSession.__init__ = counted

    def _before(self, request: Any, **rest: Any) -> None:
        self._step(f"before {request.method} {str(request.url).partition('?')[0].rpartition('/bkt/')[2]}", "")

    def _after(self, **rest: Any) -> None:
        self._step("answered", "")

    def _step(self, what: str, path: str) -> None:
        self.count += 1
        if self.count == self.at:
            os.write(self.tell, what.encode())
            # Once it is linked to its name it is no temporary file any more, but the thing itself.
            if self.torn and path.endswith(".tmp") and os.path.exists(path) and os.stat(path).st_nlink == 1:
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def forked(job: Callable[[int], None]) -> tuple[int, bytes]:
    """Run `job` in a child of its own, with a pipe to write to; returns its status and what it wrote."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 1
        try:
            job(into)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


def undisturbed(base: Path, looks: bool) -> dict[str, Any]:
    """What stands after a run that nothing disturbs, and how many operations it made."""

    def job(into: int) -> None:
        killed = Killed(base, -1, looks=looks)
        killed.arm()
        prepare(base)
        killed.count = 0
        work(base, "undisturbed", duration=60, renew=30)
        os.write(into, json.dumps({"operations": killed.count, "state": state(base)}).encode())

    status, said = forked(job)
    assert status == 0, status
    return dict(json.loads(said))


def kill_at(base: Path, prepared: Path | None, number: int, looks: bool, lease: float) -> dict[str, Any]:
    """Kill a run at operation `number`, do its work again in another process; returns what stands then."""

    def first(into: int) -> None:
        killed = Killed(base, -1, looks=looks, torn=number % 2 == 1, tell=into)
        killed.arm()
        if prepared is None:
            prepare(base)
        killed.count, killed.at = 0, number
        work(base, f"killed at {number}", duration=60, renew=30)

    def second(into: int) -> None:
        work(base, "second", duration=lease, renew=lease * 0.7)
        os.write(into, json.dumps(state(base)).encode())

    if prepared is not None:
        shutil.copytree(prepared, base)
    status, where = forked(first)
    ended, said = forked(second)
    return {"n": number, "killed": status == signal.SIGKILL, "where": where.decode(), "status": ended} | (
        {"state": json.loads(said)} if ended == 0 else {}
    )


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{name}: {expected[name]} -> {found[name]}" for name in expected if expected[name] != found[name]]


def main(order: dict[str, Any]) -> None:
    """Kill at each of `numbers`; without them, only say what an undisturbed run does."""
    base, looks, lease = place(order["base"]), bool(order["looks"]), float(order["lease"])
    if is_remote(base):
        import s3fs  # noqa: F401  (imported once, before the forks)
    gc.freeze()  # or every child copies all pages in which the collector counts
    gc.disable()
    mine = base / f"run-{os.getpid()}"
    whole = undisturbed(mine / "undisturbed", looks)
    print(json.dumps(whole), flush=True)
    prepared = None
    if not is_remote(base) and order["numbers"]:
        prepared = mine / "prepared"
        assert forked(lambda into: prepare(prepared))[0] == 0
    for number in order["numbers"]:
        done = kill_at(mine / f"n{number}", prepared, number, looks, lease)
        wrong = differences(whole["state"], done.pop("state")) if "state" in done else ["the second run failed"]
        print(json.dumps(done | {"wrong": wrong}), flush=True)
        if not is_remote(base) and not wrong:
            shutil.rmtree(mine / f"n{number}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
