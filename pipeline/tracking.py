"""MLflow, and the only file that imports it (inside functions: the import costs seconds).

The driver creates the store, the parent run and its stage runs; workers receive run ids and log through a client of
their own. A fresh SQLite file opened by several processes at once breaks, so `open` is called before any worker starts.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

LOG = logging.getLogger(__name__)
MAX_PARAM = 500
MAX_BATCH = 1000


def resolve_uri(configured: str | None, default: str) -> str:
    """MLFLOW_TRACKING_URI wins, then the recipe, then the workspace's SQLite file. MLflow takes no `file:`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured or default
    if uri.startswith("file:") or "://" not in uri:
        raise InputError(
            f"tracking store {uri}: MLflow no longer takes plain folders; use sqlite:///PATH or a server's address"
        )
    return uri


@dataclass(frozen=True)
class Tracker:
    """A handle on one experiment; plain strings, so that it travels to workers. `uri` None tracks nothing."""

    uri: str | None
    experiment_id: str = ""

    @classmethod
    def open(cls, uri: str, experiment: str, artifacts: Path | None = None) -> "Tracker":
        """Create the store (first use) and the experiment; `artifacts` is where a local store keeps files."""
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return cls(uri, found.experiment_id)
        location = artifacts.resolve().as_uri() if artifacts is not None and uri.startswith("sqlite") else None
        return cls(uri, client.create_experiment(experiment, artifact_location=location))

    def start_run(self, name: str, params: Mapping[str, Any] | None = None, parent: str | None = None) -> str:
        """A new run, nested under `parent` if given; returns its id ("" where nothing is tracked)."""
        if self.uri is None:
            return ""
        client = _client(self.uri)
        tags = {"mlflow.runName": name} | ({"mlflow.parentRunId": parent} if parent else {})
        run_id = client.create_run(self.experiment_id, tags=tags).info.run_id
        for key, value in flatten(params or {}).items():
            client.log_param(run_id, key, str(value)[:MAX_PARAM])
        return run_id

    def log(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Finite metrics of one step in one request."""
        if self.uri is None or not run_id:
            return
        from mlflow.entities import Metric

        entries = [Metric(key, float(value), _now(), step) for key, value in metrics.items() if value == value]
        _client(self.uri).log_batch(run_id, metrics=entries)

    def log_history(self, run_id: str, records: Sequence[Mapping[str, float]]) -> None:
        """Metrics of many steps (each record has `step`) in as few requests as the server allows."""
        if self.uri is None or not run_id or not records:
            return
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = _now()
        entries = [
            Metric(key, float(value), now, int(record["step"]))
            for record in records
            for key, value in record.items()
            if key != "step" and value == value
        ]
        client = _client(self.uri)
        try:
            for start in range(0, len(entries), MAX_BATCH):
                client.log_batch(run_id, metrics=entries[start : start + MAX_BATCH])
        except MlflowException as error:
            # A record that is away for a while must not end a training: the history also lies beside the model.
            LOG.warning("MLflow did not take %d metrics of run %s: %s", len(entries), run_id, error)

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Texts of a run, in one request."""
        if self.uri is None or not run_id or not tags:
            return
        from mlflow.entities import RunTag

        _client(self.uri).log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def artefact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file or folder into the run."""
        if self.uri is None or not run_id:
            return
        client = _client(self.uri)
        if path.is_dir():
            client.log_artifacts(run_id, str(path), artifact_path=folder)
        else:
            client.log_artifact(run_id, str(path), artifact_path=folder)

    def model(self, run_id: str, folder: Path, name: str) -> str:
        """Log an exported student as an MLflow model (pyfunc by `pipeline.export.loader`); returns its URI."""
        if self.uri is None or not run_id:
            return ""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name=name, loader_module="pipeline.export.loader", data_path=str(folder), pip_requirements=["stagedkd"]
            )
        return str(info.model_uri)

    def finish(self, run_id: str, *, failed: bool = False) -> None:
        """Close a run."""
        if self.uri is not None and run_id:
            _client(self.uri).set_terminated(run_id, "FAILED" if failed else "FINISHED")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _now() -> int:
    import time

    return int(time.time() * 1000)
