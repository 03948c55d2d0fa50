"""What a training leaves behind, without Ray: history over kills, shares of ranks, tasks that are done."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.distill.data import DataSpec
from pipeline.distill.spec import Job, Objective
from pipeline.flow.tasks import Host, TrainTask, _Reporter
from pipeline.models.spec import NetworkSpec
from tests.support.objects import fake_store


@pytest.fixture
def task(tmp_path: Path) -> TrainTask:
    job = Job("student", "k", NetworkSpec("compact", ("a", "b")), 12, Objective(method="supervised"))
    return TrainTask(job, DataSpec(str(tmp_path / "frames"), 2), str(tmp_path), {})


def steps(reporter: _Reporter) -> list[float]:
    return [record["step"] for record in reporter.history]


def test_a_resumed_training_keeps_the_history_and_logs_a_step_again_once(task: TrainTask) -> None:
    first = _Reporter(Host(), task)
    for step in (4, 8):
        first.log(step, {"loss": float(step)})
    resumed = _Reporter(Host(), task)
    resumed.log(8, {"loss": 80.0})
    resumed.log(12, {"loss": 12.0})
    assert steps(resumed) == [4, 8, 12]
    assert [record["loss"] for record in resumed.history] == [4.0, 80.0, 12.0]


def test_a_line_torn_by_a_kill_is_cut_off_and_what_follows_can_be_read(task: TrainTask) -> None:
    first = _Reporter(Host(), task)
    first.log(4, {"loss": 4.0})
    with first.file.open("a") as stream:
        stream.write('{"step": 8.0, "lo')
    second = _Reporter(Host(), task)
    assert steps(second) == [4]
    second.log(8, {"loss": 8.0})
    third = _Reporter(Host(), task)
    assert steps(third) == [4, 8]
    assert [json.loads(line)["step"] for line in third.file.read_text().splitlines()] == [4.0, 8.0]


def test_only_the_first_rank_writes(task: TrainTask) -> None:
    other = _Reporter(Host(rank=1, world=2), task)
    other.log(4, {"loss": 4.0})
    assert steps(other) == [4]
    assert not other.file.exists()


def test_in_an_object_store_the_history_is_kept_as_well(task: TrainTask, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fake_store(monkeypatch)
    task = replace(task, out="s3://bkt/models/k")
    for step in (4, 8):
        _Reporter(Host(), task).log(step, {"loss": float(step)})
    lines = store.objects["bkt/models/k/history.jsonl"][0].decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4.0, 8.0]
    assert steps(_Reporter(Host(), task)) == [4, 8]
