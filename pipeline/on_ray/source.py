"""Where the precompute graph gets its rows: handed over by the driver, issued shard by shard, never too many at once.

The rows of a shard lie compressed in the object store, so any node can issue them and no shared disk is needed. A task
issues them one by one, about a thousand, and then the next one goes on: the driver keeps some 2 kB for each until their
task ends. Before the first row of a shard a task asks the gate, which lets it pass while fewer than `limit` shards are
open; the driver tells the gate what is finished. A task that is run again (its node was lost) issues the same rows in
the same order, as Ray's retries need.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TASK_ROWS = 1024
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


Key = tuple[str, str]


class MicroBatches(Datasource):
    """One block per micro-batch, from tables of one shard each (columns plan, shard_id, micro_batch and more).

    At most `limit` shards are open, more where `rows` rows (what keeps all actors busy) need more.
    """

    def __init__(self, shards: Iterable[pa.Table], limit: int, rows: int) -> None:
        super().__init__()
        self._left: dict[Key, int] = {}
        self._open: dict[Key, set[int]] = {}
        self._finished = 0
        stored = [self._put(table) for table in shards]
        self._parts = self._cut(stored, list(self._left.values()))
        typical = max(1, sum(self._left.values()) // max(1, len(self._left)))
        self.limit = max(limit, -(-rows // typical))
        self._gate = _gate(self.limit)
        self._issued = self._back = 0
        self._asked: Any = None

    @property
    def open(self) -> int:
        """Shards of which some rows came back and others did not."""
        return len(self._open)

    @property
    def in_flight(self) -> int:
        """Rows that were issued and did not come back, as far as the gate told: asked at times, never waited for."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._issued, self._asked = max(self._issued, ray.get(self._asked)), None
        if self._asked is None:
            self._asked = self._gate.how_many.remote()
        return max(0, self._issued - self._back)

    def came_back(self, row: Mapping[str, Any]) -> None:
        """Note a finished row; after the last of a shard the next shard may be issued."""
        key = (str(row["plan"]), str(row["shard_id"]))
        if key not in self._left:
            return
        seen = self._open.setdefault(key, set())
        self._back += int(row["micro_batch"]) not in seen
        seen.add(int(row["micro_batch"]))
        if len(seen) == self._left[key]:
            del self._left[key], self._open[key]
            self._finished += 1
            self._gate.open_up_to.remote(self._finished)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """In order, and meant to be run one after the other (`tasks` says how many): a row costs microseconds."""
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(_issue, part, self._gate), nothing_known) for part in self._parts]

    @property
    def tasks(self) -> int:
        return len(self._parts)

    def _cut(self, shards: list[Any], rows: list[int]) -> list["_Part"]:
        """Whole shards, so many that a part holds TASK_ROWS rows or a little more."""
        parts, issued = [_Part(0, 0, [])], 0
        for number, (shard, count) in enumerate(zip(shards, rows, strict=True)):
            if issued - parts[-1].issued >= TASK_ROWS:
                parts.append(_Part(number, issued, []))
            parts[-1].shards.append(shard)
            issued += count
        return parts

    def _put(self, table: pa.Table) -> Any:
        self._left[(table["plan"][0].as_py(), table["shard_id"][0].as_py())] = table.num_rows
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
            writer.write_table(table)
        return ray.put(sink.getvalue().to_pybytes())


class _Gate:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.finished = self.rows = 0
        self.moved = asyncio.Event()

    async def open_up_to(self, finished: int) -> None:
        self.finished = max(self.finished, finished)
        self.moved.set()
        self.moved = asyncio.Event()

    async def wait(self, number: int) -> None:
        while number >= self.finished + self.limit:
            await self.moved.wait()

    async def issued(self, rows: int) -> None:
        """So many rows went out in all; a task that is run again counts from the start."""
        self.rows = max(self.rows, rows)

    async def how_many(self) -> int:
        return self.rows


def _gate(limit: int) -> Any:
    """On the driver's node: what ends the one ends the other."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(_Gate)
    return actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote(limit)


class _Part(NamedTuple):
    """What one task issues: shards from number `first` on, after `issued` rows."""

    first: int
    issued: int
    shards: list[Any]


def _issue(part: _Part, gate: Any) -> Iterator[pa.Table]:
    issued = part.issued
    for number, shard in enumerate(part.shards, start=part.first):
        ray.get(gate.wait.remote(number))
        with pa.ipc.open_stream(ray.get(shard)) as reader:
            table = reader.read_all().combine_chunks()
        for row in range(table.num_rows):
            issued += 1
            gate.issued.remote(issued)
            yield table.slice(row, 1)
