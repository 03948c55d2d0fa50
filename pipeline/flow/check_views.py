"""Validation videos in views of the training policy: what a labeller's accuracy is measured on (method.md §4 (e)).

The noise rate is the accuracy on validation less the agreement with the given labels. Agreement is taken on training
views, so accuracy must be: another policy alone (2–7 points) passes for noise. Neither plan holds these views: training
views are of training videos only, so that nothing that trains can meet a validation video. They are decoded here, of at
most 1,000 videos, and kept as a frames artefact of their own.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.commit import write_table
from pipeline.artifacts.identity import integer
from pipeline.artifacts.snapshot import pin
from pipeline.flow.build import frames_job, view_policy
from pipeline.flow.context import Context
from pipeline.flow.step import TABLE, Made, Step, Timing, ensure
from pipeline.flow.videos import Videos

VERSION = 1
MOST = 1000  # validation videos; the accuracy's standard error is below 1.6 points then


@dataclass(frozen=True)
class CheckViews:
    """The frames artefact, its pinned snapshot, and the positions of its videos in the manifest, ascending."""

    folder: Path
    snapshot: str
    rows: list[int]


def check_views(context: Context, videos: Videos, rows: list[int], timing: Timing) -> CheckViews:
    """The training views of the validation videos at `rows` (at most 1,000 of them, drawn by their names)."""
    chosen = sorted(sorted(rows, key=lambda row: integer("check", videos.ids[row]))[:MOST])
    policy = view_policy(context.recipe, "train")
    sources = [[videos.ids[row], videos.sources[row]] for row in chosen]
    step = Step(
        "check-views",
        "frames",
        VERSION,
        {"policy": asdict(policy), "reader": context.recipe.precompute.reader},
        {"videos": sources},
        {"manifest": videos.key, "plan": "check"},
        TABLE,
    )
    work = lambda folder, attempt: _decode(context, videos, chosen, folder, attempt)  # noqa: E731
    folder = ensure(step, context.workspace, work, timing)
    snapshot = pin(folder)
    there = {row["video_id"] for row in _rows(folder)}
    return CheckViews(folder, snapshot.digest, [row for row in chosen if videos.ids[row] in there])


def _rows(folder: Path) -> list[dict[str, Any]]:
    from pipeline.artifacts.dataset import open_dataset

    return open_dataset(folder).table(["video_id"]).to_pylist()


def _decode(context: Context, videos: Videos, rows: list[int], folder: Path, attempt: str) -> Made:
    """All views of all videos, one video after the other in one child; a video that fails here is left out."""
    import json
    from dataclasses import replace

    from pipeline.video.micro_batch import FramesStage, frames_table, has_frames
    from pipeline.video.views import view_keys

    policy = view_policy(context.recipe, "train")
    job = frames_job(context.recipe, {"train": folder}, keep_pixels=True)
    stage = FramesStage(replace(job, cache="none", micro_batch=policy.views_per_clip))
    slots: list[dict[str, Any]] = []
    frames: list[np.ndarray] = []
    try:
        for row in rows:
            keys = view_keys(videos.ids[row], policy)
            count = len(keys)
            done = stage(
                {
                    "plan": "train",
                    "shard_id": TABLE,
                    "micro_batch": 0,
                    "video_ids": [videos.ids[row]] * count,
                    "uris": [str(videos.root / videos.uris[row])] * count,
                    "clip_ids": [clip for clip, _ in keys],
                    "view_ids": [view for _, view in keys],
                    "part": "",
                }
            )
            found = json.loads(done["slots"])
            if all(has_frames(slot) for slot in found):
                slots += found
                frames.append(done["frames"][:count])
    finally:
        stage.close()
    table = frames_table(
        slots, np.concatenate(frames) if frames else np.zeros((0, policy.num_frames, *policy.size, 3), np.uint8)
    )
    return [write_table(folder, f"{TABLE}.{attempt}.parquet", table)], {"videos": len(frames)}
