"""Features of frozen parts, computed once: teacher, fold models, label refinement and the gate share the artefact."""

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.layout import write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.snapshot import pin
from pipeline.config.networks import Network
from pipeline.flow.build import network_fields, network_spec, train_device
from pipeline.flow.context import Context
from pipeline.flow.demands import warm_actors
from pipeline.flow.step import Step, Timing, describe, owner

if TYPE_CHECKING:
    from pipeline.flow.tasks import FeatureTask

LOG = logging.getLogger(__name__)
VERSION = 1
HEAD = ("head", "dropout", "layer_norm", "num_frames", "new_head")  # options that the frozen part does not read


def reads_features(network: Network) -> bool:
    """Whether a network of the recipe is fitted on stored features: its backbone is frozen and sees pixels that no
    augmentation changes (there is none for teachers and fold models today)."""
    options = network.options
    return network.model == "frame" and bool(options.get("frozen")) and options.get("stages") is None


def features_step(context: Context, network: Network, frames: str) -> Step:
    """What the frozen part of `network` gives of the frames artefact with key (or folder name) `frames`."""
    recipe = context.recipe
    fields = network_fields(network)
    options = {name: value for name, value in fields["options"].items() if name not in HEAD}
    fields |= {"options": options, "device": train_device(recipe.train), "threads": recipe.train.threads}
    fields["micro_batch"] = recipe.plan.micro_batch
    return Step("features", "features", VERSION, fields, {"frames": frames})


@dataclass(frozen=True)
class Inputs:
    """What a network is fitted on: an artefact with its pinned snapshot, and which of its columns."""

    folder: Path
    snapshot: str
    column: str


def fit_inputs(
    context: Context, network: Network, classes: tuple[str, ...], frames: Path, snapshot: str, timing: Timing
) -> Inputs:
    """Stored features where the network's backbone is frozen (made here, once for all that ask), else the rasters."""
    if not reads_features(network):
        return Inputs(frames, snapshot, "frames")
    return Inputs(*frozen_features(context, network, classes, frames, snapshot, timing), "features")


def features_version(network: Network) -> dict[str, int]:
    """What enters the key of a network that is fitted on stored features: nothing where it is not."""
    return {"features": VERSION} if reads_features(network) else {}


def frozen_features(
    context: Context, network: Network, classes: tuple[str, ...], frames: Path, snapshot: str, timing: Timing
) -> tuple[Path, str]:
    """The features artefact of a frames artefact as pinned by `snapshot`: its folder and its own pinned snapshot."""
    from pipeline.flow.tasks import FeatureTask, feature_shards_left

    step = features_step(context, network, frames.name)
    folder = step.folder(context.workspace)
    task = FeatureTask(
        name=f"features of {frames.name[:8]}",
        network=network_spec(network, classes),
        frames=str(frames),
        snapshot=snapshot,
        out=str(folder),
        micro_batch=context.recipe.plan.micro_batch,
        device=train_device(context.recipe.train),
        threads=context.recipe.train.threads,
    )
    left = feature_shards_left(task)
    if left:
        write_about(folder, describe(step))
        LOG.info("features: the frozen backbone sees %d of the shards of %s once", left, frames.name[:8])
        with Lease(folder, owner()):
            _compute(context, task, left, timing)
    return folder, pin(folder).digest


def _compute(context: Context, task: "FeatureTask", left: int, timing: Timing) -> None:
    from pipeline.flow.tasks import Host, run_features

    began = time.monotonic()
    if context.local:
        run_features(task, Host())
        timing.work_s += time.monotonic() - began
        return
    session = context.ray()
    demands = warm_actors(context.recipe, "features of a frozen part", left, session.capacity())
    session.require("features", demands)
    from pipeline.on_ray.pool import WarmPool

    actors = demands[0]
    threads = context.recipe.train.threads
    with WarmPool(actors.count, cpus=actors.cpus, gpus=actors.gpus, threads=threads) as pool:
        timing.startup_s += time.monotonic() - began
        began = time.monotonic()
        hosts = [Host(rank=rank, world=actors.count) for rank in range(actors.count)]
        pool.map(functools.partial(_share, task), hosts)
    timing.work_s += time.monotonic() - began


def _share(task: "FeatureTask", host: Any) -> None:
    """One actor's part of the shards."""
    from pipeline.flow.tasks import run_features

    run_features(task, host)
