"""What is computed from measured rates: bounds, ratios and the best split; plain numbers, no process, no clock.

Legend: a decode-only, b teacher-only clips per second, each with all cores to itself.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Done = Sequence[tuple[float, int]]


@dataclass(frozen=True)
class Measured:
    """One timed run of an arm: `clips` in `seconds`, by `processes` workers that used `cpu_seconds` of processor time.

    `rate` is in clips per second; it is not clips / seconds where workers ended at different times (see `crew_rate`).
    """

    arm: str
    clips: int
    seconds: float
    rate: float
    cpu_seconds: float
    processes: int

    @property
    def cpu_per_clip(self) -> float:
        return self.cpu_seconds / max(1, self.clips)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"cpu_per_clip": self.cpu_per_clip}


@dataclass(frozen=True)
class Ratios:
    """The quotients of one round; `bound` in clips per second, the pipeline's.

    Where minutes lie between the two runs, pipeline ÷ naive is of what each made of its own bound.
    """

    bound: float
    pipeline_by_bound: float
    naive_by_bound: float
    pipeline_by_naive: float

    @property
    def reached(self) -> float:
        """pipeline ÷ naive as a share of what is possible, bound ÷ naive."""
        return self.pipeline_by_naive * self.naive_by_bound

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def shared_bound(a: float, b: float) -> float:
    """Clips per second where decoding and teacher share the cores: each clip costs 1/a + 1/b of all of them."""
    return 1.0 / (1.0 / a + 1.0 / b)


def separate_bound(a: float, b: float) -> float:
    """Clips per second where the teacher has a device of its own: the slower stage's rate."""
    return min(a, b)


def crew_rate(workers: Sequence[Done]) -> float:
    """Clips per second of workers that ran side by side from second 0 on: Σ clips / second of the last one, each.

    `workers`: per worker, (seconds, clips) of every micro-batch it finished. A worker that finished none counts 0.
    """
    return sum(sum(clips for _, clips in done) / done[-1][0] for done in workers if done)


def best_split(measured: Mapping[int, float]) -> int:
    """The number of processes with the highest rate; the smaller one where a larger is less than 1 % better."""
    top = max(measured.values())
    return min(count for count, rate in measured.items() if rate >= 0.99 * top)


def decoders_beside(a: float, b: float, cores: int) -> int:
    """Decoders on `cores` that teachers share: decoding's part of them, rounded up; more would only decode ahead."""
    share = (1.0 / a) * shared_bound(a, b)
    return max(1, math.ceil(share * cores - 1e-9))


def ratios(runs: Sequence[Measured], *, shared: bool, device_rate: float | None = None) -> list[Ratios]:
    """One entry a round, from measurements in the order in which they were taken.

    A round is decode (and teacher), naive, decode (and teacher), pipeline; a last decode (and teacher) follows. Naive
    and pipeline are each held against the mean of the rates just before and just after, so that a drift of the machine
    cancels. Without `shared` the teacher has a device of its own; `device_rate` is b where it was set and not measured.
    """
    rates = {name: [run.rate for run in runs if run.arm == name] for name in ("decode", "teacher", "naive", "pipeline")}
    a = _between(rates["decode"])
    b = [device_rate] * len(a) if device_rate else _between(rates["teacher"])
    bounds = [(shared_bound if shared else separate_bound)(*pair) for pair in zip(a, b, strict=True)]
    found = []
    for naive_bound, bound, naive, pipeline in zip(
        bounds[::2], bounds[1::2], rates["naive"], rates["pipeline"], strict=True
    ):
        found.append(Ratios(bound, pipeline / bound, naive / naive_bound, pipeline / bound / (naive / naive_bound)))
    return found


def compared(bound: float, naive: float, pipeline: float) -> Ratios:
    """Of rates that were measured at the same time."""
    return Ratios(bound, pipeline / bound, naive / bound, pipeline / naive)


def _between(rates: Sequence[float]) -> list[float]:
    return [statistics.fmean(pair) for pair in itertools.pairwise(rates)]


def clips_for(seconds: float, rate: float, shard_views: int) -> int:
    """As many clips as last `seconds` at `rate`, in whole shards, at least two."""
    return max(2, -(-int(seconds * rate) // shard_views)) * shard_views


def slots_for(seconds: float, rate_per_process: float, least: int) -> int:
    """Slots of a micro-batch that keeps one process busy for `seconds`, in steps of 8; never fewer than `least`."""
    needed = seconds * rate_per_process
    return least if needed <= least else -(-int(needed + 0.999) // 8) * 8


def growth(small: Mapping[str, float], large: Mapping[str, float]) -> dict[str, float]:
    """By how many percent each kind of process is larger in `large` than in `small`, for kinds that both have."""
    return {kind: 100.0 * (large[kind] / small[kind] - 1.0) for kind in small if kind in large and small[kind] > 0}


def least(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The smallest of each kind, for kinds that all runs have."""
    return {kind: min(run[kind] for run in runs) for kind in runs[0] if all(kind in run for run in runs)}
