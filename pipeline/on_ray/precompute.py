"""The precompute graph, one streaming execution:

    read_parquet(open micro-batches)  ->  frames (CPU actors, a decode child each)  ->  teacher (actors)  ->  driver
    1 row = 1 micro-batch                 1 : 1, + (B,T,H,W,3) uint8                    1 : 1, frames -> logits, z_l

Nothing is waited for between the stages; the driver takes rows as they finish, in any order, and commits whole shards.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipeline.errors import JobError
from pipeline.on_ray.capacity import READ_CPUS, Demand

MAX_BLOCKS = 10_000
Stage = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Pools:
    """Actors per stage; `teacher` None: frames only."""

    decode: Demand
    teacher: Demand | None = None


class _OneRow:
    """Runs a stage on the single row of a batch: Ray Data sees arrays with a leading axis of 1."""

    def __init__(self, build: Callable[[], Stage]) -> None:
        self.stage = build()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        done = self.stage({name: _plain(values[0]) for name, values in batch.items()})
        return {name: _batched(value) for name, value in done.items()}


def stream(
    rows: Path, frames: Callable[[], Stage], teacher: Callable[[], Stage] | None, pools: Pools
) -> Iterator[dict[str, Any]]:
    """Run the graph over the micro-batches in the Parquet file `rows`; yields finished rows as they come.

    `frames` and `teacher` build the stage inside its actor.
    """
    _configure()
    count = min(MAX_BLOCKS, pq.read_metadata(rows).num_rows)
    graph = ray.data.read_parquet(str(rows), num_cpus=READ_CPUS, override_num_blocks=count)
    graph = graph.map_batches(
        _OneRow,
        batch_size=1,
        compute=ActorPoolStrategy(size=pools.decode.count),
        num_cpus=pools.decode.cpus,
        fn_constructor_kwargs={"build": frames},
    )
    if teacher is not None and pools.teacher is not None:
        graph = graph.map_batches(
            _OneRow,
            batch_size=1,
            compute=ActorPoolStrategy(size=pools.teacher.count),
            num_cpus=pools.teacher.cpus,
            num_gpus=pools.teacher.gpus or None,
            fn_constructor_kwargs={"build": teacher},
        )
    try:
        for batch in graph.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=2):
            yield {name: _plain(values[0]) for name, values in batch.items()}
    except RayError as error:
        raise JobError(
            f"the graph stopped: {_cause(error)}; what is committed stays, the same command goes on from there"
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost error in one line: Ray wraps what a stage raised several times."""
    cause: BaseException | None = error
    while cause is not None:
        error, cause = cause, getattr(cause, "cause", None) or cause.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    # Ray 2.60 lists files (second reader) and repartitions in tasks of a whole CPU, which they never get beside actors
    # that hold all of them: the graph would wait for ever. The first reader splits into one block per row by itself.
    context.use_datasource_v2 = False
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.WARNING)


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
