"""A warm pool: actors of one CPU and one torch thread that run function after function without new processes."""

from collections.abc import Callable, Sequence
from typing import Any

import ray


class _Runner:
    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def run(self, work: Callable[[Any], Any], item: Any) -> Any:
        return work(item)


class WarmPool:
    """Runs `work(item)` on `size` actors; results come back in the order of the items. Close it before anything else
    needs the CPUs."""

    def __init__(self, size: int, *, cpus: float = 1.0, gpus: float = 0.0, threads: int = 1) -> None:
        actor: Any = ray.remote(_Runner).options(num_cpus=cpus, num_gpus=gpus, max_restarts=2, max_task_retries=2)
        self._actors: list[Any] = [actor.remote(threads) for _ in range(size)]

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Errors of `work` are raised here; an actor that died is restarted and its item run again (twice at most)."""
        idle: list[Any] = list(self._actors)
        running: dict[Any, tuple[int, Any]] = {}
        results: list[Any] = [None] * len(items)
        for index, item in enumerate(items):
            if not idle:
                self._collect(running, results, idle)
            actor = idle.pop()
            running[actor.run.remote(work, item)] = (index, actor)
        while running:
            self._collect(running, results, idle)
        return results

    @staticmethod
    def _collect(running: dict[Any, tuple[int, Any]], results: list[Any], idle: list[Any]) -> None:
        done, _ = ray.wait(list(running), num_returns=1)
        index, actor = running.pop(done[0])
        results[index] = ray.get(done[0])
        idle.append(actor)

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def __enter__(self) -> "WarmPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
