"""Targets: what a network says of every view. The teacher's come from the precompute graph, others' from a task."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import write_about
from pipeline.artifacts.snapshot import pin
from pipeline.config.base import identity_fields
from pipeline.flow.build import device
from pipeline.flow.context import Context
from pipeline.flow.step import TABLE, Step, describe
from pipeline.flow.teacher import Model
from pipeline.flow.videos import Views

VERSION = STATISTICS_VERSION = 1


@dataclass(frozen=True)
class Targets:
    """Where a network's targets lie per plan. `snapshots`: pinned digests of the teacher's (an assistant's are known
    by their key alone); `identity` enters the keys of those who learn from them."""

    folders: dict[str, Path]
    identity: str
    statistics: Path
    snapshots: dict[str, str] = field(default_factory=dict)
    class_index: tuple[int, ...] | None = None


def targets_step(context: Context, frames_key: str, teacher_key: str, run_device: str, dtype: str) -> Step:
    """The (growing) targets of one plan by one network: keyed by configuration only."""
    recipe = context.recipe
    fields = {
        "codec": identity_fields(recipe.precompute.codec),
        "device": run_device,
        "dtype": dtype,
        "micro_batch": recipe.plan.micro_batch,
        "threads": recipe.train.threads,
    }
    return Step("targets", "targets", VERSION, fields, {"frames": frames_key, "teacher": teacher_key})


def statistics_step(targets: str) -> Step:
    """Channel statistics of a network's training targets; `targets` is their pinned digest or their identity."""
    return Step("statistics", "statistics", STATISTICS_VERSION, {}, {"targets": targets}, marker=TABLE)


def network_targets(context: Context, views: Views, model: Model) -> Targets:
    """Targets that a network of the cascade writes in its worker group."""
    run_device = device(context.recipe.train.device)
    steps = {plan: targets_step(context, views.keys[plan], model.key, run_device, "float32") for plan in views.folders}
    folders = {plan: step.folder(context.workspace) for plan, step in steps.items()}
    for plan, step in steps.items():
        write_about(folders[plan], describe(step))
    # What it says follows from its key and the views it looks at.
    identity = f"{steps['train'].key}@{views.digest('train')}"
    return Targets(folders, identity, statistics_step(identity).folder(context.workspace))


def pinned_targets(
    context: Context, steps: dict[str, Step], tombstones: Any, class_index: tuple[int, ...] | None
) -> Targets:
    """The teacher's targets as committed now."""
    folders = {plan: step.folder(context.workspace) for plan, step in steps.items()}
    snapshots = {plan: pin(folder, tombstones=tombstones[plan]).digest for plan, folder in folders.items()}
    statistics = statistics_step(snapshots["train"]).folder(context.workspace)
    return Targets(folders, snapshots["train"], statistics, snapshots, class_index)
