"""Evaluation end to end on small artefacts, without Ray: rows per name, training videos, the split that was used."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipeline.artifacts.commit import new_attempt
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.evaluation.predict import predict
from pipeline.export.card import CardFacts, model_card
from pipeline.flow.cascade import ALONE, CascadePlan, Trained
from pipeline.flow.context import Context
from pipeline.flow.evaluate import SELECTED, evaluate, read_metrics
from pipeline.flow.export import _facts
from pipeline.flow.labels import refined_labels
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import frames
from pipeline.flow.record import _row, log_figures
from pipeline.flow.report import gather
from pipeline.flow.step import content, finish, is_done
from pipeline.flow.table import closing_lines
from pipeline.flow.targets import network_targets
from pipeline.flow.tasks import Host, LabelTask, run_labelling
from pipeline.flow.teacher import Model
from pipeline.flow.train_accuracy import MOST_HELD, TrainAccuracy, draw
from pipeline.flow.videos import Videos, Views
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network
from pipeline.report.page import render
from pipeline.tracking import Tracker
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
    context = opened(
        root, workspace, labels={"channel": "none"}, views=VIEWS | {"eval": {"clips_per_video": 2, "splits": splits}}
    )
    precompute(context)
    found = scan(context)
    views = frames(context, update_plans(context, found))
    names = [("teacher", "teacher", 0), ("student", "student", 0), (ALONE, "control", 0), ("student", "student", 1)]
    runs = [_network(context, found, views, *name, seed) for seed, name in enumerate(names)]
    return Small(context, found, views, CascadePlan([], runs[:2], runs[2:3], replicates=runs[3:]))


def _network(context: Context, found: Videos, views: Views, name: str, role: str, replicate: int, seed: int) -> Trained:
    model = Model(name, context.workspace.store("models", f"{seed:064x}"), f"{seed:064x}")
    if not is_done(model.folder):
        attempt = new_attempt()
        network = build_network(NetworkSpec("compact", found.classes, {"widths": [2, 2, 2, 2]}), seed=seed)
        save_network(model.folder / attempt, network, {})
        if role == "student":
            said = {"final": {"chosen_step": 3.0 + replicate}, "history": [], "phases": []}
            (model.folder / attempt / "metrics.json").write_text(json.dumps(said))
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
    assert student["note"] == "steps 3, 4 of 7, best on validation"
    assert entry(metrics, ALONE)["note"] == ""
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


def test_evaluation_views_of_training_videos_are_used_where_stored(root: Path, tmp_path: Path) -> None:
    small = make(root, tmp_path, ["train", "val", "test"])
    found = entry(read_metrics(evaluate(small.context, small.videos, small.views, small.plan)), "student")["train"]
    assert found["views"] == "all stored evaluation views of each video"
    assert found["top1_interval"]["method"].startswith("t over 2 replicates")


def test_the_sample_is_bounded_and_the_same_each_time(made: Small) -> None:
    stored = open_dataset(made.views.folders["train"], made.views.digest("train"))
    some = draw(stored, made.videos, most=5)
    assert len(some.videos) == 5
    assert draw(stored, made.videos, most=5).keys == some.keys
    assert set(some.videos) <= set(made.videos.of("train"))
    whole = sum(part.size for shard in stored.snapshot.shards for part in shard.objects)
    half = draw(stored, made.videos, read=whole // 2)
    assert len(half.keys) == len(stored.shard_ids) // 2 > 1
    assert {stored.shard_ids[0], stored.shard_ids[-1]} <= half.keys.keys()
    small = TrainAccuracy(made.videos, made.views, raster=MOST_HELD // 3)  # so large that three of them are the limit
    found = small.of([made.plan.networks[0]], [])
    assert found is not None
    assert found["videos"] == 3


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


def test_page_and_card_say_the_word_of_each_difference(made: Small, metrics: dict) -> None:
    evaluation = evaluate(made.context, made.videos, made.views, made.plan)
    labels = refined_labels(made.context, made.videos, made.views)
    facts = gather(made.context, made.videos, made.views, labels, made.plan, evaluation)
    page = render(facts)
    card = _evaluation(_facts(made.context, made.videos, labels, made.plan, evaluation))
    for item in metrics["comparisons"]:
        assert f"{item['first']} − {item['second']}</th><td><b>{item['word']}</b>" in page
        if item["first"] == "student":
            assert f"- {item['first']} against {item['second']}: **{item['word']}**" in card
    assert [row.taught for row in facts.networks] == [True, True, False]
    assert entry(metrics, "student")["note"] in page
    assert facts.gap_reason in page
    assert "mean over 2 seeds, of which this is one" in card
    first = entry(metrics, "student")["replicates"][0]["metrics"]
    assert f"| top-1 per video | {100 * first['top1']:.1f} % (95% interval " in card  # of the network that is exported
    assert "top-5" not in card


def _evaluation(facts: CardFacts) -> str:
    network = build_network(NetworkSpec("compact", ("c0", "c1")), seed=0)
    return model_card(network, (4, 16, 16), facts).partition("## Evaluation")[2].partition("## Cost")[0]


def test_mlflow_takes_figures_and_words(made: Small, metrics: dict, tmp_path: Path) -> None:
    tracker = Tracker.open(f"sqlite:///{tmp_path}/mlflow.db", "some", tmp_path / "artefacts")
    run = tracker.start_run("main")
    log_figures(tracker, run, metrics)
    found = MlflowClient(tracking_uri=tracker.uri).get_run(run).data
    student, item = entry(metrics, "student"), metrics["comparisons"][0]
    assert found.metrics["student/top1"] == pytest.approx(student["metrics"]["top1"])
    assert found.metrics["student/top1_low"] == pytest.approx(student["metrics"]["top1_interval"]["low"])
    assert found.metrics["student/top1_sd"] == pytest.approx(student["sd"])
    assert found.metrics["student/train_top1"] == pytest.approx(student["train"]["top1"])
    assert found.metrics["student-minus-teacher/low"] == pytest.approx(item["low"])
    assert found.tags["student against teacher"] == item["word"]


def test_the_printed_table_says_words_and_intervals(made: Small, metrics: dict) -> None:
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
