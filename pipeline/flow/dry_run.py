"""`--dry-run`: what a recipe would do and need, in words. Nothing is written and nothing is started."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.layout import Workspace, read_json
from pipeline.config.recipe import Recipe
from pipeline.errors import StagedKDError
from pipeline.flow.apart import apart
from pipeline.flow.build import PLANS
from pipeline.flow.context import run_name
from pipeline.flow.demands import known_capacity, step_demands
from pipeline.flow.dry_checks import refusals, warnings
from pipeline.flow.dry_data import Data, look
from pipeline.flow.dry_sizes import Answers, PlanSize, duration, known_answers, plan_size, size, targets_bytes
from pipeline.flow.dry_steps import Row, Survey
from pipeline.flow.dry_to_do import count_to_do
from pipeline.flow.estimate import PROBED, Passes, Probe, estimate, probe_videos
from pipeline.flow.kept import least_kept, probed, some_logits, words
from pipeline.flow.targets import check_targets
from pipeline.flow.teacher_times import TeacherTimes, time_teachers
from pipeline.manifest.entries import SPLITS
from pipeline.on_ray.capacity import Capacity, Demand

WIDTH = 118


def describe(recipe: Recipe, name: str, *, probe: bool = False) -> str:
    """The whole way of `recipe` as text; `name` is the recipe's stem.

    `probe`: decode a few videos for real (into a temporary folder), let the teachers answer twice, and estimate what is
    to do from that.

    Scans `manifest.root` where it is there, else says what it assumes. Errors: as of a real run for input that would be
    refused (an empty class, a group on two sides, a newer workspace, a name used with another root).
    """
    check_targets(recipe)
    data = look(recipe)
    sizes = {plan: plan_size(recipe, data, plan) for plan in PLANS}
    teachers = time_teachers(recipe, data.class_names) if probe and data.paths else None
    survey = Survey(recipe, data, sizes)
    told = probe_videos(recipe, data.paths[:: max(1, -(-len(data.paths) // PROBED))]) if probe and data.paths else None
    if told is not None:
        sizes = {plan: _measured(each, told) for plan, each in sizes.items()}
    answers = known_answers(recipe, data.classes) if teachers is None or teachers.each is None else teachers.each
    sizes = {plan: replace(each, targets_bytes=targets_bytes(recipe, answers, plan)) for plan, each in sizes.items()}
    found, kept = known_capacity(recipe), _top_k(recipe, survey, data.paths if probe else ())
    run = run_name(recipe, name)
    parts = [
        [f"Dry run of {run}: nothing is written, nothing is started."],
        [*_data(data), _workspace(recipe, run, survey)],
        _steps(survey.rows(answers)),
        ["Sizes", *_sizes(recipe, sizes)],
        *([_probed(recipe, told, teachers, answers, sizes, survey, found)] if told and teachers else []),
        *([[f"Top-k      {kept}"]] if kept else []),
        _resources(recipe, found),
        _warnings([*_refused(teachers), *refusals(recipe, found), *warnings(recipe, data, sizes)]),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _top_k(recipe: Recipe, survey: Survey, paths: Sequence[str]) -> str:
    """What top-k targets keep of the dense KL: of what is stored already, else by the teacher's answers for a few
    videos. Empty where all logits are stored."""
    if recipe.precompute.codec.top_k is None:
        return ""
    own = survey.given[0] if survey.named and not recipe.teacher.fit and survey.given else None
    stored = None if own is None else some_logits(survey.targets("eval", own).folder(survey.context.workspace))
    if stored is not None:
        return words(least_kept(recipe, stored))
    try:
        kept = apart(probed, recipe, list(paths[:: max(1, -(-len(paths) // PROBED))])) if paths else None
    except StagedKDError as error:
        return f"what top_k keeps of the dense KL could not be measured: {str(error).splitlines()[0]}"
    return "what top_k keeps of the dense KL is measured when the targets are stored" if kept is None else words(kept)


def _refused(teachers: TeacherTimes | None) -> list[str]:
    return [f"the teachers cannot be made: {teachers.why}"] if teachers and teachers.refused else []


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


def _measured(plan: PlanSize, told: Probe) -> PlanSize:
    """With what a few decoded videos took and left in the cache; as guessed where none could be decoded."""
    if told.failed == told.videos:
        return plan
    return replace(plan, video_seconds=told.seconds[plan.name], cached_bytes=told.view_bytes, measured=True)


def _sizes(recipe: Recipe, sizes: Mapping[str, PlanSize]) -> list[str]:
    seconds = sum(plan.videos * plan.video_seconds for plan in sizes.values())
    whole = f"  {_cache(recipe, list(sizes.values()))}; decoding about {duration(seconds)} of one core"
    return [*(_plan_line(plan) for plan in sizes.values()), whole]


def _cache(recipe: Recipe, plans: Sequence[PlanSize]) -> str:
    kind, total = recipe.precompute.frames, size(sum(plan.views * plan.cached_bytes for plan in plans))
    if kind == "none":
        return "no raster cache (precompute.frames: none)"
    if any(plan.measured for plan in plans):
        return f"{'JPEG' if kind == 'jpeg' else 'raster'} cache {total}, as a few videos were stored"
    return f"JPEG cache about {total}" if kind == "jpeg" else f"raster cache {total} before compression"


def _plan_line(plan: PlanSize) -> str:
    shards = f"{plan.shards_of(plan.videos):,} shards of {plan.videos_per_shard} videos"
    each = f"raster {size(plan.view_bytes)} a view"
    if plan.targets_bytes is not None:
        each += f", targets {size(plan.targets_bytes)} a view"
    views = f"{plan.videos:,} videos × {plan.per_video} = {plan.views:,} views"
    return f"  {plan.name:<5} {views}, {shards}, micro-batches of {plan.micro_batch}; {each}"


def _probed(
    recipe: Recipe,
    told: Probe,
    teachers: TeacherTimes,
    answers: Sequence[Answers] | None,
    sizes: Mapping[str, PlanSize],
    survey: Survey,
    found: Capacity,
) -> list[str]:
    """What is to do of both plans, by a few videos that were decoded here and now."""
    timed = f"take {duration(teachers.seconds)} a clip" if teachers.seconds is not None else "are not timed"
    head = f"Estimate   {told.videos} videos were decoded here, {told.failed} failed; the teachers {timed}"
    why = [f"           ({teachers.why})"] if teachers.why else []
    passes: Passes = "two" if recipe.teacher.fit else "one"
    to_do = count_to_do(survey)
    whole = estimate(recipe, found, to_do, told, answers, passes).words()
    again = recipe.teacher.fit and any(each.labels[0] < sizes[plan].views for plan, each in to_do.items())
    same = ["             (with the fitted teacher as it is; another one labels all views anew)"] if again else []
    return [head, *why, f"  to do      {whole}", *same, *(_per_unit(sizes[plan]) for plan in PLANS)]


def _per_unit(plan: PlanSize) -> str:
    """Seconds of a video, a micro-batch and a shard; what follows from them stands among the warnings."""
    video, batch, shard = map(duration, (plan.video_seconds, plan.micro_batch_seconds, plan.shard_seconds))
    return f"  {plan.name:<10} {video} a video, {batch} a micro-batch, {shard} a shard"


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
