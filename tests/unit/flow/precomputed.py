"""A small data set, precomputed in this process by the stages and the committer of the graph, without Ray."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.layout import write_about
from pipeline.flow.build import frames_job
from pipeline.flow.context import Context
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import Work, open_plans
from pipeline.flow.step import describe
from pipeline.flow.targets import codec_of, teacher_jobs
from pipeline.flow.teacher import given_teachers
from pipeline.flow.teacher_stage import TeacherStage
from pipeline.targets.committer import ShardCommitter, TeacherTargets
from pipeline.video.micro_batch import FramesStage
from tests.support.videos import textured_frame, write_video
from tests.unit.flow import small

PLAIN = "tests.unit.flow.plain_teacher:build"
SHARD = "shard-00000000"  # the first of each plan


def videos(root: Path, classes: int = 2, each: int = 3) -> Path:
    """root/c0/0.mp4, …: short videos that differ; c1/2.mp4 is none."""
    for number in range(classes * each):
        path = root / f"c{number // each}" / f"{number % each}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames=12, picture=lambda n, size, shift=number: textured_frame(n + 7 * shift, size))
    (root / f"c{classes - 1}" / f"{each - 1}.mp4").write_bytes(b"no video at all" * 20)
    return root


def context(root: Path, workspace: Path, *sets: str, **sections: Any) -> Context:
    """A recipe with one plain labeler over `root`; micro-batches of 4, shards of 8 views, train alone."""
    given = {
        "teacher": {"model": PLAIN, "labeler": True, "fit": False, "options": {"classes": 3}},
        "manifest": {"root": str(root), "name": "small", "split": {"train": 0.6, "val": 0.2, "test": 0.2}},
        "precompute": {"reader": "pyav"},
    }
    return small.context(root, workspace, *sets, **(given | sections))


def precompute(context: Context) -> Work:
    """Everything of both plans, one micro-batch after the other."""
    teachers = given_teachers(context)
    plans = update_plans(context, scan(context))
    work = open_plans(context, plans, teachers)
    names = {plan.name: plan.frames for plan in work.opened}
    decode = FramesStage(frames_job(context.recipe, names, keep_pixels=True))
    stage = TeacherStage(teacher_jobs(context.recipe, teachers))
    for number, plan in enumerate(work.opened):
        for step in work.written(plan):
            write_about(step.folder(context.workspace), describe(step))
        committer = _committer(context, work, number)
        for shard in plan.todo:
            rows = plan.shard_rows(shard).to_pylist()
            committer.parts[shard] = len(rows)
            for row in rows:
                committer.add(_through(row, decode, stage))
    decode.close()
    return work


def _committer(context: Context, work: Work, number: int) -> ShardCommitter:
    plan, codec = work.opened[number], codec_of(context.recipe, work.opened[number].name)
    return ShardCommitter(
        parts={},
        frames=plan.frames if plan.cached else None,
        teachers=tuple(TeacherTargets(folder, codec) for folder in plan.targets),
        check=lambda: None,
        known=plan.known,
        facts={"device": "cpu", "micro_batch": context.recipe.plan.micro_batch},
    )


def _through(row: dict[str, Any], decode: FramesStage, stage: TeacherStage) -> dict[str, Any]:
    done = stage(decode(row))
    assert all(not isinstance(value, np.ndarray) or name.startswith("t") for name, value in done.items())
    assert json.loads(done["slots"])
    return done
