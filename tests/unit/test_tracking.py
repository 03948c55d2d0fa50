"""MLflow, as a real SQLite store."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tracking import Tracker, flatten, resolve_uri


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("tracking")
    return Tracker.open(f"sqlite:///{folder}/mlflow.db", "some", folder / "artefacts")


def client(tracker: Tracker):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri)


def test_a_run_keeps_parameters_parent_metrics_and_files(tracker: Tracker, tmp_path: Path) -> None:
    parent = tracker.start_run("main", {"train": {"steps": 7, "optimiser": {"lr": 0.1}}})
    child = tracker.start_run("student", parent=parent)
    tracker.log_history(child, [{"step": 4.0, "loss": 2.5, "nan": float("nan")}, {"step": 8.0, "loss": 1.5}])
    (tmp_path / "report.html").write_text("page")
    tracker.artefact(parent, tmp_path / "report.html")
    tracker.finish(parent)
    tracker.finish(child, failed=True)
    found = client(tracker)
    assert found.get_run(parent).data.params == {"train.steps": "7", "train.optimiser.lr": "0.1"}
    assert found.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert [(p.step, p.value) for p in found.get_metric_history(child, "loss")] == [(4, 2.5), (8, 1.5)]
    assert "nan" not in found.get_run(child).data.metrics
    assert [item.path for item in found.list_artifacts(parent)] == ["report.html"]
    assert (found.get_run(parent).info.status, found.get_run(child).info.status) == ("FINISHED", "FAILED")


def test_the_same_experiment_is_opened_again(tracker: Tracker, tmp_path: Path) -> None:
    assert tracker.uri is not None
    assert Tracker.open(tracker.uri, "some", tmp_path).experiment_id == tracker.experiment_id


def test_metrics_that_the_store_refuses_are_a_warning_and_no_end(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.log_history("0" * 32, [{"step": 1.0, "loss": 1.0}])
    assert "did not take 1 metrics" in caplog.text


def test_without_a_store_nothing_is_written() -> None:
    silent = Tracker(None)
    run = silent.start_run("main", {"a": 1})
    silent.log_history(run, [{"step": 1.0, "loss": 1.0}])
    silent.finish(run)
    assert run == ""


def test_the_environment_wins_over_the_recipe_and_the_recipe_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(None, "sqlite:///a.db") == "sqlite:///a.db"
    assert resolve_uri("http://host:5000", "sqlite:///a.db") == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert resolve_uri("http://host:5000", "sqlite:///a.db") == "http://other:5000"


@pytest.mark.parametrize("uri", ["file:///tmp/runs", "mlruns"])
def test_plain_folders_are_refused_with_what_to_use(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="sqlite"):
        resolve_uri(uri, "sqlite:///a.db")


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
