"""What the killable child costs: the same videos decoded in it and in this process, one after the other, in turn."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.bench.arms import InProcess
from jobs.bench.workload import Workload
from pipeline.video.sandbox import DecodeChild
from pipeline.video.views import draw, view_keys


@dataclass(frozen=True)
class Cost:
    """Medians over videos, in milliseconds per clip; `overhead` is the median of the paired quotients, less 1."""

    videos: int
    child_ms: float
    in_process_ms: float
    overhead: float


def cost(child: Sequence[float], in_process: Sequence[float], views: int) -> Cost:
    """From paired seconds per video of `views` clips."""
    quotients = [one / other for one, other in zip(child, in_process, strict=True)]
    return Cost(
        len(quotients),
        1000.0 * statistics.median(child) / views,
        1000.0 * statistics.median(in_process) / views,
        statistics.median(quotients) - 1.0,
    )


def measure_isolation(load: Workload, videos: int) -> Cost:
    """`videos` videos, each decoded both ways, the order changing from one to the next."""
    plain: Any = InProcess()
    seconds: dict[str, list[float]] = {"child": [], "plain": []}
    with DecodeChild() as child:
        arms = {"child": child, "plain": plain}
        rows = load.micro_batches(0, 1)
        tasks = [task for _ in range(-(-videos // (load.slots // load.views))) for task in _tasks(next(rows))][:videos]
        for arm in arms.values():
            _decode(arm, load, *tasks[0])
        for number, task in enumerate(tasks):
            for name in sorted(arms, reverse=bool(number % 2)):
                seconds[name].append(_decode(arms[name], load, *task))
    return cost(seconds["child"], seconds["plain"], load.views)


def _tasks(row: dict[str, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(row["video_ids"], row["uris"], strict=True)))


def _decode(arm: Any, load: Workload, video: str, path: str) -> float:
    views = [draw(load.policy, *key) for key in view_keys(video, load.policy)]
    began = time.perf_counter()
    found = arm.decode(path, views, load.policy)
    taken = time.perf_counter() - began
    assert isinstance(found, list), found
    return taken
