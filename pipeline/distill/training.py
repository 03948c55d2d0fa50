"""One training under way: network, loss, optimiser, phases, and what one step does with them.

`loop.train` drives it; its `state` is what a checkpoint holds. On the CPU every value is a pure function of the job and
the data: initialisation, order, extra parameters, source dropout and the networks' own dropout each draw from a
generator that is seeded by name, and the last two by step, so that a resumed training meets the same numbers.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.artifacts.identity import integer
from pipeline.distill import distributed
from pipeline.distill.augment import photometric, positions
from pipeline.distill.cascade import kept_sources
from pipeline.distill.memory import Batch, Logits, TopKRows, TrainingData, labelled_rows
from pipeline.distill.objective import DistillationLoss, Loss, TensorBatch
from pipeline.distill.optimiser import build_optimiser, rate, set_rate
from pipeline.distill.phases import Phase, plan_phases
from pipeline.distill.selection import Selection, judge, recalibrate, statistics_kept
from pipeline.distill.spec import Job
from pipeline.errors import ConfigError, InputError, JobError
from pipeline.losses import Teacher, TopKLogits, average_over_ranks
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network
from pipeline.models.weights import load_weights

LOCAL_PARTS = ("ce", "kd")  # each rank sees its own rows here; the feature terms are of the gathered batch


class Training:
    """State and one step. `step` is the number of steps done, so also the number of the next one."""

    def __init__(self, job: Job, data: TrainingData, *, rank: int, world: int) -> None:
        """Raises ConfigError or InputError where job, network and data do not fit together."""
        self.job, self.rank, self.world = job, rank, world
        self.device = _device(job.device)
        self.network = _network(job, world, self.device)
        self.loss = _loss(job, data, self.network).to(self.device)
        self.optimiser = build_optimiser(job.optimiser, self.network, self.loss.groups())
        self.phases = plan_phases(job.schedule, job.steps, job.share, self.network.substages, job.objective)
        self.step = 0
        self._sources = len(data.source_dims)
        self._drawn = None
        if job.labelled_share is not None:
            self._drawn = labelled_rows(job.labelled_share, job.batch_size) // world
        drawn = None if self._drawn is None else self._drawn * world
        self._positions = positions(job.batch_size, drawn, rank, world)
        self._learnable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.selection = _selection(job, data)
        self._average = None
        if job.ema is not None:
            self._average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(job.ema))
        self._entered: Phase | None = None
        self._model: nn.Module = self.network

    def enter(self, phase: Phase) -> None:
        """Freeze what `phase` does not train. DDP is wrapped anew only where that changes."""
        before, self._entered = self._entered, phase
        whole = len(phase.trained) == self.network.substages
        if whole:
            self.network.train()
        else:
            self.network.train_substages(phase.trained[0], phase.trained[-1])
        if before is not None and (before.trained, before.labels) == (phase.trained, phase.labels):
            return
        trained = self._learnable if whole else self.network.parameters_of(phase.trained[0], phase.trained[-1])
        chosen = {id(parameter) for parameter in trained}
        for parameter in self._learnable:
            parameter.requires_grad_(id(parameter) in chosen)
        self._model = self.network  # let go of the earlier wrapping before there is a new one
        self._model = distributed.wrapped(self.network, self.world, all_used=self.loss.uses_logits(phase))

    def advance(self, batch: Batch, phase: Phase) -> Loss:
        """One optimiser step on this rank's part of a global batch. JobError where a term is not finite."""
        job, step = self.job, self.step
        self._seed_step()
        seen = _on_device(batch, self.device, self._drawn)
        if job.augment.active:
            seen = seen._replace(
                frames=photometric(seen.frames, job.augment, self._positions, seed=job.seed, step=step)
            )
        loss = self._forward(seen, phase)
        self._check_finite(loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.total.backward()
        distributed.average_gradients(self.loss.parameters(), self.world)
        if job.optimiser.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._learnable, job.optimiser.clip_norm)
        set_rate(self.optimiser, rate(job.optimiser, step, job.steps))
        self.optimiser.step()
        self.loss.after_step()
        if self._average is not None:
            self._average.update_parameters(self.network)
        self.step += 1
        return loss

    def metrics(self, loss: Loss, phase: Phase) -> dict[str, float]:
        """What is logged of the step just done: loss, unweighted parts, lr, phase (from 1), figures per substage."""
        values = {"loss": loss.total.detach(), **loss.parts}
        for name in ("loss", *LOCAL_PARTS):
            if name in values:
                values[name] = average_over_ranks(values[name])
        values |= loss.figures
        learning = self.job.optimiser.lr * rate(self.job.optimiser, self.step - 1, self.job.steps)
        return {name: float(value) for name, value in values.items()} | {"lr": learning, "phase": phase.index + 1.0}

    @property
    def validates(self) -> bool:
        """Whether the network is judged after the step just done: every validate_every steps and after the last, but
        not while labels are off, when the head has not been trained yet."""
        if self.selection is None or (self._entered is not None and not self._entered.labels):
            return False
        return self.step % self.job.validate_every == 0 or self.step == self.job.steps

    @property
    def exhausted(self) -> bool:
        """Whether patience with validation has ended."""
        return self.selection is not None and self.selection.exhausted(self.job.patience)

    def validate(self, data: TrainingData) -> dict[str, float]:
        """Judge the network on validation, keep it if it is the best; training goes on as if nothing had been. JobError
        where its logits there are not finite."""
        assert self.selection is not None
        assert data.validation is not None
        network = self._result
        with statistics_kept(network):
            found = judge(self.job, network, data, data.validation)
            top1, nll = distributed.first_ranks(list(found), self.world, self.device)
            self._check_judged(nll)
            self.selection.offer(self.step, top1, nll, network.state_dict())
        return {"val_top1": top1, "val_nll": nll}

    def settle(self, data: TrainingData) -> dict[str, float]:
        """Make `network` the result: the best one that was judged, with its step and figures, or the last (averaged
        where the job says so), with batch-norm statistics taken anew where that is asked for."""
        found = self.selection
        if found is not None and found.network:
            self.network.load_state_dict(found.network)
            return {"chosen_step": float(found.step), "val_top1": found.top1, "val_nll": found.nll}
        if self._average is not None:
            self.network.load_state_dict(self._result.state_dict())
        if self.job.recalibrate_norm or self._average is not None:
            recalibrate(self.job, self.network, data)
        return {}

    @property
    def _result(self) -> VideoNetwork:
        """What is judged and kept: the network, or its average."""
        return self.network if self._average is None else cast(VideoNetwork, self._average.module)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain tensors and numbers."""
        return {
            "key": self.job.key,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "loss": self.loss.state_dict(),
            "selection": None if self.selection is None else self.selection.state(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`, on a training that was just built from the same job."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.loss.load_state_dict(state["loss"])
        self.step = int(state["step"])
        if self.selection is not None:
            self.selection = Selection(**state["selection"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def check_weights(self) -> None:
        """JobError where a parameter or buffer is not finite: the loss, looked at before a step, cannot tell what that
        step made of them."""
        for part in (self.network, self.loss):
            for name, value in [*part.named_parameters(), *part.named_buffers()]:
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise JobError(
                        f"job {self.job.name!r}: {name} is not finite after step {self.step} of {self.job.steps}, and "
                        "the network is not saved; lower optimiser.lr, or set optimiser.clip_norm"
                    )

    def _check_judged(self, nll: float) -> None:
        """By its top-1 a network that says nothing, and so always names the first class, might be the best."""
        if not math.isfinite(nll):
            raise JobError(
                f"job {self.job.name!r}: the logits of validation are not finite after step {self.step} of "
                f"{self.job.steps}; lower optimiser.lr, or set optimiser.clip_norm"
            )

    def _forward(self, batch: TensorBatch, phase: Phase) -> Loss:
        job = self.job
        # Without a use for logits the head is not computed, which also tells DDP that it gets no gradient.
        upto = phase.upto if self.loss.uses_logits(phase) else phase.upto or self.network.substages
        with torch.autocast(self.device.type, torch.bfloat16, enabled=job.dtype == "bfloat16"):
            output = self._model(batch.frames, upto=upto)
        _check_classes(output.logits, batch)
        kept = (0,) * self._sources
        if self._sources > 1 and job.source_weights is None:
            kept = kept_sources(self._sources, dropout=job.source_dropout, seed=job.seed, step=self.step)
        return self.loss(output.logits, output.features, batch, phase, self.step, kept)

    def _seed_step(self) -> None:
        seed = integer("step", self.job.seed, self.step, self.rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _check_finite(self, loss: Loss) -> None:
        if math.isfinite(loss.total.item()):
            return
        bad = [name for name, part in loss.parts.items() if not math.isfinite(part.item())] or ["loss"]
        raise JobError(
            f"job {self.job.name!r}: {', '.join(bad)} is not finite at step {self.step} of {self.job.steps}; lower "
            "optimiser.lr, set optimiser.clip_norm, or look for broken frames or targets"
        )


@contextmanager
def process_settings(job: Job) -> Iterator[None]:
    """Threads as the job says, denormals flushed (moments that fade would slow every step), random state untouched."""
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if job.device == "cuda" and torch.cuda.is_available() else []
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def _device(name: str) -> torch.device:
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("train.device is cuda, but this machine has no usable CUDA device; set train.device: cpu")
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


def _network(job: Job, world: int, device: torch.device) -> VideoNetwork:
    network = build_network(job.network, job.seed)
    if job.init:
        load_weights(network, job.init)
    return distributed.synchronised(network, world, device).to(device)  # type: ignore[return-value]


def _loss(job: Job, data: TrainingData, network: VideoNetwork) -> DistillationLoss:
    dims = data.source_dims
    if job.source_weights is not None and len(job.source_weights) != len(dims):
        raise ConfigError(f"job {job.name!r} has {len(dims)} sources and {len(job.source_weights)} weights for them")
    if job.wiring == "chain" and len(dims) > 1 and job.source_weights is None:
        raise ConfigError(f"job {job.name!r} has {len(dims)} sources, but wiring chain has one; set wiring: dense")
    return DistillationLoss(
        job.objective,
        dims=network.dims,
        classes=network.num_classes,
        source_dims=dims,
        statistics=data.statistics,
        mean_weight=data.mean_weight,
        seed=job.seed,
        half_precision=bool(dims) and data.half_precision[-1],
        source_weights=job.source_weights,
    )


def _selection(job: Job, data: TrainingData) -> Selection | None:
    if job.select == "last":
        return None
    if data.validation is None:
        raise ConfigError(f"job {job.name!r} selects its best step, but there is no validation data: set select: last")
    return Selection()


def _on_device(batch: Batch, device: torch.device, drawn: int | None) -> TensorBatch:
    def put(values: Any) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    def known(logits: Logits) -> Teacher:
        if not isinstance(logits, TopKRows):
            return put(logits)
        columns = {name: put(getattr(logits, name)) for name in ("index", "logit", "mean", "sd", "tail")}
        return TopKLogits(**columns, temperatures=logits.temperatures, classes=logits.classes)

    sources = [(known(logits), [put(feature) for feature in features]) for logits, features in batch.sources]
    return TensorBatch(put(batch.frames), put(batch.q), put(batch.weight), sources, drawn)


def _check_classes(logits: Tensor | None, batch: TensorBatch) -> None:
    if logits is None:
        return
    for what, values in [("labels", batch.q), *(("targets", source[0]) for source in batch.sources)]:
        classes = values.classes if isinstance(values, TopKLogits) else values.shape[1]
        if classes != logits.shape[1]:
            raise InputError(f"the network has {logits.shape[1]} classes, the {what} have {classes}")
