"""Which stored logits of a fold model still stand."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.distill.data import DataSpec
from pipeline.distill.spec import Job
from pipeline.flow.fold import FoldTask
from pipeline.models.spec import NetworkSpec

TASK = FoldTask(
    job=Job("fold-0", "0" * 64, NetworkSpec("compact", ("a", "b")), steps=1),
    data=DataSpec("frames", 2, "s1"),
    out="models/0",
    held_out=("v1",),
    check_frames="frames-eval",
    check_snapshot="e1",
    validation=("v2", "v3"),
    micro_batch=4,
)


@pytest.mark.parametrize(
    "change", [{"validation": ("v2",)}, {"check_snapshot": "e2"}, {"held_out": ("v1", "v4")}, {"micro_batch": 8}]
)
def test_other_videos_or_views_mean_other_logits_of_the_same_model(change: dict[str, Any]) -> None:
    """A validation video that comes later leaves the model as it is, and its logits must not be read as if it did."""
    assert replace(TASK, **change).marker != TASK.marker


def test_where_the_files_lie_means_nothing() -> None:
    assert replace(TASK, out="elsewhere", check_frames="elsewhere").marker == TASK.marker
