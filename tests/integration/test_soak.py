"""Longer than `make test` has time for: kills at every station of the way, two workers, the demo from nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.integration.conftest import DEBUG, Main
from tests.support.driver import RECIPES, arguments, drive, files, kill_when, summary, weights

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def stations(workspace: Path, keys: dict[str, str]) -> dict[str, Callable[[], bool]]:
    """What can be seen on the way, in its order."""
    store = workspace / "store"
    return {
        "plan": lambda: any((store / "plan").glob("*/shard-*.json")),
        "first part of the frames": lambda: any((store / "frames").glob("*/*.part-*.parquet")),
        "first frames marker": lambda: any((store / "frames").glob("*/shard-*.json")),
        "checkpoint of a fold": lambda: any((store / "models").glob("*/checkpoints/step-*.json")),
        "labels": lambda: any((store / "labels").glob("*/shard-*.json")),
        "checkpoint of the teacher": lambda: any(
            (store / "models" / keys["teacher"] / "checkpoints").glob("step-*.json")
        ),
        "first targets marker": lambda: (store / "targets" / keys["targets-train"] / "shard-00000000.json").exists(),
        "checkpoint of the student": lambda: any(
            (store / "models" / keys["student"] / "checkpoints").glob("step-*.json")
        ),
        "student": lambda: (store / "models" / keys["student"] / "done.json").exists(),
    }


def test_killed_at_every_station_the_way_ends_with_the_same_student(main: Main, tmp_path: Path) -> None:
    keys = summary(main.workspace / "runs" / "debug")["keys"]
    sets = {"workspace": tmp_path, "manifest.root": main.root, "train.checkpoint_every": 1}
    command = arguments("distill", DEBUG, sets)
    for seen in stations(tmp_path, keys).values():  # a checkpoint may go again while its driver is killed
        if not seen():
            kill_when(command, seen, timeout=600)
    done = drive(command, timeout=900)
    assert done.code == 0, done.err[-3000:]
    assert weights(tmp_path, keys["student"]) == weights(main.workspace, keys["student"])


def test_two_workers_of_a_group_train_the_student_of_one(main: Main, tmp_path: Path) -> None:
    group_norm = {"student.options.norm": "group", "cascade.K": 0, "distill.controls.cross_entropy": "[1]"}
    students = []
    for workers in (1, 2):
        sets = main.sets(**{**group_norm, "workspace": tmp_path / str(workers), "train.num_workers": workers})
        sets["workspace"] = tmp_path / str(workers)
        done = drive(arguments("distill", DEBUG, sets), env=main.head.env, timeout=900)
        assert done.code == 0, done.err[-3000:]
        students.append(load(weights(tmp_path / str(workers), Path(done.last).name)))
    for name, value in students[0].items():
        torch.testing.assert_close(students[1][name], value, rtol=2e-2, atol=2e-3)


def test_the_demo_runs_from_nothing_and_its_second_call_writes_nothing(tmp_path: Path) -> None:
    """As `make demo` does it: the teacher on its archive, then few labels and what the teacher says of the rest."""
    fitted = drive(arguments("fit-teacher", RECIPES / "demo_teacher.yaml", {"workspace": tmp_path}), timeout=1500)
    assert fitted.code == 0, fitted.err[-3000:]
    command = arguments("run", RECIPES / "demo.yaml", {"workspace": tmp_path, "teacher.weights": fitted.last})
    first = drive(command, timeout=3000)
    assert first.code == 0, first.err[-3000:]
    told = summary(first.last)
    by_name = {row["name"]: row for row in told["networks"]}
    assert by_name["teacher"]["params"] > 20 * by_name["student"]["params"]
    assert by_name["student"]["top1"] > by_name["cross-entropy, 4× steps"]["top1"] + 0.3, "what a teacher buys"
    before = files(tmp_path)
    second = drive(command, timeout=300)
    assert second.out == first.out
    assert files(tmp_path) == before
