"""What a job will ask of the cluster against what the cluster can become, as plain arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import CapacityError

READ_CPUS = 0.1


@dataclass(frozen=True)
class Demand:
    """`count` actors or workers of `cpus` CPUs, `gpus` GPUs and `memory` bytes each, held at the same time.

    `least`: with how many a pool starts that grows while a cluster does; None: with all.
    """

    what: str
    count: int
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    least: int | None = None

    @property
    def smallest(self) -> int:
        return self.count if self.least is None else min(self.least, self.count)

    def __str__(self) -> str:
        gpus = f" + {self.count} × {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.what} {self.count} × {self.cpus:g} CPU{gpus}"


@dataclass(frozen=True)
class Capacity:
    """What the cluster can become (its total, or what an autoscaler may add up to).

    `memory_per_cpu`: bytes beside each CPU on the node that has least of them, 0 where no node is known.
    """

    cpus: float
    gpus: float
    source: str
    memory_per_cpu: float = 0.0

    def memory(self, needed: float, cpus: float) -> float:
        """Bytes that an actor of `cpus` CPUs asks for: what it needs, at most its CPUs' share of a node.

        So wherever its CPUs fit its memory fits, too; nothing is ever kept from being placed for memory alone.
        """
        return float(min(math.ceil(needed), math.floor(cpus * self.memory_per_cpu)))


def check(step: str, demands: Sequence[Demand], capacity: Capacity) -> None:
    """Refuse a step that can never be placed.

    Raises CapacityError with the sum, what the cluster can become, and the settings to change.
    """
    cpus = sum(demand.count * demand.cpus for demand in demands)
    gpus = sum(demand.count * demand.gpus for demand in demands)
    if cpus <= capacity.cpus + 1e-9 and gpus <= capacity.gpus + 1e-9:
        return
    asked = " + ".join(str(demand) for demand in demands)
    raise CapacityError(
        f"{step} asks for {asked} = {cpus:g} CPU, {gpus:g} GPU, but the cluster can become at most "
        f"{capacity.cpus:g} CPU, {capacity.gpus:g} GPU ({capacity.source}). Lower the numbers in the recipe "
        "(train.num_workers, train.cpus_per_worker, precompute.decoders, precompute.teachers, sweep.max_concurrent) or "
        "give cluster.expect: {CPU, GPU} what an autoscaler may reach."
    )


def fit_decoders(requested: int, decode_cpus: float, free_cpus: float) -> int:
    """How many decode actors fit beside the rest: at most `requested`, at least 1 (`check` says what is missing)."""
    return max(1, min(requested, math.floor(free_cpus / decode_cpus + 1e-9)))
