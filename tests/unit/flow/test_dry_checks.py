"""What a dry run warns of, one warning at a time."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.load import build_recipe
from pipeline.flow.dry_checks import LEAST_VIDEOS, warnings
from pipeline.flow.dry_data import Data, Typical
from pipeline.flow.dry_sizes import plan_size, size

# Large enough in every way: 10,000 videos of a minute, so that only what a test changes is warned of.
DATA = Data({"train": 8000, "val": 1000, "test": 1000}, 10, Typical(1500, 640, 360, 25), "a test")
QUIET = ("views.size=[8,8]", "views.num_frames=1")


def said(tmp_path: Path, *sets: str, data: Data = DATA) -> str:
    recipe = build_recipe({"workspace": str(tmp_path)}, [*QUIET, *sets])
    sizes = {plan: plan_size(recipe, data, plan) for plan in ("train", "eval")}
    return "\n".join(warnings(recipe, data, sizes))


def test_a_sound_recipe_is_told_about_growth_only(tmp_path: Path) -> None:
    assert said(tmp_path) == "teacher.fit is true: adding videos fits the teacher anew, and all that follows from it"


@pytest.mark.parametrize(
    ("sets", "warning"),
    [
        (["evaluate.split=val", "views.eval.splits=[test]"], "evaluate.split is val, and no video of it is planned"),
        (
            ["manifest.noise.kind=symmetric", "manifest.noise.splits=[val]"],
            "auto will answer none (noise in val",
        ),
        (["train.memory_limit=1000"], "the training frames are 6.14 MB, more than train.memory_limit (1 kB)"),
        (["train.batch_size=9000"], "train.batch_size 9000 is more than the 8000 training clips"),
        (["train.num_workers=5"], "train.batch_size 32 does not divide by train.num_workers 5"),
        (["train.num_workers=5"], "teacher.batch_size 32 does not divide by train.num_workers 5"),
        (["train.batch_size=4"], "terms that relate the samples of a batch need at least 8"),
        (["teacher.options.num_frames=8"], "teacher.options.num_frames 8 is not views.num_frames 1"),
        (["precompute.frames=none"], "precompute.frames is none: targets alone are stored"),
        (["views.flip=true"], "views.flip is true"),
        (["plan.micro_batch=1", "views.train.views_per_clip=64"], "a micro-batch is about 0.054 s (train) of decoding"),
        (["plan.shard_views=40"], "a shard is about 35 s (train), 48 s (eval) of decoding on one core"),
        (
            ["precompute.decoders=30", "cluster.max_cpus=12", "precompute.device=cpu"],
            "13 actors decode and label in turn and hold a copy",
        ),
        (["teacher.fit=false", "teacher.weights=w.pt"], "added videos are decoded and labelled alone"),
    ],
)
def test_a_warning_for_each(tmp_path: Path, sets: list[str], warning: str) -> None:
    assert warning not in said(tmp_path)
    assert warning in said(tmp_path, *sets)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"classes": 2}, "standardised logits of 2 classes: no signal, so KD is plain"),
        ({"classes": 4}, "standardised logits of 4 classes: little signal"),
        ({"videos": {"train": 90, "val": 39, "test": 20}}, "auto will answer none (39 validation videos"),
        ({"videos": {"train": 90, "val": 40}}, "evaluate.split is test, and no video of it is planned"),
        ({"unlabelled": 7}, "7 training videos have no label"),
        ({"notes": ("3 of 5 probed files",)}, "3 of 5 probed files"),
    ],
)
def test_a_warning_from_the_data(tmp_path: Path, change: dict[str, object], warning: str) -> None:
    assert warning in said(tmp_path, data=replace(DATA, **change))  # type: ignore[arg-type]


def test_the_advised_sizes_silence_their_warnings(tmp_path: Path) -> None:
    small = ("plan.micro_batch=1", "plan.shard_views=40", "views.train.views_per_clip=64")
    text = said(tmp_path, *small)
    micro = text.split("plan.micro_batch ")[1].split()[0]
    shard = text.split("plan.shard_views ")[1].split()[0].replace(",", "")
    quiet = said(tmp_path, *small, f"plan.micro_batch={micro}", f"plan.shard_views={shard}")
    assert "micro-batch is about" not in quiet
    assert "shard is about" not in quiet


def test_a_plan_of_one_shard_is_not_told_to_grow(tmp_path: Path) -> None:
    few = replace(DATA, videos={"train": 60, "val": 50, "test": 50}, typical=Typical(20, 64, 48, 10))
    assert "shard is about" not in said(tmp_path, data=few)


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("pipeline.flow.dry_checks.shutil.disk_usage", lambda place: free)
    views = 8000 * 4 + 10_000 * 3
    assert f"frames and targets are about {size(views * (192 + 108))}, {tmp_path} has 1 kB free" in said(tmp_path)
    few = said(tmp_path, "precompute.frames=none", "teacher.fit=false", "teacher.weights=w.pt")
    assert f"frames and targets are about {size(views * 108)}, " in few


def test_the_self_tests_least_number_is_the_one_of_the_self_test() -> None:
    from pipeline.labels import selftest

    assert selftest.LEAST_VIDEOS == LEAST_VIDEOS


@pytest.mark.parametrize("sets", [["precompute.together=true"], ["precompute.together=false"], ["cluster.max_cpus=2"]])
def test_copies_of_the_teacher_are_told_where_nobody_asked_for_them(tmp_path: Path, sets: list[str]) -> None:
    assert "hold a copy" not in said(
        tmp_path, "precompute.decoders=30", "cluster.max_cpus=12", "precompute.device=cpu", *sets
    )
