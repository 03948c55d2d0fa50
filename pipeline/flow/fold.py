"""One fold model: trained without its fold, it labels the fold's videos and the validation videos. Runs on any host."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_marker, read_object, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.identity import digest
from pipeline.artifacts.places import place
from pipeline.artifacts.schemas import column, tensor_array
from pipeline.distill.data import DataSpec
from pipeline.distill.plain import Json
from pipeline.distill.spec import Job
from pipeline.flow.step import content
from pipeline.flow.tasks import Host, TrainTask, run_training

LOGITS = "logits"


@dataclass(frozen=True)
class FoldTask(Json):
    """`held_out`: the fold's videos. `validation`: videos of `check_frames` (`flow.check_views`), () without any.
    `seen`: what model.json says of the labels that it saw."""

    job: Job
    data: DataSpec
    out: str
    held_out: tuple[str, ...]
    check_frames: str
    check_snapshot: str
    validation: tuple[str, ...]
    micro_batch: int
    seen: dict[str, Any] = field(default_factory=lambda: {"saw_labels": True})

    @property
    def marker(self) -> str:
        """Other validation videos or views mean other logits of the same model."""
        read = [list(self.held_out), self.check_snapshot, list(self.validation), self.micro_batch]
        return f"{LOGITS}-{digest(read)[:12]}"


def run_fold(task: FoldTask, host: Host | None = None) -> str:
    """Train (if not done) and commit both tables of logits beside the model; returns its folder."""
    folder = place(task.out)
    run_training(TrainTask(task.job, task.data, task.out, {**task.seen, "fold": task.job.name}), host or Host())
    if read_marker(folder, task.marker) is None:
        assert task.data.snapshot is not None
        held_out = _logits(task, task.data.frames, task.data.snapshot, task.held_out)
        validation = _logits(task, task.check_frames, task.check_snapshot, task.validation)
        attempt = new_attempt()
        tables = {"held-out": held_out, "validation": validation}
        objects = [
            write_table(
                folder, f"{name}.{attempt}.parquet", pa.table({"logits": tensor_array(values.reshape(len(values), -1))})
            )
            for name, values in tables.items()
        ]
        commit(folder, Marker(task.marker, attempt, tuple(objects)))
    return task.out


def read_logits(task: FoldTask) -> tuple[np.ndarray, np.ndarray]:
    """Logits (videos, views, classes) of the held-out and of the validation videos, in the task's order."""
    folder = place(task.out)
    marker = read_marker(folder, task.marker)
    assert marker is not None, f"{folder}: the fold's logits are missing"
    tables = [column(read_object(folder, part), "logits") for part in marker.objects]
    held_out, validation = (table.reshape(len(table), -1, task.data.classes) for table in tables)
    return held_out, validation


def _logits(task: FoldTask, frames: str, snapshot: str, videos: tuple[str, ...]) -> np.ndarray:
    from pipeline.models.weights import load_network
    from pipeline.targets.labeler import Labeler

    if not videos:
        return np.zeros((0, 1, task.data.classes), np.float32)
    labeler = Labeler(load_network(content(place(task.out))), batch=task.micro_batch, device=task.job.device)
    return by_video(labeler, frames, snapshot, videos, task.micro_batch)


def by_video(labeler: Any, frames: str, snapshot: str, videos: tuple[str, ...], batch: int) -> np.ndarray:
    """What `labeler` says of every view of `videos`, (videos, views, classes) float32, views by (clip, view)."""
    wanted = set(videos)
    rows: dict[str, list[tuple[str, int, np.ndarray]]] = {name: [] for name in videos}
    dataset = open_dataset(frames, snapshot)
    for shard in dataset.shard_ids:
        table = dataset.shard(shard)
        names = table.column("video_id").to_pylist()
        kept = [row for row, name in enumerate(names) if name in wanted]
        if not kept:
            continue
        logits = _in_batches(labeler, column(table.take(kept), "frames"), batch)
        keys = table.select(["clip_id", "view_id"]).take(kept).to_pylist()
        for row, key, values in zip(kept, keys, logits, strict=True):
            rows[names[row]].append((key["clip_id"], key["view_id"], values))
    ordered = [[values for _, _, values in sorted(rows[name], key=lambda entry: entry[:2])] for name in videos]
    return np.asarray(ordered, np.float32).reshape(len(videos), -1, len(ordered[0][0]))


def _in_batches(labeler: object, frames: np.ndarray, batch: int) -> np.ndarray:
    parts = [labeler(frames[start : start + batch])["logits"] for start in range(0, len(frames), batch)]  # type: ignore[operator]
    return np.concatenate(parts)
