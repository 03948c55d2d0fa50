"""Where the precompute graph gets its rows: handed over by the driver, issued shard by shard, never too many at once.

The rows of a shard lie compressed in the object store, so any node can issue them and no shared disk is needed. A read
task issues those of some shards; tasks run one after the other, and Ray Data is told to start the next one only once so
few shards are open that those of the task make no more than `limit`. All of that is decided in the driver, where
finished rows come back. A task that is run again (its node was lost) issues the same rows in the same order, as Ray's
retries need.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")

Key = tuple[str, str]


class MicroBatches(Datasource):
    """One block per micro-batch, from tables of one shard each (columns plan, shard_id, micro_batch and more).

    At most `limit` shards are open, more where twice `rows` rows (what keeps all actors busy) need more; a task issues
    half of them, as Ray mostly starts a process for it. Where no more rows are on the way than the `withheld` ones, one
    more task is started: the reader gives those out only once others follow.
    """

    def __init__(self, shards: Iterable[pa.Table], limit: int, rows: int, withheld: int = 0) -> None:
        super().__init__()
        self._withheld = withheld
        self._left: dict[Key, int] = {}
        self._open: dict[Key, set[int]] = {}
        self._shards = [self._put(table) for table in shards]
        self._issued = [0, *accumulate(self._left.values())]
        typical = max(1, self._issued[-1] // max(1, len(self._shards)))
        self.limit = max(limit, -(-2 * rows // typical))
        self._each = max(1, self.limit // 2)
        self._started = self._finished = self._back = 0

    @property
    def tasks(self) -> int:
        """Read tasks; they are in order and meant to be run one after the other: a row costs microseconds."""
        return -(-len(self._shards) // self._each)

    @property
    def open(self) -> int:
        """Shards of which some rows came back and others did not."""
        return len(self._open)

    @property
    def in_flight(self) -> int:
        """Rows of shards whose task was started that did not come back yet."""
        return max(0, self._issued[self._started] - self._back)

    def may_start(self, started: int) -> bool:
        """Whether one more task may be started where so many were."""
        self._started = min(started * self._each, len(self._shards))
        return self._started + self._each <= self._finished + self.limit or self.in_flight <= self._withheld

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

    @contextlib.contextmanager
    def gate(self, context: DataContext) -> Iterator[None]:
        """Executions under this context ask before they start a read task; afterwards it holds nothing of this."""
        context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, _Gate(self)])
        try:
            yield
        finally:
            context.remove_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        parts = [self._shards[first : first + self._each] for first in range(0, len(self._shards), self._each)]
        return [ReadTask(partial(_issue, part), nothing_known) for part in parts]

    def _put(self, table: pa.Table) -> Any:
        self._left[(table["plan"][0].as_py(), table["shard_id"][0].as_py())] = table.num_rows
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
            writer.write_table(table)
        return ray.put(sink.getvalue().to_pybytes())


class _Gate:
    """What Ray Data calls for a policy. The driver copies its context and sends it to workers, never the source."""

    def __init__(self, source: MicroBatches | None = None) -> None:
        self._source = source

    def __call__(self, *given: Any) -> BackpressurePolicy:
        return _OpenShards(self._source, *given)

    def __deepcopy__(self, memo: Any) -> "_Gate":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Gate, ()


class _OpenShards(BackpressurePolicy):
    """Gives the reading operator its word.

    What a policy says does not hold where nothing runs: Ray Data then starts a task all the same, one after the other
    for as long as actors wait for their node. What an operator says of itself does.
    """

    def __init__(self, source: MicroBatches | None, context: Any, topology: Any, manager: Any) -> None:
        super().__init__(context, topology, manager)
        for op in topology:
            if source is not None and op.name == f"Read{source.get_name()}":
                # Asked at every step of the scheduling loop, so that the source sees how far it came, too.
                op.can_add_input = partial(_may_start, source, op)


def _may_start(source: MicroBatches, op: Any) -> bool:
    return source.may_start(op.metrics.num_tasks_submitted)


def _issue(shards: list[Any]) -> Iterator[pa.Table]:
    for shard in shards:
        with pa.ipc.open_stream(ray.get(shard)) as reader:
            table = reader.read_all().combine_chunks()
        for row in range(table.num_rows):
            yield table.slice(row, 1)
