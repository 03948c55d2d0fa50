"""Targets: what a network says of every view. The teacher's come from the precompute graph, others' from a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.layout import write_about
from pipeline.artifacts.snapshot import pin
from pipeline.config.base import identity_fields
from pipeline.config.method import LOGITS_NEEDED
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import device
from pipeline.flow.context import Context
from pipeline.flow.step import TABLE, Step, describe
from pipeline.flow.teacher import Model
from pipeline.flow.teacher_stage import WHOLE, TeacherJob
from pipeline.flow.videos import Views
from pipeline.targets.codec import Codec

VERSION = 2  # failed slots keep their place in a micro-batch
STATISTICS_VERSION = 1


@dataclass(frozen=True)
class Targets:
    """Where a network's targets lie per plan. `snapshots`: pinned digests of the teacher's (an assistant's are known
    by their key alone); `identity` enters the keys of those who learn from them."""

    folders: dict[str, Path]
    identity: str
    statistics: Path
    snapshots: dict[str, str] = field(default_factory=dict)
    class_index: tuple[int, ...] | None = None


def codec_of(recipe: Recipe, plan: str = "train") -> Codec:
    """How the teachers' targets of a plan are stored: `top_k` is for what is trained from. ConfigError where the values
    cannot be."""
    section = recipe.precompute.codec
    codec = Codec(section.dtype, section.byte_stream_split, section.top_k, section.temperatures)
    return codec.whole if plan in WHOLE else codec


def targets_step(
    context: Context, frames_key: str, teacher_key: str, run_device: str, dtype: str, *, whole: bool, compiled: bool
) -> Step:
    """The (growing) targets of one plan by one network: keyed by configuration only. `whole`: all logits are kept."""
    recipe = context.recipe
    codec = identity_fields(recipe.precompute.codec)
    fields = {
        "codec": {name: codec[name] for name in codec if not (whole and name in ("top_k", "temperatures"))},
        "device": run_device,
        "dtype": dtype,
        "compile": compiled,
        "micro_batch": recipe.plan.micro_batch,
        "threads": recipe.train.threads,
    }
    return Step("targets", "targets", VERSION, fields, {"frames": frames_key, "teacher": teacher_key})


def teacher_steps(context: Context, frames_keys: Mapping[str, str], teacher_key: str) -> dict[str, Step]:
    """Per plan (of `frames_keys`) the targets of one teacher of the recipe, by the key of its models folder."""
    section = context.recipe.precompute
    run_device = device(section.device)

    def step(plan: str) -> Step:
        inputs = (frames_keys[plan], teacher_key, run_device, section.dtype)
        return targets_step(context, *inputs, whole=plan in WHOLE, compiled=section.compile)

    return {plan: step(plan) for plan in frames_keys}


def check_targets(recipe: Recipe) -> None:
    """Refuse, before anything starts, targets from which the recipe's losses could not be exact. ConfigError."""
    codec = codec_of(recipe)
    _check_further(recipe)
    if recipe.teacher.labeler and recipe.teacher.fit:
        raise ConfigError("teacher.labeler: true names a callable that cannot be fitted: set teacher.fit: false")
    if codec.top_k is None:
        return
    if not recipe.labels.cross_fit and recipe.labels.channel != "none":
        raise ConfigError(
            "labels.cross_fit: false judges labels by all of the teacher's logits: leave precompute.codec.top_k out"
        )
    methods = {recipe.distill.method, *_searched(recipe, "distill.method")}
    dense = sorted(method for method in methods if LOGITS_NEEDED[str(method)] == "dense")
    if dense:
        raise ConfigError(f"distill.method {dense[0]} needs all of the teacher's logits: leave codec.top_k out")
    missing = sorted(_temperatures(recipe) - set(codec.temperatures))
    if missing:
        wanted = ", ".join(f"{value:g}" for value in sorted({*codec.temperatures, *missing}))
        raise ConfigError(
            f"top-k targets serve the temperatures that they are stored for, and a loss of this recipe runs at "
            f"{missing[0]:g}: set precompute.codec.temperatures to [{wanted}]"
        )


def _check_further(recipe: Recipe) -> None:
    """Further teachers are averaged; dense wiring drops sources at random. Together nobody could say what counts."""
    taught = recipe.precompute.more_teachers and recipe.distill.extra_teachers != "ignore"
    if taught and recipe.cascade.wiring == "dense" and recipe.cascade.K:
        raise ConfigError(
            "precompute.more_teachers are averaged with the teacher, and cascade.wiring: dense leaves sources out at "
            "random: set cascade.wiring: chain, or distill.extra_teachers: ignore"
        )


def _temperatures(recipe: Recipe) -> set[float]:
    """Of the recipe's own loss, of its controls, and of every trial of the sweep."""
    own = {recipe.distill.temperature} if recipe.distill.lambda_kd else set()
    control = {arm.temperature for arm in recipe.distill.controls.kd}
    searched = _searched(recipe, "distill.temperature")
    return own | control | {float(value) for value in searched}


def _searched(recipe: Recipe, path: str) -> tuple[Any, ...]:
    """The choices of the sweep for one field. ConfigError where it is searched over a range."""
    axis = recipe.sweep.space.get(path) if recipe.sweep is not None else None
    if axis is None:
        return ()
    if axis.choice is None:
        raise ConfigError(f"sweep.space.{path} is a range: top-k targets serve the temperatures of a list (choice)")
    return axis.choice


def check_classes(recipe: Recipe, index: Sequence[int], classes: int) -> None:
    """Refuse top-k targets where the manifest has a part (`index`) of the teacher's `classes`. ConfigError."""
    if recipe.precompute.codec.top_k is not None and len(index) < classes:
        raise ConfigError(
            f"the manifest has {len(index)} of the teacher's {classes} classes, and top-k targets cannot be cut to "
            "them: leave precompute.codec.top_k out"
        )


def check_substages(recipe: Recipe, dims: Sequence[int]) -> None:
    """Refuse losses on features where a given teacher has no substages (`dims` is empty). ConfigError."""
    section = recipe.distill
    weights = {
        "lambda_corr": section.lambda_corr,
        "lambda_comb": section.lambda_comb if section.combinations not in ("none", ()) else 0.0,
        "lambda_dist": section.lambda_dist if section.distribution != "none" else 0.0,
    }
    swept = recipe.sweep.space if recipe.sweep is not None else {}
    used = [name for name, weight in weights.items() if weight or f"distill.{name}" in swept]
    if section.method == "staged" and used and not dims:
        raise ConfigError(
            f"the teacher gives logits and no features, and distill.{used[0]} compares features: set distill.method: "
            f"kd, or {', '.join(used)} to 0 (an exported program may give features: its option outputs)"
        )


def teacher_jobs(recipe: Recipe, teachers: Sequence[Model]) -> tuple[TeacherJob, ...]:
    """What the teachers' actor needs to know of each, in their order."""
    section = recipe.precompute
    how = TeacherJob(
        folder="",
        batch=recipe.plan.micro_batch,
        device=device(section.device),
        dtype=section.dtype,
        threads=recipe.train.threads,
        compile=section.compile,
        codec=codec_of(recipe),
    )
    return tuple(replace(how, folder=str(teacher.folder)) for teacher in teachers)


def statistics_step(targets: str) -> Step:
    """Channel statistics of a network's training targets; `targets` is their pinned digest or their identity."""
    return Step("statistics", "statistics", STATISTICS_VERSION, {}, {"targets": targets}, marker=TABLE)


def network_targets(context: Context, views: Views, model: Model) -> Targets:
    """Targets that a network of the cascade writes in its worker group."""
    run_device = device(context.recipe.train.device)
    steps = {
        plan: replace(
            targets_step(context, views.keys[plan], model.key, run_device, "float32", whole=True, compiled=False),
            about={"by": "cascade"},
        )
        for plan in views.folders
    }
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


def pin_buried(context: Context, steps: Sequence[dict[str, Step]], tombstones: Any) -> None:
    """Leave word, in frames and targets alike, of the videos that were planned anew, for who opens a folder by itself:
    rows of both are paired by their order."""
    for plans in steps:
        for plan, step in plans.items():
            folder = step.folder(context.workspace)
            if tombstones[plan] and read_markers(folder, "shard-"):
                pin(folder, tombstones=tombstones[plan])
