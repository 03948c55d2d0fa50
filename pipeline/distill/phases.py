"""Phases: which steps train which substages from which terms.

Schedules (reconstructed from the abstract of Wang & Tang, arXiv 2307.05201): `progressive` lets the substages join the
relational terms one after another while labels and KD are on from the first step; `frozen` trains substages 1..p alone
in phase p, without labels; `deep_first` the last p; `joint` has one phase, whose feature terms warm up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.distill.spec import Objective
from pipeline.errors import ConfigError
from pipeline.losses.relations import combination_groups

JOINT_WARMUP = 0.05


@dataclass(frozen=True)
class Phase:
    """Steps first_step ≤ step < stop. Substages count from 1.

    `trained` substages get gradients (all: nothing is frozen); `active` ones carry the correlation terms and `groups`
    the combination terms; `spread` ones the distribution term. `labels`: whether L_ce and L_kd are on. `upto` is the
    last substage that is computed, None for the whole network with its head. `warmup`: steps over which the feature
    terms rise.
    """

    index: int
    first_step: int
    stop: int
    trained: tuple[int, ...]
    active: tuple[int, ...]
    spread: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    labels: bool = True
    upto: int | None = None
    warmup: int = 0

    def rise(self, step: int) -> float:
        """Factor of the feature terms at `step`: 1 except in the warm-up of `joint`."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0


def plan_phases(schedule: str, steps: int, share: float, substages: int, objective: Objective) -> list[Phase]:
    """The phases of a training of `steps` steps, without gaps; an early phase has floor(share · steps), at least 1.

    A phase whose objective has no active term does not exist, its steps go to the last one; where the method has no
    staged term there is nothing to stage and one phase remains. ConfigError if the last phase would have no step.
    """
    alive = objective.effective
    if not (alive.lambda_corr or alive.lambda_comb or alive.lambda_dist):
        schedule = "joint"
    early = [] if schedule == "joint" else [_early(schedule, p, substages, alive) for p in range(1, substages)]
    kept = [phase for phase in early if phase is not None]
    warmup = max(1, int(JOINT_WARMUP * steps)) if schedule == "joint" else 0
    every = tuple(range(1, substages + 1))
    last = Phase(0, 0, 0, every, every, every, _groups(alive, every, substages), warmup=warmup)
    return _placed([*kept, last], steps, max(1, int(share * steps)))


def _groups(objective: Objective, within: Sequence[int], substages: int) -> tuple[tuple[int, ...], ...]:
    if not objective.lambda_comb:
        return ()
    groups = combination_groups(objective.combinations, substages)
    return tuple(group for group in groups if set(group) <= set(within))


def _early(schedule: str, phase: int, substages: int, objective: Objective) -> Phase | None:
    every = tuple(range(1, substages + 1))
    active = every[-phase:] if schedule == "deep_first" else every[:phase]
    groups = _groups(objective, active, substages)
    if schedule == "progressive":
        return Phase(0, 0, 0, every, active, every, groups)
    if not (objective.lambda_corr or objective.lambda_dist or groups):
        return None
    return Phase(0, 0, 0, active, active, active, groups, labels=False, upto=max(active))


def _placed(phases: list[Phase], steps: int, length: int) -> list[Phase]:
    starts = [length * n for n in range(len(phases))]
    if starts[-1] >= steps:
        raise ConfigError(
            f"{steps} steps leave none for the last of {len(phases)} phases of {length} steps each; "
            "train longer, lower distill.share, or set distill.schedule: joint"
        )
    bounds = pairwise([*starts, steps])
    return [_at(phase, n, *bound) for n, (phase, bound) in enumerate(zip(phases, bounds, strict=True))]


def _at(phase: Phase, index: int, first: int, stop: int) -> Phase:
    return replace(phase, index=index, first_step=first, stop=stop)
