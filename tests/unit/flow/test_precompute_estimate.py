"""What precompute expects to write, worked out from what its teachers are."""

from pathlib import Path

import pytest

from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import _targets_bytes, open_plans
from pipeline.flow.teacher import given_teachers
from tests.unit.flow import precomputed


@pytest.mark.parametrize("teachers", [1, 2])
def test_targets_are_counted_with_the_classes_and_channels_of_every_teacher(tmp_path: Path, teachers: int) -> None:
    root = precomputed.videos(tmp_path / "videos")
    further = {"model": precomputed.PLAIN, "labeler": True, "options": {"classes": 7}}
    given = {"precompute": {"more_teachers": [further] * (teachers - 1)}} if teachers > 1 else {}
    context = precomputed.context(root, tmp_path / "workspace", **given)
    models = given_teachers(context)
    work = open_plans(context, update_plans(context, scan(context)), models)
    per_view = _targets_bytes(context.recipe, work, {"train": 30, "eval": 10})
    assert len(models) == teachers
    classes = [3, 7][:teachers]
    assert per_view == sum(2 * (count + sum(_dims(model.folder))) for count, model in zip(classes, models, strict=True))


def _dims(folder: Path) -> list[int]:
    from pipeline.flow.step import content
    from pipeline.models.facts import read_facts

    return list(read_facts(content(folder))["dims"])
