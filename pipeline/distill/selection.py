"""Which step of a training is kept: the best on validation, on re-estimated batch-norm statistics (method.md §8).

Running batch-norm statistics lag behind the weights at a high learning rate (mid-run validation was up to 19 points
low, at the end 1), so a network is judged, and kept, with statistics taken anew over training batches.

Legend: n stored views, V videos, C classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.artifacts.identity import integer
from pipeline.distill.memory import TrainingData, Validation
from pipeline.distill.spec import Job
from pipeline.models.network import VideoNetwork

NORM_BATCHES = 16
FORWARD = 64


@dataclass
class Selection:
    """The best network so far and how long ago it was. `step` 0: none was judged yet."""

    step: int = 0
    top1: float = -1.0
    nll: float = float("inf")
    since: int = 0
    network: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, step: int, top1: float, nll: float, state: Mapping[str, Tensor]) -> None:
        """Keep the network of `step` where its top-1 is higher than any before, or as high with a lower NLL."""
        if (top1, -nll) > (self.top1, -self.nll):
            kept = {name: value.detach().cpu().clone() for name, value in state.items()}
            self.step, self.top1, self.nll, self.since, self.network = step, top1, nll, 0, kept
        else:
            self.since += 1

    def exhausted(self, patience: int | None) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        return patience is not None and self.since >= patience

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        plain = {"step": self.step, "top1": self.top1, "nll": self.nll, "since": self.since}
        return {**plain, "network": self.network}


def judge(job: Job, network: VideoNetwork, data: TrainingData, validation: Validation) -> tuple[float, float]:
    """Video top-1 and NLL of `network` on `validation`; its batch-norm statistics are those it is judged with after.

    Every rank computes the same, on the same batches: only the two figures have to be made one.
    """
    recalibrate(job, network, data)
    with _modes_kept(network):
        probabilities = _probabilities(network.eval(), validation)
    own = probabilities[np.arange(len(validation.labels)), validation.labels]
    hits = probabilities.argmax(axis=1) == validation.labels
    return float(hits.mean()), float(-np.log(np.maximum(own, 1e-12)).mean())


def recalibrate(job: Job, network: VideoNetwork, data: TrainingData) -> None:
    """Take the running statistics of the batch norms that are trained anew: the plain average over 16 global batches,
    without gradient and without dropout. Nothing happens without such norms."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    norms = [] if network.frozen_norm else [norm for norm in norms if _learns(norm)]
    if not norms:
        return
    device = next(network.parameters()).device
    momenta = [norm.momentum for norm in norms]
    part: dict[str, Any] = {"batch_size": job.batch_size, "rank": 0, "world": 1, "seed": integer("norm", job.seed)}
    with _modes_kept(network), torch.no_grad():
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then averages all batches alike
            norm.training = True
        for batch in data.batches(0, NORM_BATCHES, labelled_share=job.labelled_share, **part):
            network(torch.from_numpy(batch.frames).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    """Training or evaluation mode of each module is put back after: a phase may train some of them only."""
    before = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Buffers are put back after: what validation re-estimates, training does not see."""
    before = {name: value.clone() for name, value in network.named_buffers()}
    try:
        yield
    finally:
        for name, value in network.named_buffers():
            value.copy_(before[name])


def _learns(norm: _BatchNorm) -> bool:
    return all(value.requires_grad for value in norm.parameters(recurse=False))


def _probabilities(network: VideoNetwork, validation: Validation) -> np.ndarray:
    """Mean softmax over the stored views of each video, (V,C) float64."""
    device = next(network.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(validation.frames), FORWARD):
            logits = network(torch.from_numpy(validation.frames[start : start + FORWARD]).to(device)).logits
            assert logits is not None
            parts.append(logits.double().softmax(1).cpu().numpy())
    values = np.concatenate(parts)
    sums = np.zeros((len(validation.labels), values.shape[1]))
    np.add.at(sums, validation.row_of, values)
    return sums / np.bincount(validation.row_of, minlength=len(sums))[:, None]
