"""Validation videos in training views: what the labellers' accuracy is measured on, beside their agreement."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.flow.build import validation_trusted, view_policy
from pipeline.flow.check_views import check_views
from pipeline.flow.context import Context
from pipeline.flow.plans import plan_step, scan, update_plans
from pipeline.flow.step import Timing
from pipeline.flow.videos import Videos
from pipeline.manifest.plan import read_plan
from pipeline.video.views import view_keys
from tests.unit.flow.precomputed import context, videos


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Videos]:
    """Six videos, the last of which is none."""
    opened = context(videos(tmp_path_factory.mktemp("videos")), tmp_path_factory.mktemp("workspace"))
    return opened, scan(opened)


def test_they_are_drawn_and_decoded_by_the_training_policy(scanned: tuple[Context, Videos]) -> None:
    opened, found = scanned
    timing = Timing("check")
    check = check_views(opened, found, list(range(6)), timing)
    assert check.rows == [0, 1, 2, 3, 4], "the file that is no video is left out"
    table = open_dataset(check.folder, check.snapshot).table()
    policy = view_policy(opened.recipe, "train")
    wanted = [key for row in check.rows for key in view_keys(found.ids[row], policy)]
    keys = zip(table.column("clip_id").to_pylist(), table.column("view_id").to_pylist(), strict=True)
    assert list(keys) == wanted
    assert column(table, "frames").shape == (10, 4, 16, 16, 3)
    assert len(np.unique(column(table, "frames").reshape(10, -1), axis=0)) == 10
    timing = Timing("check")
    assert check_views(opened, found, list(range(6)), timing) == check
    assert timing.skipped, "found by its key"


def test_no_training_view_of_a_validation_video_enters_the_train_plan(scanned: tuple[Context, Videos]) -> None:
    opened, found = scanned
    update_plans(opened, found)
    check = check_views(opened, found, found.of("val"), Timing("check"))
    assert found.of("val")
    planned = read_plan(plan_step(opened.recipe, "train").folder(opened.workspace))
    assert {found.ids[row] for row in found.of("train")} == set(planned.planned.videos.to_pylist())
    assert not {found.ids[row] for row in check.rows} & set(planned.planned.videos.to_pylist())


@pytest.mark.parametrize(
    ("sets", "trusted"),
    [
        ([], True),
        (["manifest.noise.kind=symmetric", "manifest.noise.rate=0.3"], True),
        (["manifest.noise.kind=symmetric", "manifest.noise.rate=0.3", "manifest.noise.splits=[train,val]"], False),
        (["labels.trust_validation=false"], False),
        (["labels.trust_validation=true", "manifest.noise.kind=symmetric", "manifest.noise.splits=[val]"], True),
    ],
)
def test_validation_is_trusted_unless_noise_is_injected_there_or_the_recipe_says_so(
    sets: list[str], trusted: bool, tmp_path: Path
) -> None:
    assert validation_trusted(context(tmp_path, tmp_path / "workspace", *sets).recipe) is trusted
