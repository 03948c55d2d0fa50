"""Evaluation end to end on small artefacts, without Ray: rows per name, training videos, the split that was used."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.commit import new_attempt
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.evaluation.predict import predict
from pipeline.flow.cascade import ALONE, CascadePlan, Trained
from pipeline.flow.context import Context
from pipeline.flow.evaluate import SELECTED, evaluate, read_metrics
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import frames
from pipeline.flow.step import content, finish, is_done
from pipeline.flow.table import closing_lines
from pipeline.flow.targets import network_targets
from pipeline.flow.tasks import Host, LabelTask, run_labelling
from pipeline.flow.teacher import Model
from pipeline.flow.train_accuracy import TrainAccuracy, draw
from pipeline.flow.videos import Videos, Views
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network
from tests.unit.flow.precomputed import context as opened
from tests.unit.flow.precomputed import precompute, videos

VIEWS = {"size": [16, 16], "num_frames": 4, "train": {"views_per_clip": 2}}


@dataclass
class Small:
    """Two classes of 16 videos, decoded, and untrained networks that labelled them."""

    context: Context
    videos: Videos
    views: Views
    plan: CascadePlan


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos(tmp_path_factory.mktemp("videos"), each=16)


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make(root, tmp_path_factory.mktemp("workspace"), ["val", "test"])


def make(root: Path, workspace: Path, splits: list[str]) -> Small:
    context = opened(root, workspace, views=VIEWS | {"eval": {"clips_per_video": 2, "splits": splits}})
    precompute(context)
    found = scan(context)
    views = frames(context, update_plans(context, found))
    names = [("teacher", "teacher", 0), ("student", "student", 0), (ALONE, "control", 0), ("student", "student", 1)]
    runs = [_network(context, found, views, *name, seed) for seed, name in enumerate(names)]
    return Small(context, found, views, CascadePlan([], runs[:2], runs[2:3], runs[3:]))


def _network(context: Context, found: Videos, views: Views, name: str, role: str, replicate: int, seed: int) -> Trained:
    model = Model(name, context.workspace.store("models", f"{seed:064x}"), f"{seed:064x}")
    if not is_done(model.folder):
        attempt = new_attempt()
        network = build_network(NetworkSpec("compact", found.classes, {"widths": [2, 2, 2, 2]}), seed=seed)
        save_network(model.folder / attempt, network, {})
        finish(model.folder, attempt, {})
    targets = network_targets(context, views, model)
    for plan in ("train", "eval") if role == "teacher" else ("eval",):
        task = LabelTask(
            name, str(model.folder), str(views.folders[plan]), views.digest(plan), str(targets.folders[plan]), 4, "cpu"
        )
        run_labelling(task, Host())
    return Trained(name, role, model, 7, targets, replicate=replicate)


def entry(metrics: dict, name: str) -> dict:
    return next(entry for entry in metrics["networks"] if entry["name"] == name)


@pytest.fixture(scope="module")
def metrics(made: Small) -> dict:
    return read_metrics(evaluate(made.context, made.videos, made.views, made.plan))


def test_one_row_per_name_over_its_replicates(metrics: dict) -> None:
    assert [entry["name"] for entry in metrics["networks"]] == ["teacher", "student", ALONE]
    student = entry(metrics, "student")
    each = [one["top1"] for one in student["replicates"]]
    assert [one["replicate"] for one in student["replicates"]] == [0, 1]
    assert student["metrics"]["top1"] == pytest.approx(np.mean(each))
    assert student["sd"] == pytest.approx(np.std(each, ddof=1))
    assert student["metrics"]["top1_interval"]["method"].startswith("t over 2 replicates and ")
    assert np.sum(student["metrics"]["confusion"]) == 2 * student["metrics"]["videos"]
    assert student["replicates"][1]["metrics"]["top1"] == each[1]
    assert entry(metrics, "teacher")["sd"] is None
    assert {item["word"] for item in metrics["comparisons"]} <= {"better", "worse", "not distinguishable"}
    assert [(i["first"], i["second"]) for i in metrics["comparisons"]] == [
        ("student", "teacher"),
        ("student", ALONE),
        ("teacher", ALONE),
    ]


def test_another_replicate_is_another_evaluation(made: Small, metrics: dict) -> None:
    alone = CascadePlan([], made.plan.networks, made.plan.controls)
    found = read_metrics(evaluate(made.context, made.videos, made.views, alone))
    assert len(entry(found, "student")["replicates"]) == 1
    assert entry(found, "student")["metrics"]["top1"] == entry(metrics, "student")["replicates"][0]["top1"]


def test_training_videos_are_scored_on_one_view_each(made: Small, metrics: dict) -> None:
    """By hand: the first training view of every labelled training video, by the network itself."""
    stored = open_dataset(made.views.folders["train"], made.views.digest("train")).table()
    names, first = np.unique(np.array(stored.column("video_id").to_pylist()), return_index=True)
    assert set(stored.column("view_id").take(first).to_pylist()) == {0}
    labels = made.videos.labels[[made.videos.position()[name] for name in names]]
    for name, run in (("teacher", made.plan.networks[0]), (ALONE, made.plan.controls[0])):
        logits = predict(load_network(content(run.model.folder)), column(stored, "frames")[first])
        found = entry(metrics, name)["train"]
        assert found["top1"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
        assert found["videos"] == len(names)
        assert found["views"] == "one training view of each video"
    assert torch.get_num_threads() >= 1


def test_evaluation_views_of_training_videos_are_used_where_stored(root: Path, tmp_path: Path) -> None:
    small = make(root, tmp_path, ["train", "val", "test"])
    found = entry(read_metrics(evaluate(small.context, small.videos, small.views, small.plan)), "student")["train"]
    assert found["views"] == "all stored evaluation views of each video"
    assert found["top1_interval"]["method"].startswith("t over 2 replicates")


def test_the_sample_is_bounded_and_the_same_each_time(made: Small) -> None:
    stored = open_dataset(made.views.folders["train"], made.views.digest("train"))
    some = draw(stored, made.videos, most=5, shards=2)
    assert len(some.videos) == 5
    assert len(some.keys) <= 2
    assert draw(stored, made.videos, most=5, shards=2).keys == some.keys
    assert set(some.videos) <= set(made.videos.of("train"))
    assert TrainAccuracy(made.videos, made.views).of([made.plan.networks[0]], []) is not None


def test_figures_of_validation_are_not_scaled_and_say_that_they_are_selected(made: Small, metrics: dict) -> None:
    """The temperature was fitted on validation and the ECE after it reported on validation."""
    assert metrics["selected"] == ""
    assert entry(metrics, "student")["metrics"]["scaled"]["temperature"] > 0
    recipe = made.context.recipe
    section = recipe.evaluate.model_copy(update={"split": "val"})
    context = Context.open(recipe.model_copy(update={"evaluate": section}), "small")
    found = read_metrics(evaluate(context, made.videos, made.views, made.plan))
    assert all(one["metrics"]["scaled"] is None for one in found["networks"])
    assert found["selected"] == SELECTED
    assert "validation" in SELECTED


def test_the_printed_table_says_words_and_intervals(made: Small, metrics: dict) -> None:
    from pipeline.flow.record import _row

    summary = {
        "networks": [_row(one) for one in metrics["networks"]],
        **{name: metrics[name] for name in ("comparisons", "room", "majority", "split", "selected")},
        "seconds": {"total": 1.0, "startup": 0.0, "work": 1.0},
        "sample": "x.mp4",
        "export": "e",
    }
    folder = made.context.workspace.run("small")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = closing_lines(made.context.workspace, "small").splitlines()
    student = entry(metrics, "student")
    assert next(line for line in lines if line.startswith("student  ")).split()[1:5] == [
        f"{100 * student['metrics']['top1']:.1f}",
        "±",
        f"{100 * student['sd']:.1f}",
        "%",
    ]
    item = metrics["comparisons"][0]
    assert f"student against teacher: {item['word']}, {100 * item['difference']:+.1f} points (" in "\n".join(lines)
    assert any(line.startswith("largest training class ") for line in lines)
    assert metrics["room"]["gap_reason"] in lines
    assert "±: s.d. over 2 seeds; intervals cover seeds and videos" in lines
