"""The precompute graph, one streaming execution:

    read(open micro-batches)  ->  frames (CPU actors, a decode child each)  ->  teachers (actors)           ->  driver
    1 row = 1 micro-batch         1 : 1, + (B,T,H,W,3) uint8                    1 : 1, frames -> t0.logits …

Teachers that compute on the decoders' CPUs have both stages in one actor instead. Nothing is waited for between the
stages; the driver takes rows as they finish, in any order, and commits whole shards.
At most `open_shards` shards are under way, so what the driver buffers does not grow with the plan. Ray Data keeps the
pixels between the stages below its share of the object store. An actor or a node that dies is replaced, and what it
had in hand is done again.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, ExecutionResources
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.errors import JobError
from pipeline.on_ray.alone import alone
from pipeline.on_ray.capacity import READ_CPUS, Demand
from pipeline.on_ray.forget import forget_block_statistics
from pipeline.on_ray.source import MicroBatches
from pipeline.on_ray.unhurried import do_not_hurry, unhurried_reader

Stage = Callable[[Mapping[str, Any]], dict[str, Any]]
# A micro-batch whose actor died so often is taken for the cause: Ray itself would go on for ever.
ATTEMPTS = 8
# Micro-batches that an actor has in hand: while its stage is at work on one, the arrays of the other are fetched or put
# away. Ray Data calls the stage from one thread. The second one costs some 0.5 % of the work on shared cores.
OVERLAPPING = 2
PREFETCHED = 2  # rows on their way to the driver; Ray Data gives one out only once so many have come after it


@dataclass(frozen=True)
class Pools:
    """Actors per stage; `teacher` None: frames only, or `together`, which is both stages in the actors of the first.

    `computing`: the teacher's actors work on the decoders' cores themselves, and do not wait for a device or a service.
    Then the gap between two micro-batches is nothing against a forward, and no actor takes a second one in hand.
    """

    decode: Demand
    teacher: Demand | None = None
    computing: bool = False
    together: bool = False

    @property
    def in_hand(self) -> int:
        """Micro-batches of an actor at the same time."""
        return 1 if self.computing else OVERLAPPING

    @property
    def enough(self) -> int:
        """Micro-batches that keep all actors busy: one in hand and one waiting for each, and some on the way."""
        return 2 * (self.decode.count + (self.teacher.count if self.teacher else 0)) + 2


class _OneRow:
    """Runs a stage on the single row of a batch: Ray Data sees arrays with a leading axis of 1."""

    def __init__(self, build: Callable[[], Stage]) -> None:
        self.stage = build()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        done = self.stage({name: _plain(values[0]) for name, values in batch.items()})
        return {name: _batched(value) for name, value in done.items()}


def stream(
    shards: Iterable[pa.Table],
    frames: Callable[[], Stage],
    teacher: Callable[[], Stage] | None,
    pools: Pools,
    *,
    open_shards: int = 16,
) -> Iterator[dict[str, Any]]:
    """Run the graph over micro-batches, given as tables of one shard each; yields finished rows as they come.

    Rows are issued in order, and so that at most `open_shards` shards are unfinished (more where they are so small that
    actors would wait). `frames` and `teacher` build the stage inside its actor. A shard counts as finished once the
    caller asks for another row after its last. A row says `in_flight`: how many are on the way, it included.
    """
    source = MicroBatches(shards, open_shards, pools.enough, PREFETCHED)
    try:
        with alone(), unhurried_reader(), source.gate(_configured(pools)):
            for batch in _graph(source, frames, teacher, pools).iter_batches(
                batch_size=1, batch_format="numpy", prefetch_batches=PREFETCHED
            ):
                row = {name: _plain(values[0]) for name, values in batch.items()}
                yield row | {"in_flight": source.in_flight}
                source.came_back(row)
    except (RayError, ExecutionTimeoutError) as error:
        raise JobError(
            f"the graph stopped: {_cause(error)}; what is committed stays, the same command goes on from there"
        ) from error


def _graph(
    source: MicroBatches, frames: Callable[[], Stage], teacher: Callable[[], Stage] | None, pools: Pools
) -> ray.data.Dataset:
    graph = ray.data.read_datasource(source, num_cpus=READ_CPUS, concurrency=1, override_num_blocks=source.tasks)
    graph = _map(graph, frames, pools.decode, pools.in_hand)
    if teacher is None or pools.teacher is None:
        return graph
    return _map(graph, teacher, pools.teacher, pools.in_hand)


def _map(graph: ray.data.Dataset, build: Callable[[], Stage], demand: Demand, in_hand: int) -> ray.data.Dataset:
    """1 row in, 1 row out, in a pool of actors; a dead actor is started anew (max_restarts is unlimited by default)."""
    with warnings.catch_warnings():  # max_task_retries has no named parameter yet
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return graph.map_batches(
            _OneRow,
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=demand.smallest, max_size=demand.count, max_concurrent_calls_per_actor=in_hand
            ),
            num_cpus=demand.cpus,
            num_gpus=demand.gpus or None,
            memory=demand.memory or None,
            max_task_retries=ATTEMPTS,
            fn_constructor_kwargs={"build": build},
            udf_modifying_row_count=False,
        )


def _cause(error: BaseException) -> str:
    """The innermost error: Ray wraps what a stage raised several times, and adds advice for its own programmers."""
    cause: BaseException | None = error
    while cause is not None:
        error = cause if str(cause).strip() else error
        cause = getattr(cause, "cause", None) or cause.__cause__
    text = str(error).partition("\nFailed to ")[0].strip()
    if isinstance(error, RayError) and text:
        text = text.splitlines()[-1]  # above it stands where in Ray it happened
    return f"{type(error).__name__}: {text or 'no message'}"


def _configured(pools: Pools) -> ray.data.DataContext:
    """Ray Data takes what the pools hold and no more of a shared cluster; its own bars stay off (ours are on)."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    forget_block_statistics(context)
    do_not_hurry(context)
    context.raise_original_map_exception = True
    # One row is one block, from the first stage to the last: a row is what an actor takes, and what is done again.
    context.target_max_block_size = 1
    held = [demand for demand in (pools.decode, pools.teacher) if demand is not None]
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        cpu=1.0 + sum(demand.count * demand.cpus for demand in held),
        gpu=sum(demand.count * demand.gpus for demand in held),
    )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for advice in ("progress", "util", "logical.rules.set_read_parallelism"):  # that bars are off, tasks too many
        logging.getLogger(f"ray.data._internal.{advice}").setLevel(logging.ERROR)
    return context


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.tolist()
    return value


def _batched(value: Any) -> Any:
    return (
        value[None]
        if isinstance(value, np.ndarray)
        else np.asarray([value], dtype=object if isinstance(value, str) else None)
    )
