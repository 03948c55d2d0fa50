"""`--retry-quarantined`: which videos of a plan are to be tried again."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.commit import read_markers, read_object
from pipeline.errors import InputError
from pipeline.flow.context import Context
from pipeline.flow.precompute import frames_step
from pipeline.flow.targets import teacher_steps
from pipeline.flow.teacher import given_step
from pipeline.manifest.plan import Buried
from pipeline.video.handle import REASONS


def quarantined(context: Context, plan: str, reasons: Sequence[str]) -> set[Buried]:
    """(video_id, shard_id) of the quarantined videos of a plan, for these reasons or, where none is named, for any.

    InputError for a reason that there is not.
    """
    unknown = sorted(set(reasons) - set(REASONS))
    if unknown:
        raise InputError(f"--retry-quarantined {unknown[0]}: there is no such reason; known are {', '.join(REASONS)}")
    folder, found = quarantine_folder(context, plan), set()
    for shard, marker in read_markers(folder, "shard-").items():
        if marker.quarantine is None or not marker.quarantine.rows:
            continue
        table = read_object(folder, marker.quarantine, ["video_id", "reason"])
        table = table.filter(pc.is_in(table.column("reason"), pa.array(reasons, pa.string()))) if reasons else table
        found |= {(video, shard) for video in table.column("video_id").to_pylist()}
    return found


def quarantine_folder(context: Context, plan: str) -> Path:
    """Where quarantine lies: beside the frames, without a cache beside the targets of the first teacher."""
    frames = frames_step(context, plan)
    if context.recipe.precompute.frames != "none":
        return frames.folder(context.workspace)
    steps = teacher_steps(context, {plan: frames.key}, given_step(context.recipe).key)
    return steps[plan].folder(context.workspace)
