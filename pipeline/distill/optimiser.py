"""AdamW over the network and the extra parameters, and the one learning-rate schedule over all steps."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipeline.distill.spec import Optimiser


def build_optimiser(spec: Optimiser, network: nn.Module, extras: Iterable[dict[str, Any]]) -> torch.optim.AdamW:
    """One optimiser for all phases: the network's group, then the groups of the parameters beside it.

    A parameter without a gradient (frozen in this phase) is skipped whole: no decay, its moments wait as they are.
    `extras` are groups with "params", perhaps an "lr" of their own; they are never decayed.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    groups += [{"weight_decay": 0.0, **group} for group in extras]
    for group in groups:
        group["peak"] = group.get("lr", spec.lr)
    return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)


def rate(spec: Optimiser, step: int, steps: int) -> float:
    """Factor of the peak learning rate at `step` of `steps`: min(1, (step + 1) / warm-up steps) · ½ (1 + cos(π step /
    steps)); it would reach zero at step = steps."""
    warmup = spec.warmup * steps
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
