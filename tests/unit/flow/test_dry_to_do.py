"""What a dry run counts as to do: of frames and of each teacher's targets, beside what is stored."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.layout import write_about
from pipeline.flow.context import Context
from pipeline.flow.dry_data import look
from pipeline.flow.dry_run import describe
from pipeline.flow.dry_sizes import ToDo, plan_size
from pipeline.flow.dry_steps import Survey
from pipeline.flow.dry_to_do import count_to_do
from pipeline.flow.precompute import frames_step
from pipeline.flow.step import Step
from pipeline.flow.step import describe as about
from pipeline.flow.targets import teacher_steps
from pipeline.flow.teacher import fit_fields
from tests.unit.flow.precomputed import PLAIN, context, precompute

# Six videos: a train plan of three (6 views, one shard), an eval plan of six (6 views, one shard).
WHOLE = {"train": ToDo(3, 6, 6, (6,)), "eval": ToDo(6, 6, 6, (6,))}
LABELS = {"train": ToDo(0, 0, 6, (6,)), "eval": ToDo(0, 0, 6, (6,))}
NONE = {"train": ToDo(0, 0, 0, (0,)), "eval": ToDo(0, 0, 0, (0,))}
FITTED = {"teacher": {"model": "compact", "options": {"widths": [4, 8]}, "fit": True, "steps": 10}}
HEDGE = "(with the fitted teacher as it is; another one labels all views anew)"
OTHER = {"model": PLAIN, "labeler": True, "options": {"classes": 5}}


def to_do(root: Path, workspace: Path, *sets: str, **sections: Any) -> dict[str, ToDo]:
    recipe = context(root, workspace, *sets, **sections).recipe
    data = look(recipe)
    return count_to_do(Survey(recipe, data, {plan: plan_size(recipe, data, plan) for plan in ("train", "eval")}))


def test_nothing_where_all_is_stored_and_all_where_nothing_is(root: Path, honest: Path, tmp_path: Path) -> None:
    assert to_do(root, honest) == NONE
    assert to_do(root, tmp_path) == WHOLE


def test_another_teacher_labels_stored_frames(root: Path, honest: Path) -> None:
    assert to_do(root, honest, teacher=OTHER | {"fit": False}) == LABELS


def test_without_a_cache_it_decodes_again(root: Path, honest: Path, tmp_path: Path) -> None:
    alone, other = {"reader": "pyav", "frames": "none"}, OTHER | {"fit": False}
    precompute(context(root, tmp_path, precompute=alone))
    assert to_do(root, tmp_path, precompute=alone) == NONE
    assert to_do(root, tmp_path, precompute=alone, teacher=other) == WHOLE
    assert to_do(root, honest, precompute=alone, teacher=other) == LABELS, "frames that are there are read"


def test_lost_frames_are_decoded_and_not_labelled(root: Path, honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    here = context(root, tmp_path)
    _lose(frames_step(here, "train").folder(here.workspace))
    assert to_do(root, tmp_path) == NONE | {"train": ToDo(3, 6, 6, (0,))}


def test_a_further_teacher_is_counted_by_itself(root: Path, honest: Path) -> None:
    further = {"reader": "pyav", "more_teachers": [OTHER]}
    assert to_do(root, honest, precompute=further) == {
        "train": ToDo(0, 0, 6, (0, 6)),
        "eval": ToDo(0, 0, 6, (0, 6)),
    }
    text = describe(context(root, honest, precompute=further).recipe, "x", probe=True)
    rows = {line[:25].strip(): line.split("  ")[-1].strip() for line in text.splitlines()}
    assert rows["teacher (given)"] == "done"
    assert rows["teacher-2 (given)"] == f"to do: take {PLAIN}"
    assert rows["precompute eval"] == "done: 1 shards, 1 videos in quarantine"
    assert rows["precompute eval teacher-2"] == "to do: 1 of 1 shards"
    said = " ".join(text.split())
    assert "to do 12 views; decoding 0 s of one core, teachers" in said
    assert f"frames 0 B, targets {12 * 2 * (5 + 3)} B" in said
    assert re.search(r"train 3 videos × 2 = 6 views, [^;]*; raster 3.07 kB a view, targets 28 B a view", said)


@pytest.fixture
def fitted(root: Path, honest: Path, tmp_path: Path) -> Context:
    shutil.copytree(honest, tmp_path / "w")
    return _as_if_fitted(root, tmp_path / "w")


def test_a_teacher_to_be_fitted_labels_everything(root: Path, honest: Path, tmp_path: Path) -> None:
    assert to_do(root, tmp_path, **FITTED) == WHOLE
    assert to_do(root, honest, **FITTED) == LABELS, "nobody's but a given teacher's targets are there"
    assert HEDGE not in describe(context(root, honest, **FITTED).recipe, "x", probe=True)


def test_what_a_fitted_teacher_labelled_is_done(root: Path, fitted: Context) -> None:
    workspace = fitted.workspace.root
    assert to_do(root, workspace, **FITTED) == NONE
    assert HEDGE in describe(fitted.recipe, "x", probe=True)
    _lose(frames_step(fitted, "train").folder(fitted.workspace))
    assert to_do(root, workspace, **FITTED) == NONE | {"train": ToDo(3, 6, 6, (0,))}, (
        "the same frames, the same teacher"
    )


@pytest.mark.parametrize("change", [{"steps": 11}, {"options": {"widths": [4, 9]}}, {"seed": 1}])
def test_a_teacher_that_is_fitted_otherwise_labels_everything(
    root: Path, fitted: Context, change: dict[str, Any]
) -> None:
    assert to_do(root, fitted.workspace.root, teacher=FITTED["teacher"] | change) == LABELS


def test_with_other_videos_the_teacher_is_another(root: Path, tmp_path: Path) -> None:
    other, workspace = shutil.copytree(root, tmp_path / "videos"), tmp_path / "w"
    precompute(context(other, workspace))
    _as_if_fitted(other, workspace)
    assert to_do(other, workspace, **FITTED) == NONE
    (other / "c0" / "0.mp4").rename(tmp_path / "0.mp4")
    assert to_do(other, workspace, **FITTED) == {"train": ToDo(0, 0, 4, (4,)), "eval": ToDo(0, 0, 5, (5,))}
    (tmp_path / "0.mp4").rename(other / "c0" / "0.mp4")
    assert to_do(other, workspace, **FITTED) == NONE
    shutil.copy(other / "c0" / "0.mp4", other / "c0" / "9.mp4")
    assert to_do(other, workspace, **FITTED) == LABELS | {"eval": ToDo(1, 1, 7, (7,))}


def test_a_store_that_is_shared_is_looked_into_and_what_is_damaged_is_passed_over(
    root: Path, fitted: Context, tmp_path: Path
) -> None:
    store = fitted.workspace.store("targets", "x").parents[1]
    for number, text in enumerate(("{broken", "{}", '{"inputs": {}, "fields": {}, "version": 2}')):
        (store / "targets" / f"zz{number}").mkdir()
        (store / "targets" / f"zz{number}" / "about.json").write_text(text)
    assert to_do(root, tmp_path / "fresh", f"storage.root={store}", **FITTED) == NONE


def _lose(folder: Path) -> None:
    markers = sorted(folder.glob("shard-*.json"))
    assert markers
    markers[0].unlink()


def _as_if_fitted(root: Path, workspace: Path) -> Context:
    """What is stored, as if a teacher had said it that was fitted as `FITTED` says."""
    here = context(root, workspace, **FITTED)
    teacher = Step("fit-teacher", "models", 1, fit_fields(here.recipe), {})
    write_about(teacher.folder(here.workspace), about(teacher))
    keys = {plan: frames_step(here, plan).key for plan in ("train", "eval")}
    for step in teacher_steps(here, keys, teacher.key).values():
        (theirs,) = [path for path in _targets(here) if _frames(path) == step.inputs["frames"]]
        shutil.copytree(theirs, step.folder(here.workspace), ignore=shutil.ignore_patterns("about.json"))
        write_about(step.folder(here.workspace), about(step))
    return here


def _targets(here: Context) -> list[Path]:
    return [path for path in here.workspace.store("targets", "x").parent.iterdir() if len(list(path.iterdir())) > 1]


def _frames(folder: Path) -> str:
    return str(json.loads((folder / "about.json").read_text())["inputs"]["frames"])
