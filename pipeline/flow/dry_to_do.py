"""What a dry run counts as to do: frames to decode, and views that each teacher still has to label."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import folders
from pipeline.artifacts.identity import canonical_json
from pipeline.artifacts.layout import read_about
from pipeline.errors import InputError
from pipeline.flow.build import PLANS
from pipeline.flow.dry_sizes import ToDo
from pipeline.flow.dry_steps import Survey
from pipeline.flow.open_plan import committed_shards
from pipeline.flow.step import Step
from pipeline.flow.targets import VERSION
from pipeline.flow.teacher import fit_fields


def count_to_do(survey: Survey) -> dict[str, ToDo]:
    """Per plan about what is not decoded or not labelled yet: whole shards of what is planned are counted.

    The key of a fitted teacher follows from what is decoded. New, changed and removed videos mean another teacher, so
    all is labelled; else targets count as there that a teacher of the same configuration gave.
    """
    if not survey.named:
        teachers = 1 + len(survey.recipe.precompute.more_teachers)
        whole = {plan: (each.videos, each.views) for plan, each in survey.sizes.items()}
        return {plan: ToDo(videos, views, views, (views,) * teachers) for plan, (videos, views) in whole.items()}
    anew = any(opened.videos or opened.buried for opened in survey.opened.values())
    return {plan: _count(survey, plan, anew) for plan in PLANS}


def _count(survey: Survey, plan: str, anew: bool) -> ToDo:
    recipe, opened, size = survey.recipe, survey.opened[plan], survey.sizes[plan]
    stands = frozenset(opened.shards)
    undecoded = opened.left(_done(survey, survey.frames[plan]))
    done = [_done(survey, survey.targets(plan, teacher)) for teacher in survey.given]
    if recipe.teacher.fit:
        done.insert(0, frozenset() if anew else _fullest(survey, plan))
    unlabelled = [opened.left(each) for each in done]
    lacking = frozenset().union(*unlabelled, undecoded if recipe.precompute.frames != "none" else ())

    def videos(shards: frozenset[str]) -> int:
        planned = len(shards & stands) * size.videos_per_shard
        return min(size.videos, planned + (opened.videos if shards - stands else 0))

    fresh, every = videos(undecoded & lacking), videos(lacking)
    labels = tuple(videos(shards) * size.per_video for shards in unlabelled)
    return ToDo(fresh, fresh * size.per_video, every * size.per_video, labels)


def _done(survey: Survey, step: Step) -> frozenset[str]:
    return committed_shards(step.folder(survey.context.workspace))


def _fullest(survey: Survey, plan: str) -> frozenset[str]:
    """Shards that a teacher fitted as the recipe says has labelled; of several teachers' the most."""
    return max(map(committed_shards, _fitted_targets(survey, plan)), key=len, default=frozenset())


def _fitted_targets(survey: Survey, plan: str) -> Iterator[Path]:
    store, frames = survey.context.workspace.store, survey.frames[plan]
    theirs, fitted = canonical_json(survey.targets(plan, frames).fields), canonical_json(fit_fields(survey.recipe))
    for folder in folders(store("targets", "x").parent):
        about = _about(folder)
        inputs = about.get("inputs", {})
        alike = about.get("version") == VERSION and canonical_json(about.get("fields")) == theirs
        if alike and inputs.get("frames") == frames.key and "teacher" in inputs:
            teacher = _about(store("models", inputs["teacher"]))
            if teacher.get("step") == "fit-teacher" and canonical_json(teacher.get("fields")) == fitted:
                yield folder


def _about(folder: Path) -> dict[str, Any]:
    """{} where it cannot be read: what nobody can name is not counted, and a run does not look at it."""
    try:
        return read_about(folder)
    except InputError:
        return {}
