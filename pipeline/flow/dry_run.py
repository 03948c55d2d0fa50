"""`--dry-run`: what a recipe would do and need, in words. Nothing is written and nothing is started."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.layout import Workspace, read_json
from pipeline.config.recipe import Recipe
from pipeline.flow.build import PLANS
from pipeline.flow.context import run_name
from pipeline.flow.demands import step_demands
from pipeline.flow.dry_checks import MICRO_BATCH_SECONDS, SHARD_SECONDS, capacity, refusals, warnings
from pipeline.flow.dry_data import Data, look
from pipeline.flow.dry_sizes import PlanSize, duration, plan_size, size
from pipeline.flow.dry_steps import Row, Survey
from pipeline.flow.estimate import PROBED, estimate, probe_videos
from pipeline.flow.targets import check_targets
from pipeline.manifest.entries import SPLITS
from pipeline.on_ray.capacity import Capacity, Demand

WIDTH = 118


def describe(recipe: Recipe, name: str, *, probe: bool = False) -> str:
    """The whole way of `recipe` as text; `name` is the recipe's stem.

    `probe`: decode a few videos for real (into a temporary folder) and estimate what is to do from them.

    Scans `manifest.root` where it is there, else says what it assumes. Errors: as of a real run for input that would be
    refused (an empty class, a group on two sides, a newer workspace, a name used with another root).
    """
    check_targets(recipe)
    data = look(recipe)
    sizes = {plan: plan_size(recipe, data, plan) for plan in PLANS}
    survey = Survey(recipe, data, sizes)
    found = capacity(recipe)
    run = run_name(recipe, name)
    parts = [
        [f"Dry run of {run}: nothing is written, nothing is started."],
        [*_data(data), _workspace(recipe, run, survey)],
        _steps(survey.rows()),
        ["Sizes", *_sizes(sizes)],
        *([_probed(recipe, data, sizes, survey)] if probe and data.paths else []),
        _resources(recipe, found),
        _warnings([*refusals(recipe, found), *warnings(recipe, data, sizes)]),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _data(data: Data) -> list[str]:
    counts = ", ".join(f"{data.videos.get(split, 0):,} {split}" for split in SPLITS)
    total = sum(data.videos.values())
    return [
        f"Data       {data.source}",
        f"           {total:,} videos ({counts}), {data.classes} classes; typical: {data.typical}",
    ]


def _workspace(recipe: Recipe, run: str, survey: Survey) -> str:
    root = Path(recipe.workspace).absolute()
    if not survey.there:
        return f"Workspace  {root}, not there yet"
    summary = read_json(Workspace(root).run(run) / "summary.json")
    return f"Workspace  {root}" + (f"; this run was finished {summary['finished']}" if summary else "")


def _steps(rows: Sequence[Row]) -> list[str]:
    columns = [max(len(getattr(row, name)) for row in rows) for name in ("step", "key")]
    head = Row("Step", "key", "state")
    return [f"{row.step:<{columns[0]}}  {row.key:<{columns[1]}}  {row.state}" for row in [head, *rows]]


def _sizes(sizes: Mapping[str, PlanSize]) -> list[str]:
    lines = [_plan_line(plan) for plan in sizes.values()]
    total = sum(plan.views * plan.view_bytes for plan in sizes.values())
    seconds = sum(plan.videos * plan.video_seconds for plan in sizes.values())
    lines.append(f"  raster cache {size(total)} before compression; decoding about {duration(seconds)} of one core")
    return lines


def _plan_line(plan: PlanSize) -> str:
    shards = f"{plan.shards_of(plan.videos):,} shards of {plan.videos_per_shard} videos"
    each = f"raster {size(plan.view_bytes)} a view"
    if plan.targets_bytes is not None:
        each += f", targets {size(plan.targets_bytes)} a view"
    views = f"{plan.videos:,} videos × {plan.per_video} = {plan.views:,} views"
    return f"  {plan.name:<5} {views}, {shards}, micro-batches of {plan.micro_batch}; {each}"


def _probed(recipe: Recipe, data: Data, sizes: Mapping[str, PlanSize], survey: Survey) -> list[str]:
    """What is to do of both plans, by a few videos that are decoded here and now."""
    paths = data.paths[:: max(1, -(-len(data.paths) // PROBED))]
    told = probe_videos(recipe, paths)
    videos = {plan: survey.videos_to_do(plan) for plan in PLANS}
    views = {plan: count * sizes[plan].per_video for plan, count in videos.items()}
    each = sizes["train"].targets_bytes
    head = f"Estimate   {told.videos} videos were decoded here, {told.failed} failed; the teachers are not timed"
    whole = f"  to do      {estimate(recipe, videos, views, each, told).words()}"
    return [head, whole, *(_per_unit(sizes[plan], told.seconds[plan]) for plan in PLANS)]


def _per_unit(plan: PlanSize, seconds: float) -> str:
    """Measured seconds of a micro-batch and of a shard, which the header's estimate only guesses."""
    whole = replace(plan, video_seconds=seconds)
    short = " (short: Ray's own cost weighs)" if 0 < whole.micro_batch_seconds < MICRO_BATCH_SECONDS else ""
    small = " (small: many files)" if whole.shards_of(plan.videos) > 1 and whole.shard_seconds < SHARD_SECONDS else ""
    return (
        f"  {plan.name:<10} {duration(seconds)} a video, {duration(whole.micro_batch_seconds)} a micro-batch{short}, "
        f"{duration(whole.shard_seconds)} a shard{small}"
    )


def _resources(recipe: Recipe, found: Capacity) -> list[str]:
    known = f"{found.cpus:g} CPU, {found.gpus:g} GPU, " if found.cpus < 1e6 else ""
    head = f"Ray        the cluster can become: {known}{found.source}"
    asked = step_demands(recipe, found)
    return [head, *(f"  {step:<14} {_sum(demands)}" for step, demands in asked.items())]


def _sum(demands: Sequence[Demand]) -> str:
    """2 × 0.9 + 1 × 1 = 2.8 CPU, in words."""
    cpus = sum(demand.count * demand.cpus for demand in demands)
    gpus = sum(demand.count * demand.gpus for demand in demands)
    return " + ".join(map(str, demands)) + f" = {cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def _warnings(found: Sequence[str]) -> list[str]:
    wrapped = [textwrap.fill(text, WIDTH, initial_indent="  - ", subsequent_indent="    ") for text in found]
    return ["Mind", *wrapped]
