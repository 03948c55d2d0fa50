"""What top-k targets keep, as a precompute job and a dry run say it; teachers and clips are real, without Ray."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.load import build_recipe
from pipeline.config.recipe import Recipe
from pipeline.flow import kept as keeping
from pipeline.flow.context import Context
from pipeline.flow.dry_run import describe
from pipeline.flow.meter import table
from pipeline.flow.precompute import _kept
from tests.unit.flow import precomputed

CLASSES = 100


def recipe(k: int | None, *sets: str) -> Recipe:
    return build_recipe({}, [f"precompute.codec.top_k={'null' if k is None else k}", *sets])


def peaked(height: float = 5, noise: float = 2) -> np.ndarray:
    logits = np.random.default_rng(0).normal(0, noise, (256, CLASSES)).astype(np.float32)
    logits[np.arange(256), np.arange(256) * 7 % CLASSES] += height
    return logits


def test_the_recipes_own_loss_is_what_is_measured() -> None:
    own = keeping.least_kept(recipe(20, "distill.temperature=4"), peaked())
    assert (own.temperature, own.standardize, own.k) == (4.0, True, 20)
    plain = keeping.least_kept(recipe(20, "distill.standardize=false"), peaked())
    assert (plain.temperature, plain.standardize) == (2.0, False)
    controls = keeping.least_kept(recipe(20, "distill.lambda_kd=0"), peaked())
    assert (controls.temperature, controls.standardize) == (2.0, True)
    assert not keeping.least_kept(recipe(1), peaked()[:, :2]).standardize, "two classes have plain KD"


def test_half_at_20_a_quarter_at_5_and_what_to_do() -> None:
    for k, share in ((20, 54), (5, 27)):
        kept = keeping.least_kept(recipe(k), peaked())
        said = keeping.words(kept)
        assert said.startswith(f"top_k {k} of 100 classes keeps {share} % of the dense KL (untrained student ")
        assert f"precompute.codec.top_k {kept.enough} keeps 90 % here, or store dense" in said
    for whole in (
        keeping.least_kept(recipe(100), peaked()),
        keeping.least_kept(recipe(20, "distill.standardize=false"), peaked(12)),
    ):
        assert whole.share >= 0.9
        assert "store dense" not in keeping.words(whole)


def context(root: Path, workspace: Path, k: int | None, **options: float) -> Context:
    teacher = {"model": precomputed.PLAIN, "labeler": True, "fit": False, "options": {"classes": 8, **options}}
    codec = {} if k is None else {"codec": {"top_k": k, "temperatures": [2.0]}}
    given = {"teacher": teacher, "precompute": {"reader": "pyav", **codec}, "distill": {"method": "kd"}}
    return precomputed.context(root, workspace, "labels.channel=none", **given)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return precomputed.videos(tmp_path_factory.mktemp("clips"), classes=2, each=8)


def test_a_precompute_job_measures_its_whole_targets_and_warns(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = context(root, tmp_path, 2)
    work = precomputed.precompute(opened)
    with caplog.at_level(logging.WARNING):
        (found,) = _kept(opened, work)["top_k"]
    logits = keeping.some_logits(next(plan for plan in work.opened if plan.name == "eval").targets[0])
    assert logits is not None
    assert (found["teacher"], found["views"], found["classes"]) == ("teacher", len(logits), 8)
    assert found["share"] == keeping.least_kept(opened.recipe, logits).share < 0.9
    assert any(record.getMessage() == f"top-k targets of teacher: {found['says']}" for record in caplog.records)
    numbers = {"videos": 1, "views": 1, "shards": 1, "seconds": 1.0, "clips_per_second": 1.0, "decode_seconds": 1.0}
    numbers |= {"decode_busy_share": 1.0, "teacher_seconds": 1.0, "teacher_waited_share": 0.0, "max_open_shards": 1}
    numbers |= {"max_in_flight": 1, "retries": 0, "halved_shards": 0, "quarantined": {}}
    shown = table(numbers | {"bytes": {"frames": 1, "targets": 1}, "top_k": [found]})
    assert f"  top-k        {found['says']}" in shown
    assert found["says"] in describe(opened.recipe, "x"), "a dry run reads what is stored"


def test_a_dry_run_asks_the_teacher_where_nothing_is_stored(root: Path, tmp_path: Path) -> None:
    asked = context(root, tmp_path, 2)
    assert "Top-k      what top_k keeps of the dense KL is measured when" in describe(asked.recipe, "x")
    assert "Top-k      top_k 2 of 8 classes keeps " in describe(asked.recipe, "x", probe=True)
    assert "Top-k" not in describe(context(root, tmp_path / "dense", None).recipe, "x", probe=True)


def test_nothing_is_said_where_all_logits_are_stored(root: Path, tmp_path: Path) -> None:
    opened = context(root, tmp_path, None)
    assert _kept(opened, precomputed.precompute(opened)) == {}


def test_without_an_evaluation_view_it_says_that_it_is_not_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert keeping.kept_of(recipe(2), ["teacher"], [tmp_path / "nothing"]) == []
    assert "no evaluation view is stored" in caplog.text
