"""ω_l: how the relational losses of the substages are balanced against each other.

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201 ("balance the losses of the substages during
training"). One interface, five policies; each is a module, so that its state goes into a checkpoint by `state_dict`.
L substages in all, p of them active: a contiguous run that starts at substage `first` (numbered from 1).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

DECAY = 0.99
FLOOR = 0.05


class Weighted(NamedTuple):
    """total: (1/p) Σ ω_l L_l plus the policy's own penalty, (); weights: ω_l, (p,), detached, for the log."""

    total: Tensor
    weights: Tensor


class RunningMean(nn.Module):
    """Exponential mean per substage that starts at the first value seen: ema ← decay · ema + (1 - decay) · value."""

    value: Tensor
    seen: Tensor

    def __init__(self, substages: int, decay: float = DECAY) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("value", torch.zeros(substages))
        self.register_buffer("seen", torch.zeros(substages, dtype=torch.bool))

    @torch.no_grad()
    def update(self, values: Tensor, *, first: int = 1, measured: Tensor | None = None) -> Tensor:
        """Take in (p,) values (only where `measured`), give back the p means."""
        active = _active(first, values)
        measured = torch.ones_like(self.seen[active]) if measured is None else measured
        old, seen = self.value[active], self.seen[active]
        moved = torch.where(seen, self.decay * old + (1 - self.decay) * values.detach(), values.detach())
        self.value[active] = torch.where(measured, moved, old).to(self.value.dtype)
        self.seen[active] = seen | measured
        return self.value[active].clone()


class WeightPolicy(nn.Module):
    """The interface, and the policy `fixed`: every ω_l is 1.

    `forward(losses, r2, first=)` takes L_corr,l (p,) and, where `needs_r2`, R²_l (p,), both equal on all ranks; it
    updates the policy's state. `after_step` follows each optimiser step. `optimiser_groups` are AdamW groups to add.
    """

    needs_r2 = False

    def __init__(self, substages: int) -> None:
        super().__init__()
        self.substages = substages

    def forward(self, losses: Tensor, r2: Tensor | None = None, *, first: int = 1) -> Weighted:
        assert r2 is not None or not self.needs_r2, "this policy weighs by R², which only a distribution term gives"
        with torch.no_grad():
            weights = self.weigh(losses.detach(), r2, first)
        return Weighted((weights * losses).mean(), weights)

    def weigh(self, losses: Tensor, r2: Tensor | None, first: int) -> Tensor:
        """ω_l of the active substages, (p,), mean 1."""
        return torch.ones_like(losses)

    def after_step(self) -> None:
        """Bring learnt weights back into their bounds; nothing to do where none are learnt."""

    def optimiser_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the policy's own: none unless weights are learnt."""
        return []


class RelativeImprovement(WeightPolicy):
    """`ema`: ω_l = 1 / max(EMA_.99(L_corr,l), .05), brought to mean 1: each substage counts by relative improvement.

    The closed form of the uncertainty weights of Kendall, Gal & Cipolla (CVPR 2018): exp(-s) L + s is least at
    exp(-s) = 1/L.
    """

    def __init__(self, substages: int) -> None:
        super().__init__(substages)
        self.ema = RunningMean(substages)

    def weigh(self, losses: Tensor, r2: Tensor | None, first: int) -> Tensor:
        # A loss of exactly 0 was not measured (a collapsed substage): it must not draw the weight to itself.
        ema = self.ema.update(losses, first=first, measured=losses > 0)
        known = self.ema.seen[_active(first, losses)]
        inverse = torch.where(known, 1 / ema.clamp_min(FLOOR), 0.0)
        average = inverse.sum() / known.sum().clamp_min(1)
        return _mean_one(torch.where(known, inverse, torch.where(average > 0, average, 1.0)))


class Uncertainty(WeightPolicy):
    """`uncertainty`: (1/p) Σ exp(-s_l) L_l + s_l with learnt s_l (Kendall, Gal & Cipolla, CVPR 2018, s = log σ²).

    s has an Adam group of its own (1e-2, no decay) and is projected to [-3, 3] after each step: a clamp inside the
    graph would give gradient 0 outside, and s would never return. Its weights exp(-s) are not brought to mean 1.
    """

    BOUND = 3.0

    def __init__(self, substages: int) -> None:
        super().__init__(substages)
        self.s = nn.Parameter(torch.zeros(substages))

    def forward(self, losses: Tensor, r2: Tensor | None = None, *, first: int = 1) -> Weighted:
        s = self.s[_active(first, losses)]
        return Weighted((torch.exp(-s) * losses + s).mean(), torch.exp(-s.detach()))

    @torch.no_grad()
    def after_step(self) -> None:
        self.s.clamp_(-self.BOUND, self.BOUND)

    def optimiser_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.s], "lr": 1e-2, "weight_decay": 0.0}]


class Lagging(WeightPolicy):
    """`lagging`: ω_l = max(1 - EMA_.99(R²_l), .05), brought to mean 1: weight to what the student predicts least."""

    needs_r2 = True

    def __init__(self, substages: int) -> None:
        super().__init__(substages)
        self.ema = RunningMean(substages)

    def weigh(self, losses: Tensor, r2: Tensor | None, first: int) -> Tensor:
        assert r2 is not None, "checked in forward"
        return _mean_one((1 - self.ema.update(r2, first=first).to(losses.dtype)).clamp_min(FLOOR))


class DynamicAverage(WeightPolicy):
    """`dwa`: ω = p softmax(w / 2), w_l = L_l(t-1) / L_l(t-2) (Liu, Johns & Davison, CVPR 2019, eq. 7).

    The published t counts epochs; here it counts spans of `period` steps, each with its mean loss. A substage without
    two finished spans has w = 1.
    """

    TEMPERATURE = 2.0

    total: Tensor
    count: Tensor
    last: Tensor
    before: Tensor
    step: Tensor

    def __init__(self, substages: int, period: int = 50) -> None:
        super().__init__(substages)
        self.period = period
        for name in ("total", "count", "last", "before"):
            self.register_buffer(name, torch.zeros(substages))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def weigh(self, losses: Tensor, r2: Tensor | None, first: int) -> Tensor:
        active = _active(first, losses)
        known = (self.last[active] > 0) & (self.before[active] > 0)
        ratio = torch.where(known, self.last[active] / torch.where(known, self.before[active], 1.0), 1.0)
        self._record(losses, active)
        return (len(losses) * torch.softmax(ratio / self.TEMPERATURE, dim=0)).to(losses.dtype)

    def _record(self, losses: Tensor, active: slice) -> None:
        self.total[active] += losses.to(self.total.dtype)
        self.count[active] += 1
        self.step += 1
        # Without a branch on a tensor's value, which would wait for the device in each step.
        full = self.step % self.period == 0
        mean = self.total / self.count.clamp_min(1)
        self.before.copy_(torch.where(full, self.last, self.before))
        self.last.copy_(torch.where(full, mean, self.last))
        self.total.copy_(torch.where(full, 0.0, self.total))
        self.count.copy_(torch.where(full, 0.0, self.count))


POLICIES: dict[str, type[WeightPolicy]] = {
    "fixed": WeightPolicy,
    "ema": RelativeImprovement,
    "uncertainty": Uncertainty,
    "lagging": Lagging,
    "dwa": DynamicAverage,
}


def weight_policy(name: str, substages: int) -> WeightPolicy:
    """The policy called `name` for L substages; ConfigError for another name."""
    if name not in POLICIES:
        raise ConfigError(f"weighting is {name!r}; allowed are {', '.join(POLICIES)}")
    return POLICIES[name](substages)


def _active(first: int, values: Tensor) -> slice:
    return slice(first - 1, first - 1 + len(values))


def _mean_one(weights: Tensor) -> Tensor:
    return weights / weights.mean()
