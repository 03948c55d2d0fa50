"""The main job's host: one TorchTrainer whose workers run a list of tasks, so that one start-up serves them all.

What counts as done is the tasks' own markers, never Ray's: the trainer's storage is a temporary folder of the driver,
and a restarted group finds in the markers and checkpoints where to go on.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from pipeline.errors import JobError

LOG = logging.getLogger(__name__)
CONTROLLER_RETRIES = 2


@dataclass(frozen=True)
class Place:
    """Where a worker stands."""

    rank: int
    world: int
    device: str


Work = Callable[[Place, Any, Callable[[dict[str, float]], None]], Any]


@dataclass(frozen=True)
class Group:
    """Shape of a worker group."""

    num_workers: int
    cpus_per_worker: float
    use_gpu: bool = False
    max_failures: int = 2


def run_group(work: Work, tasks: Any, *, name: str, group: Group) -> dict[str, Any]:
    """Run `work(place, tasks, report)` on every worker; returns {"value": rank 0's return, "startup": s, "work": s}.

    `report(metrics)` is a barrier on all ranks. Raises JobError when the group failed `max_failures` times.
    """
    began = time.time()
    result = _fit(work, tasks, name, group)
    value, entered, left = result.return_value
    return {"value": value, "startup": entered - began + (time.time() - left), "work": left - entered}


def _fit(work: Work, tasks: Any, name: str, group: Group) -> Any:
    """fit() once, and again where its controller died with a node: the tasks go on from their markers."""
    for attempt in range(CONTROLLER_RETRIES + 1):
        try:
            return _fit_once(work, tasks, name, group)
        except TrainingFailedError as error:
            raise JobError(f"worker group {name} failed: {_cause(error)}") from error
        except RayActorError as error:
            if attempt == CONTROLLER_RETRIES:
                raise JobError(f"worker group {name}: its controller died {attempt + 1} times: {error}") from error
            LOG.warning("worker group %s: its controller died, starting it again (%s)", name, error)
    raise AssertionError("unreachable")


def _fit_once(work: Work, tasks: Any, name: str, group: Group) -> Any:
    with tempfile.TemporaryDirectory(prefix="stagedkd-train-") as storage:
        trainer = _Trainer(
            _worker,
            train_loop_config={"work": work, "tasks": tasks},
            torch_config=TorchConfig(backend="nccl" if group.use_gpu else "gloo"),
            scaling_config=_scaling(group),
            run_config=RunConfig(
                name=name,
                storage_path=str(Path(storage).resolve()),
                failure_config=FailureConfig(max_failures=group.max_failures, controller_failure_limit=2),
            ),
        )
        return trainer.fit()


class _Trainer(TorchTrainer):
    """Without Ray's cleaner of placement groups, a detached actor that asks the state API about the controller.

    It asks the cluster that the machine saw last and not its own, and takes a controller that is unknown there for
    dead. A placement group ends with the controller that made it anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()  # type: ignore[misc]  # typed as the trainer of Train v1
        return [callback for callback in made if not isinstance(callback, PlacementGroupCleanerCallback)]


def _scaling(group: Group) -> ScalingConfig:
    resources: dict[str, float] = {"CPU": group.cpus_per_worker} | ({"GPU": 1} if group.use_gpu else {})
    return ScalingConfig(num_workers=group.num_workers, use_gpu=group.use_gpu, resources_per_worker=resources)


def _worker(config: dict[str, Any]) -> Any:
    entered = time.time()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()))
    value = config["work"](place, config["tasks"], ray.train.report)
    return value, entered, time.time()


def _cause(error: BaseException) -> str:
    causes = getattr(error, "worker_failures", None) or {}
    return "; ".join(f"rank {rank}: {cause}" for rank, cause in causes.items()) or str(error)
