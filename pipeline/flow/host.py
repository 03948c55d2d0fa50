"""Which host runs a list of tasks: this process (`--local`) or one worker group for all of them."""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.lease import Lease
from pipeline.artifacts.places import place
from pipeline.errors import ConfigError
from pipeline.flow.build import train_device
from pipeline.flow.context import Context
from pipeline.flow.demands import step_demands, warm_actors
from pipeline.flow.step import Timing, owner

if TYPE_CHECKING:
    from pipeline.flow.tasks import Task

LOG = logging.getLogger(__name__)


def run_tasks(context: Context, name: str, tasks: Sequence["Task"], timing: Timing, key: str) -> None:
    """Run what is not done yet of `tasks`, under a lease on the models folder `key` (the last network's)."""
    from pipeline.flow.tasks import Host, execute, open_tasks

    todo = open_tasks(tasks)
    if not todo:
        timing.skipped = True
        LOG.info("%s: done before (%s)", name, key[:8])
        return
    LOG.info("%s: %d of %d tasks to do", name, len(todo), len(tasks))
    began = time.monotonic()
    with Lease(context.workspace.store("models", key), owner()):
        if context.local:
            execute(tasks, Host(tracker=context.tracker))
            timing.work_s += time.monotonic() - began
        else:
            _in_group(context, name, tasks, timing)


def run_here(context: Context, task: "Task", timing: Timing) -> None:
    """Run a task of seconds in this process, under a lease on its own folder."""
    from pipeline.flow.tasks import Host, TrainTask, execute

    assert isinstance(task, TrainTask)
    began = time.monotonic()
    with Lease(place(task.out), owner()):
        execute([task], Host(tracker=context.tracker))
    timing.work_s += time.monotonic() - began


def run_cells(context: Context, name: str, cells: Sequence[Sequence["Task"]], timing: Timing, key: str) -> None:
    """Run lists of tasks that need nothing of one another: side by side in warm actors, or, where a network takes
    several workers or an accelerator, one after another in one worker group. The lease is that of `key`."""
    from pipeline.flow.tasks import Host, execute, open_tasks

    todo = [cell for cell in cells if open_tasks(cell)]
    if not todo:
        return
    timing.skipped = False
    train = context.recipe.train
    if context.local or train.num_workers > 1 or train_device(train) == "cuda":
        run_tasks(context, name, [task for cell in todo for task in cell], timing, key)
        return
    LOG.info("%s: %d of %d independent networks to train", name, len(todo), len(cells))
    began, session = time.monotonic(), context.ray()
    demands = warm_actors(context.recipe, "networks beside one another", len(todo), session.capacity())
    session.require(name, demands)
    from pipeline.on_ray.pool import WarmPool

    actors = demands[0]
    with (
        Lease(context.workspace.store("models", key), owner()),
        WarmPool(actors.count, cpus=actors.cpus, gpus=actors.gpus, threads=train.threads) as pool,
    ):
        timing.startup_s += time.monotonic() - began
        began = time.monotonic()
        pool.map(functools.partial(execute, host=Host(tracker=context.tracker)), todo)
    timing.work_s += time.monotonic() - began


def _in_group(context: Context, name: str, tasks: Sequence["Task"], timing: Timing) -> None:
    train, session = context.recipe.train, context.ray()
    gpu = train_device(train) == "cuda"
    began = time.monotonic()
    session.require(name, step_demands(context.recipe, session.capacity())["distill"])
    from pipeline.on_ray.train import Group, run_group

    group = Group(train.num_workers, train.cpus_per_worker, gpu, train.max_failures)
    timing.startup_s += time.monotonic() - began
    outcome = run_group(group_work, {"tasks": list(tasks), "tracker": context.tracker}, name=name, group=group)
    timing.startup_s += outcome["startup"]
    timing.work_s += outcome["work"]


def group_work(place: Any, payload: Mapping[str, Any], report: Any) -> dict[str, Any]:
    """What a worker of the group does: all tasks in order. `ray.train.report` is one of its reporters."""
    from pipeline.flow.tasks import Host, execute

    def progress(name: str, metrics: Mapping[str, float]) -> None:
        report({f"{name}/{metric}": float(value) for metric, value in metrics.items()})

    execute(payload["tasks"], Host(place.rank, place.world, payload["tracker"], progress))
    return {}


def check_memory(context: Context, views: Any) -> None:
    """Training reads its frames into memory: refuse what does not fit before anything is started."""
    size = context.recipe.views.size
    rows = sum(part.rows for shard in views.snapshots["train"].shards for part in shard.objects)
    held = rows * context.recipe.views.num_frames * size[0] * size[1] * 3
    limit = context.recipe.train.memory_limit
    if held > limit:
        raise ConfigError(
            f"{rows} training views are {held / 2**30:.1f} GiB of frames, train.memory_limit {limit / 2**30:.1f} GiB: "
            "raise it if each worker's machine has that memory, or lower views.size, views.num_frames or "
            "views.train.views_per_clip"
        )
