"""The only training loop: teacher, assistant, student, fold model and control, on any host. Plain torch, no Ray.

job ─▶ Training ◀─ newest checkpoint
          │  for each phase, for each batch: forward, loss, backward, step
          ├─▶ reporter, every log_every steps        (asked at the same moment whether to stop)
          ├─▶ validation, every validate_every steps, where the best step is selected
          ├─▶ checkpoint, every checkpoint_every steps, at a stop and at the end
          └─▶ Trained
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.distill import distributed
from pipeline.distill.memory import TrainingData
from pipeline.distill.spec import Job
from pipeline.distill.state import CheckpointStore, NoCheckpoints, pack, unpack
from pipeline.distill.training import Training, process_settings
from pipeline.errors import ConfigError
from pipeline.models.network import VideoNetwork

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Where figures go, and who may end a training early. Every rank calls it, with the same figures."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of the last of `step` steps done."""

    def stop(self) -> bool:
        """Whether to stop now; one rank's yes stops all."""


class Silent:
    """Reports nothing and never stops."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Forget it."""

    def stop(self) -> bool:
        return False


@dataclass(frozen=True)
class Trained:
    """The network in evaluation mode, the last logged figures, and how many steps are done (less than job.steps where
    the reporter stopped it, or patience ended). metrics has also `seconds` of this call and `resumed_at`, the step it
    began with; with `select: best` also `chosen_step`, `val_top1` and `val_nll` of the network that was kept."""

    network: VideoNetwork
    metrics: dict[str, float]
    steps: int


def train(
    job: Job,
    data: TrainingData,
    reporter: Reporter | None = None,
    checkpoints: CheckpointStore | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> Trained:
    """Train `job.network` on `data` for `job.steps` steps, going on from the newest checkpoint.

    On the CPU the result depends on job and data alone, bit for bit, whatever was interrupted. With world > 1 a process
    group is initialised and every rank calls this with the same job; only rank 0 uses `checkpoints`. The caller writes
    the network (`models.weights.save_network`). Raises ConfigError and InputError where job and data do not fit,
    JobError where the loss, or a weight that would be saved, is not finite.
    """
    began = time.monotonic()
    reporter, checkpoints = reporter or Silent(), checkpoints or NoCheckpoints()
    _check_clips(job, data.clips)
    with process_settings(job):
        training = Training(job, data, rank=rank, world=world)
        metrics = _resume(training, checkpoints)
        resumed_at = training.step
        metrics = _run(training, data, reporter, checkpoints, metrics)
        metrics |= training.settle(data)
        training.check_weights()  # statistics taken anew overflow before weights do
    metrics |= {"seconds": time.monotonic() - began, "resumed_at": float(resumed_at)}
    return Trained(training.network.eval(), metrics, training.step)


def _check_clips(job: Job, clips: int) -> None:
    """ConfigError where an epoch has no full batch, with the field that decides for this job."""
    if clips < job.batch_size:
        raise ConfigError(
            f"job {job.name!r} has {clips} clips to learn from, fewer than one batch of {job.batch_size}: lower "
            f"{job.batch_field}, or give it more labelled videos (manifest.label_fraction, manifest.split)"
        )


def _run(
    training: Training,
    data: TrainingData,
    reporter: Reporter,
    checkpoints: CheckpointStore,
    metrics: dict[str, float],
) -> dict[str, float]:
    job = training.job
    part: dict[str, Any] = {"batch_size": job.batch_size, "rank": training.rank, "world": training.world}
    part |= {"seed": job.seed, "labelled_share": job.labelled_share}
    for phase in training.phases:
        if phase.stop <= training.step:
            continue
        training.enter(phase)
        for batch in data.batches(max(training.step, phase.first_step), phase.stop, **part):
            if training.exhausted:  # found again after a kill between the last checkpoint and the end
                return metrics
            loss = training.advance(batch, phase)
            done = training.step == job.steps
            judged = training.validate(data) if training.validates else {}
            due = done or bool(judged) or training.step % job.log_every == 0
            if due:
                metrics = training.metrics(loss, phase) | judged
                reporter.log(training.step, metrics)
            stop = due and not done and distributed.any_rank(reporter.stop(), training.world, training.device)
            stop = stop or (training.exhausted and not done)
            if done or stop or training.step % job.checkpoint_every == 0:
                training.check_weights()
                _save(training, checkpoints, metrics)
            if stop:
                return metrics
    return metrics


def _save(training: Training, checkpoints: CheckpointStore, metrics: Mapping[str, float]) -> None:
    if training.rank == 0:
        checkpoints.save(training.step, pack({**training.state(), "metrics": dict(metrics)}))


def _resume(training: Training, checkpoints: CheckpointStore) -> dict[str, float]:
    """Put the newest checkpoint into `training`; the figures that were logged before it."""
    found = checkpoints.latest() if training.rank == 0 else None
    payload = distributed.from_first_rank(found, training.world, training.device)
    if payload is None:
        return {}
    state = unpack(payload, training.job.key)
    training.restore(state)
    log.info("job %s goes on at step %d of %d", training.job.name, training.step, training.job.steps)
    return dict(state["metrics"])
