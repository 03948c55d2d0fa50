"""The plan of a cascade: which networks are trained with what, their names and keys, and which need one another."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.snapshot import Snapshot
from pipeline.config.load import build_recipe
from pipeline.distill.spec import Job
from pipeline.errors import ConfigError
from pipeline.flow import cascade, validated
from pipeline.flow.cascade import CascadePlan, CascadePlanner, Teachers, Trained, kd_names
from pipeline.flow.context import Context
from pipeline.flow.step import finish
from pipeline.flow.targets import Targets, check_targets
from pipeline.flow.tasks import StatisticsTask, TrainTask
from pipeline.flow.teacher import Model
from pipeline.flow.videos import Videos, Views
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import save_network

PLANS = ("train", "eval")


def videos(classes: int) -> Videos:
    names = tuple(f"class{n}" for n in range(classes))
    nothing = np.zeros(0, np.int64)
    return Videos(Path("videos"), "manifest-key", names, (), (), nothing, nothing, (), (), (), ())


def trained(name: str) -> Trained:
    folders = {plan: Path("targets") / name / plan for plan in PLANS}
    digests = {plan: f"{name}-{plan}" for plan in PLANS}
    targets = Targets(folders, f"{name}-train", Path("statistics") / name, digests)
    return Trained(name, "teacher", Model(name, Path("models") / name, f"{name}-key"), 10, targets)


def plan(
    tmp_path: Path, *sets: str, classes: int = 5, teachers: Teachers | None = None, **sections: Any
) -> CascadePlan:
    quiet = ["tracking.enabled=false", "manifest.name=small", *sets]
    recipe = build_recipe({"workspace": str(tmp_path), "train": {"steps": 40}, **sections}, quiet)
    views = Views(
        {name: tmp_path / name for name in PLANS},
        {name: Snapshot.of(tmp_path / name, (), ()) for name in PLANS},
        dict.fromkeys(PLANS, "k"),
    )
    context = Context.open(recipe, "test")
    return CascadePlanner(
        context, videos(classes), views, Path("labels"), teachers or Teachers(trained("teacher"))
    ).plan()


def jobs(found: CascadePlan) -> dict[str, Job]:
    tasks = [*found.tasks, *(task for cell in found.cells for task in cell)]
    return {task.job.name: task.job for task in tasks if isinstance(task, TrainTask)}


def test_student_and_controls_as_they_are_by_default(tmp_path: Path) -> None:
    found = jobs(plan(tmp_path))
    assert {name: job.steps for name, job in found.items()} == {
        "student": 40,
        "cross-entropy": 40,
        "cross-entropy, 2× steps": 80,
        "KD + standardisation": 40,
    }
    assert found["KD + standardisation"].objective.effective.lambda_kd == 9
    assert found["student"].objective.lambda_kd == 1
    assert all(job.seed == 0 for job in found.values())


def test_two_classes_get_plain_kd_for_student_and_control_alike(tmp_path: Path) -> None:
    found = jobs(plan(tmp_path, classes=2))
    assert set(found) == {"student", "cross-entropy", "cross-entropy, 2× steps", "KD"}
    assert not found["student"].objective.standardize
    assert not found["KD"].objective.standardize
    assert jobs(plan(tmp_path, classes=3))["student"].objective.standardize


def test_controls_are_tuned_like_the_student(tmp_path: Path) -> None:
    controls = {
        "cross_entropy": [1, 4],
        "optimiser": {"lr": 0.02},
        "kd": [
            {"lambda_kd": 9.0},
            {"lambda_kd": 3.0, "temperature": 4.0, "standardize": False, "lambda_ce": 0.5, "optimiser": {"lr": 0.01}},
        ],
    }
    found = jobs(plan(tmp_path, "train.optimiser.lr=0.03", distill={"controls": controls, "lambda_ce": 2.0}))
    assert set(found) == {"student", "cross-entropy", "cross-entropy, 4× steps", "KD + standardisation", "KD"}
    assert {name: job.optimiser.lr for name, job in found.items()} == {
        "student": 0.03,
        "cross-entropy": 0.02,
        "cross-entropy, 4× steps": 0.02,
        "KD + standardisation": 0.03,
        "KD": 0.01,
    }
    tuned, student = found["KD"].objective, found["student"].objective
    assert (tuned.lambda_kd, tuned.temperature, tuned.standardize, tuned.lambda_ce) == (3.0, 4.0, False, 0.5)
    assert (student.lambda_ce, student.temperature, student.standardize) == (2.0, 2.0, True)


def test_controls_of_one_kind_are_told_apart_by_their_weights() -> None:
    def names(*controls: dict[str, Any]) -> list[str]:
        return [name for name, _ in kd_names(build_recipe({"distill": {"controls": {"kd": list(controls)}}}), 5)]

    assert names({"lambda_kd": 1}, {"lambda_kd": 9}) == ["KD + standardisation, λ 1", "KD + standardisation, λ 9"]
    assert names({"temperature": 2}, {"temperature": 4}) == [
        "KD + standardisation, λ 9, τ 2",
        "KD + standardisation, λ 9, τ 4",
    ]
    with pytest.raises(ConfigError, match="same control twice"):
        names({}, {"lambda_ce": 0.5})


def test_assistants_have_steps_and_an_optimiser_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plan(tmp_path).student.spec
    assert spec is not None
    monkeypatch.setattr(CascadePlanner, "_assistants", lambda self: [spec])  # a teacher's size is in its files
    own = {"assistants": {"steps": 60, "optimiser": {"lr": 0.005}}, "cascade": {"K": 1}}
    found = jobs(plan(tmp_path, **own))
    assert (found["assistant-1"].steps, found["assistant-1"].optimiser.lr) == (60, 0.005)
    assert (found["student"].steps, found["student"].optimiser.lr) == (40, 0.04)
    assert found["KD + standardisation"].steps == 100, "the control has the cascade's total"
    usual = jobs(plan(tmp_path, cascade={"K": 1}))["assistant-1"]
    assert (usual.steps, usual.optimiser.lr) == (40, 0.003)


def test_replicates_are_the_same_networks_with_other_seeds_in_cells_of_their_own(tmp_path: Path) -> None:
    once, found = plan(tmp_path), plan(tmp_path, "train.replicates=3")
    assert not once.cells
    assert not once.replicates
    names = ["student", "cross-entropy", "cross-entropy, 2× steps", "KD + standardisation"]
    assert [trained.name for trained in found.replicates] == [*names, *names]
    assert [trained.replicate for trained in found.replicates] == [1] * 4 + [2] * 4
    first = [found.student, *found.controls]
    assert [trained.model.key for trained in first] == [
        trained.model.key for trained in [once.student, *once.controls]
    ], "the first seed's networks are those of a run without replicates"
    every = [trained.model.key for trained in [*first, *found.replicates]]
    assert len(set(every)) == 12
    trainings = [[task.job for task in cell if isinstance(task, TrainTask)] for cell in found.cells]
    assert [len(cell) for cell in trainings] == [1] * 11, "three controls, then four networks of each further seed"
    assert sorted({job.seed for cell in trainings for job in cell}) == [0, 1, 2]
    assert [type(task) for task in found.tasks[:2]] == [StatisticsTask, TrainTask]


def test_further_teachers_count_beside_the_own_one_for_student_and_kd_control(tmp_path: Path) -> None:
    teachers = Teachers(trained("teacher"), (trained("teacher-2"),), (0.25, 0.75))
    found = plan(tmp_path, teachers=teachers)
    tasks = {task.job.name: task for task in found.tasks if isinstance(task, TrainTask)}
    for name in ("student", "KD + standardisation"):
        assert [Path(source.targets).parent.name for source in tasks[name].data.sources] == ["teacher-2", "teacher"]
        assert tasks[name].job.source_weights == (0.25, 0.75)
    assert tasks["cross-entropy"].job.source_weights is None
    assert not tasks["cross-entropy"].data.sources
    alone = plan(tmp_path)
    assert alone.student.model.key != found.student.model.key
    equal = plan(tmp_path, teachers=Teachers(teachers.own, teachers.further, (0.5, 0.5)))
    assert equal.student.model.key != found.student.model.key
    assert alone.controls[0].model.key == found.controls[0].model.key, "cross-entropy asks no teacher"


def test_further_teachers_and_dense_wiring_are_refused_together() -> None:
    further = {"precompute": {"more_teachers": [{"model": "compact", "weights": "w.pt"}]}}
    dense = {**further, "cascade": {"K": 1, "wiring": "dense"}}
    with pytest.raises(ConfigError, match=r"distill\.extra_teachers: ignore"):
        check_targets(build_recipe(dense))
    check_targets(build_recipe({**dense, "distill": {"extra_teachers": "ignore"}}))
    check_targets(build_recipe({**further, "cascade": {"wiring": "dense"}}))


@pytest.mark.parametrize(
    "change",
    [
        "distill.lambda_ce=0.5",
        "train.labelled_share=0.25",
        "train.augment.noise=0.02",
        "train.seed=1",
        "train.optimiser.lr=0.01",
        "distill.temperature=4",
    ],
)
def test_what_decides_the_students_weights_is_in_its_key(tmp_path: Path, change: str) -> None:
    assert plan(tmp_path, change).student.model.key != plan(tmp_path).student.model.key


def test_a_labelled_share_is_for_networks_that_a_teacher_teaches(tmp_path: Path) -> None:
    found = jobs(plan(tmp_path, "train.labelled_share=0.25"))
    shares = {name: job.labelled_share for name, job in found.items()}
    assert shares == {
        "student": 0.25,
        "KD + standardisation": 0.25,
        "cross-entropy": None,
        "cross-entropy, 2× steps": None,
    }


def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, *sets: str) -> dict[str, TrainTask]:
    """The trainings where `count` labelled videos validate; which of them have frames is not asked of a store."""
    labels = np.arange(count) % 5
    names, splits = tuple(f"v{n:03d}" for n in range(count)), ("val",) * count
    given = Videos(
        Path("videos"), "key", tuple(f"class{n}" for n in range(5)), names, (), labels, labels, splits, (), (), ()
    )
    monkeypatch.setattr(validated, "decodable", lambda videos, views, split: videos.of(split))
    monkeypatch.setitem(globals(), "videos", lambda classes: given)
    return {task.job.name: task for task in plan(tmp_path, *sets).tasks if isinstance(task, TrainTask)}


def test_the_best_step_is_selected_where_enough_videos_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = judged(tmp_path, monkeypatch, 29)
    assert {task.job.select for task in few.values()} == {"last"}
    many = judged(tmp_path, monkeypatch, 30)
    assert {task.job.select for task in many.values()} == {"best"}, "the same for student and controls"
    assert [task.job.validate_every for task in many.values()] == [10] * 4
    chosen = many["student"].data.validation
    assert chosen is not None
    assert len(chosen.given) == 30
    assert chosen.views == 51
    asked = judged(tmp_path, monkeypatch, 5, "train.select=best", "train.validate_every=7", "train.patience=3")
    assert {(task.job.select, task.job.validate_every, task.job.patience) for task in asked.values()} == {
        ("best", 7, 3)
    }
    large = judged(tmp_path, monkeypatch, 2000)["student"].data.validation
    assert large is not None
    assert (len(large.given), large.views) == (512, 3)
    with pytest.raises(ConfigError, match=r"train\.select: last"):
        judged(tmp_path, monkeypatch, 0, "train.select=best")


def test_selection_and_what_it_looks_at_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(count: int, *sets: str) -> str:
        return judged(tmp_path, monkeypatch, count, *sets)["student"].job.key

    keys = [
        key(30),
        key(31),
        key(30, "train.select=last"),
        key(30, "train.validate_every=7"),
        key(30, "train.patience=3"),
        key(30, "train.ema=0.99"),
        key(30, "train.select=last", "train.recalibrate_norm=true"),
    ]
    assert len(set(keys)) == 7
    assert key(31, "train.select=last") == keys[2], "where nothing is selected, validation is not read"


@pytest.mark.parametrize(("old", "new"), [("control_lambda_kd=1", "controls.kd"), ("room=false", "cross_entropy")])
def test_fields_that_moved_are_refused_with_their_new_place(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=new):
        build_recipe({}, [f"distill.{old}"])


def test_fewer_clips_than_a_batch_make_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of 20 clips, 12 of them labelled, goes through: whoever asks a teacher has all of them."""
    labels = np.where(np.arange(20) < 12, np.arange(20) % 5, -1)
    names = tuple(f"v{n}" for n in range(20))
    given = Videos(Path("videos"), "key", tuple("abcde"), names, (), labels, labels, ("train",) * 20, names, (), ())
    monkeypatch.setattr(cascade, "decodable", lambda videos, views, split: videos.of(split)[:-1])  # one is broken
    monkeypatch.setitem(globals(), "videos", lambda classes: given)
    found = jobs(plan(tmp_path))
    assert {name: job.batch_size for name, job in found.items()} == {
        "student": 19,
        "KD + standardisation": 19,
        "cross-entropy": 12,
        "cross-entropy, 2× steps": 12,
    }
    smaller = jobs(plan(tmp_path, "train.batch_size=8"))
    assert {job.batch_size for job in smaller.values()} == {8}
    assert smaller["student"].key != found["student"].key


def test_what_the_teacher_saw_reaches_the_student_through_an_assistant_that_is_not_trained_yet(tmp_path: Path) -> None:
    spec = NetworkSpec("compact", tuple("abcde"), {"widths": [32, 64, 128, 256]})
    folder = tmp_path / "given"
    save_network(folder / "attempt", build_network(spec, seed=0), {"saw_labels": False, "labels_seen": ["archive"]})
    finish(folder, "attempt", {})
    teacher = dataclasses.replace(trained("teacher"), model=Model("teacher", folder, "key"))
    found = plan(tmp_path, "cascade.K=1", teachers=Teachers(teacher))
    seen = {task.job.name: task.extras["labels_seen"] for task in found.tasks if isinstance(task, TrainTask)}
    assert seen["assistant-1"] == seen["student"] == seen["KD + standardisation"] == ["archive", "small"]
    assert seen["cross-entropy"] == ["small"]
