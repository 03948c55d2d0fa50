"""Tasks that any host runs: train one network, or let a trained one label a plan's frames.

A task is plain JSON. `execute` skips what its marker says is done, so a list of tasks can be killed anywhere and run
again. All ranks of a worker group call it with the same list.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_markers, read_object, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.files import make_folder, read_if_present, remove, replace
from pipeline.artifacts.places import is_remote, place
from pipeline.artifacts.schemas import column, features_schema, tensor_array
from pipeline.artifacts.snapshot import load as load_snapshot
from pipeline.distill.data import DataSpec, load
from pipeline.distill.loop import train
from pipeline.distill.phases import plan_phases
from pipeline.distill.plain import Json
from pipeline.distill.spec import Job
from pipeline.distill.state import FolderCheckpoints
from pipeline.errors import JobError
from pipeline.flow.heads import fit_head, in_words
from pipeline.flow.step import TABLE, content, finish, is_done, staged
from pipeline.models.frozen import FrozenPart, fits_on_features
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network
from pipeline.targets.codec import encode
from pipeline.targets.labeler import Labeler
from pipeline.targets.statistics import channel_statistics
from pipeline.tracking import Tracker
from pipeline.video.micro_batch import replay_rows

LOG = logging.getLogger(__name__)
SAY_EVERY = 10.0


@dataclass(frozen=True)
class TrainTask(Json):
    """Train `job` on `data` into the models folder `out`; `extras` go into model.json; `run_id` is its MLflow run.

    `groups`: pairs (video_id, group), for a head that is fitted with cross-validation over groups.
    """

    job: Job
    data: DataSpec
    out: str
    extras: dict[str, Any]
    run_id: str = ""
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LabelTask(Json):
    """Let the network in the models folder `model` write targets for all committed shards of `frames` into `out`."""

    name: str
    model: str
    frames: str
    snapshot: str
    out: str
    micro_batch: int
    device: str
    dtype: str = "float32"
    codec: str = "float16"
    threads: int = 1


@dataclass(frozen=True)
class FeatureTask(Json):
    """Store what the frozen part of `network` gives of every view of `frames`, shard by shard, in `out`."""

    name: str
    network: NetworkSpec
    frames: str
    snapshot: str
    out: str
    micro_batch: int
    device: str
    threads: int = 1


@dataclass(frozen=True)
class StatisticsTask(Json):
    """Channel statistics of the training rows in `targets` (all its committed shards), as the table artefact `out`."""

    name: str
    targets: str
    out: str
    snapshot: str | None = None


@dataclass(frozen=True)
class Host:
    """Where the tasks run. `report` is called with (task name, metrics): progress, or a trial's results."""

    rank: int = 0
    world: int = 1
    tracker: Tracker = field(default_factory=lambda: Tracker(None))
    report: Callable[[str, Mapping[str, float]], None] = lambda name, metrics: None


Task = TrainTask | LabelTask | FeatureTask | StatisticsTask


class _Reporter:
    """Keeps the history, sends it to MLflow every few seconds, says where the job stands."""

    def __init__(self, host: Host, task: TrainTask) -> None:
        self.host, self.task = host, task
        self.file = place(task.out) / "history.jsonl"
        self.history = self._before() if host.rank == 0 else []
        self._sent, self._said = 0.0, time.monotonic()

    def _before(self) -> list[dict[str, float]]:
        """What an attempt that was killed had logged; a torn last line is cut off, since lines are appended to it."""
        whole, _, torn = (read_if_present(self.file) or b"").decode().rpartition("\n")
        if torn:
            replace(self.file, (f"{whole}\n" if whole else "").encode())
        return [json.loads(line) for line in whole.splitlines()]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        record = {"step": float(step), **{name: float(value) for name, value in metrics.items()}}
        self.history = [*(old for old in self.history if old["step"] < step), record]
        if self.host.rank == 0:
            self._keep(record)
        if self.host.rank == 0 and time.monotonic() - self._said > SAY_EVERY:
            job = self.task.job
            say(f"{job.name}: step {step} of {job.steps}, loss {metrics.get('loss', float('nan')):.3f}")
            self.flush()

    def _keep(self, record: Mapping[str, float]) -> None:
        """Nothing can be appended to an object, so there the history is written whole."""
        if is_remote(self.file):
            replace(self.file, "".join(f"{json.dumps(old)}\n" for old in self.history).encode())
            return
        with self.file.open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Send what is new."""
        if self.host.rank == 0:
            new = [record for record in self.history if record["step"] > self._sent]
            self.host.tracker.log_history(self.task.run_id, new)
        self._sent = self.history[-1]["step"] if self.history else 0.0
        self._said = time.monotonic()

    def stop(self) -> bool:
        return False


def say(text: str) -> None:
    """A line of progress on stderr; a worker's reaches the driver's through Ray."""
    # Not print: Ray Train replaces it by one that says everything twice.
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def execute(tasks: Iterable[Task], host: Host) -> None:
    """Run the tasks in order; what is done is skipped."""
    for task in tasks:
        if isinstance(task, TrainTask):
            run_training(task, host)
        elif isinstance(task, LabelTask):
            run_labelling(task, host)
        elif isinstance(task, FeatureTask):
            run_features(task, host)
        elif host.rank == 0:
            run_statistics(task)
        _barrier(host)


def open_tasks(tasks: Iterable[Task]) -> list[Task]:
    """The tasks that are not done yet."""
    return [task for task in tasks if not _task_done(task)]


def _task_done(task: Task) -> bool:
    if isinstance(task, TrainTask):
        return is_done(place(task.out))
    if isinstance(task, StatisticsTask):
        return is_done(place(task.out), TABLE)
    if isinstance(task, FeatureTask):
        return feature_shards_left(task) == 0
    wanted = load_snapshot(place(task.frames), task.snapshot).shards
    return {shard.shard_id for shard in wanted} <= read_markers(place(task.out)).keys()


def run_training(task: TrainTask, host: Host) -> None:
    """Train one network and commit it; rank 0 writes."""
    folder = place(task.out)
    if is_done(folder):
        return
    make_folder(folder)
    if fits_on_features(task.job.network):
        if host.rank == 0:
            _fit_head(folder, task)
            host.tracker.finish(task.run_id)
        return
    reporter = _Reporter(host, task)
    checkpoints = FolderCheckpoints(folder / "checkpoints")
    trained = train(task.job, _load(task.data), reporter, checkpoints, rank=host.rank, world=host.world)
    reporter.flush()
    if host.rank == 0:
        _write_model(folder, task, trained.network, trained.metrics, reporter.history)
    host.report(task.job.name, reporter.history[-1] if reporter.history else {})
    if host.rank == 0:
        checkpoints.clear()
        remove(reporter.file)
        host.tracker.finish(task.run_id)


def _fit_head(folder: Path, task: TrainTask) -> None:
    """Logistic regression, or what cross-validation prefers; metrics.json has it as head_choice."""
    if task.job.network.weights is None:
        LOG.warning("%s: the frozen backbone has random weights: set weights", task.job.name)
    network, choice = fit_head(task.job, task.data, dict(task.groups))
    say(f"{task.job.name}: {in_words(choice)}")
    _write_model(folder, task, network, {"head_choice": choice}, [])


def _write_model(
    folder: Path, task: TrainTask, network: Any, metrics: Mapping[str, Any], history: list[dict[str, float]]
) -> None:
    attempt = new_attempt()
    phases = plan_phases(task.job.schedule, task.job.steps, task.job.share, network.substages, task.job.objective)
    spans = [(phase.first_step, phase.stop) for phase in phases]
    with staged(folder) as local:
        inside = local / attempt
        inside.mkdir()
        save_network(inside, network, task.extras)
        (inside / "job.json").write_text(json.dumps(task.job.to_json(), indent=1, sort_keys=True))
        (inside / "metrics.json").write_text(json.dumps({"final": dict(metrics), "history": history, "phases": spans}))
        finish(folder, attempt, {"steps": task.job.steps, "name": task.job.name}, staged_in=local)


def run_statistics(task: StatisticsTask) -> None:
    """One pass over the targets in shard order."""
    out = place(task.out)
    if is_done(out, TABLE):
        return
    targets = open_dataset(task.targets, task.snapshot)
    names = [name for name in targets.shard(targets.shard_ids[0]).column_names if name.startswith("substage_")]
    table = channel_statistics((targets.shard(shard, names) for shard in targets.shard_ids), len(names))
    attempt = new_attempt()
    commit(out, Marker(TABLE, attempt, (write_table(out, f"statistics.{attempt}.parquet", table),)))


_LOADED: dict[str, Any] = {}


def _load(spec: DataSpec) -> Any:
    """Training data, kept for the next job of this process that asks for the same."""
    key = json.dumps(spec.to_json(), sort_keys=True)
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load(spec)
    return _LOADED[key]


def run_labelling(task: LabelTask, host: Host) -> None:
    """Write the targets of every shard that has none yet; the ranks share the shards."""
    out = place(task.out)
    frames = open_dataset(task.frames, task.snapshot)
    done = read_markers(out)
    # By place in the snapshot: what is missing changes while the other ranks commit.
    mine = [shard for shard in frames.snapshot.shards[host.rank :: host.world] if shard.shard_id not in done]
    if not mine:
        return
    torch.set_num_threads(task.threads)
    labeler = network_labeler(task)
    for shard in mine:
        _label_shard(task, labeler, shard, out)


def network_labeler(task: LabelTask) -> Labeler:
    network = load_network(content(place(task.model)))
    return Labeler(network, task.micro_batch, task.device, task.dtype)


def _label_shard(task: LabelTask, labeler: Labeler, shard: Marker, out: Path) -> None:
    """One forward per part of the shard, so that a batch never mixes micro-batches."""
    source = place(task.frames)
    outputs: list[Mapping[str, np.ndarray]] = []
    rows: list[dict[str, Any]] = []
    lost: set[str] = set()
    if shard.quarantine is not None:
        lost = set(read_object(source, shard.quarantine).column("video_id").to_pylist())
    for part in shard.objects:
        table = read_object(source, part)
        kept = [i for i, name in enumerate(table.column("video_id").to_pylist()) if name not in lost]
        if kept:
            outputs.append(labeler(column(table, "frames")[kept]))
            rows += replay_rows(table.take(kept))
    merged = {name: np.concatenate([part[name] for part in (labeler.empty(), *outputs)]) for name in labeler.names}
    attempt = new_attempt()
    written = write_table(out, f"{shard.shard_id}.{attempt}.parquet", encode(merged, rows, dtype=task.codec))
    commit(
        out, Marker(shard.shard_id, attempt, (written,), shard.quarantine and _copy(source, out, shard, attempt), {})
    )


def _copy(source: Path, out: Path, shard: Marker, attempt: str) -> Any:
    assert shard.quarantine is not None
    table = read_object(source, shard.quarantine)
    return write_table(out, f"{shard.shard_id}.quarantine.{attempt}.parquet", table)


def run_features(task: FeatureTask, host: Host) -> None:
    """Write the features of every shard that has none yet; the ranks share the shards."""
    out = place(task.out)
    frames, done = open_dataset(task.frames, task.snapshot), read_markers(out)
    mine = [shard for shard in frames.snapshot.shards[host.rank :: host.world] if shard.shard_id not in done]
    if not mine:
        return
    torch.set_num_threads(task.threads)
    frozen = FrozenPart(build_network(task.network, 0), task.micro_batch, task.device)
    make_folder(out)
    for shard in mine:
        table = frames.shard(shard.shard_id)
        pixels = column(table, "frames")
        starts = range(0, len(pixels), task.micro_batch)
        values = np.concatenate([frozen(pixels[start : start + task.micro_batch]) for start in starts])
        keys = table.select(["clip_id", "view_id", "video_id"]).columns
        schema = features_schema(*values.shape[1:])
        written = pa.table([*keys, tensor_array(_half(values, table))], schema=schema)
        attempt = new_attempt()
        commit(
            out, Marker(shard.shard_id, attempt, (write_table(out, f"{shard.shard_id}.{attempt}.parquet", written),))
        )


def feature_shards_left(task: FeatureTask) -> int:
    """How many shards of the pinned frames have no features yet."""
    wanted = load_snapshot(place(task.frames), task.snapshot).shards
    return len({shard.shard_id for shard in wanted} - read_markers(place(task.out)).keys())


def _half(values: np.ndarray, table: pa.Table) -> np.ndarray:
    """As float16. JobError names the first view whose features do not fit."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    bad = np.flatnonzero(~np.isfinite(half).all(axis=(1, 2)))
    if len(bad):
        clip = table.column("clip_id")[int(bad[0])].as_py()
        raise JobError(f"features of {clip} are not finite as half floats: take another backbone or other weights")
    return half


def _barrier(host: Host) -> None:
    if host.world > 1 and dist.is_initialized():
        dist.barrier()
