"""The full objective (method.md §6) as one module: terms, their extra parameters, the balance among substages.

    L = λ_ce L_ce + λ_kd L_kd + λ_corr (1/L) Σ_l ω_l L_corr,l + λ_comb mean_g L_comb,g + λ_dist mean_l D_l

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201. Wiring is checked when it is built. Its state dict
holds what training needs beside the network (predictors, learnt weights, running means) and is gone at export.

Legend: b rows of this rank, B of the global batch, C classes, C_l channels of substage l = 1..L.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.artifacts.identity import integer
from pipeline.distill.memory import Statistics
from pipeline.distill.phases import Phase
from pipeline.distill.spec import Objective
from pipeline.distill.terms import feature_baseline, label_term, teacher_term
from pipeline.errors import ConfigError
from pipeline.losses import (
    RunningMean,
    Teacher,
    check_standardizable,
    combination_losses,
    correlation_losses,
    distribution_term,
    gather_batch,
    relation_rows,
    weight_policy,
)
from pipeline.losses.relations import HALF_FLOOR, PRECISION_FLOOR, SAMPLE_FLOOR

FEATURE_TERMS = ("corr", "comb", "dist", "feature")


class TensorBatch(NamedTuple):
    """A `memory.Batch` on the device: frames uint8 (b,T,H,W,3), q (b,C), weight (b,), sources [(logits, features)].

    `drawn`: with `labelled_share`, how many of the rows (the first) were drawn from the labelled clips."""

    frames: Tensor
    q: Tensor
    weight: Tensor
    sources: list[tuple[Teacher, list[Tensor]]]
    drawn: int | None = None


class Loss(NamedTuple):
    """total: what is minimised, (). parts: the unweighted terms by name, for the log and for naming a NaN. figures:
    per substage l `corr_l`, `omega_l` and `r2_l`. All of them but `total` are detached."""

    total: Tensor
    parts: dict[str, Tensor]
    figures: dict[str, Tensor]


class DistillationLoss(nn.Module):
    """Called once per step; `after_step` follows the optimiser's step."""

    def __init__(
        self,
        objective: Objective,
        *,
        dims: Sequence[int],
        classes: int,
        source_dims: Sequence[Sequence[int]],
        statistics: Sequence[Statistics | None],
        mean_weight: float,
        seed: int,
        half_precision: bool = False,
        source_weights: Sequence[float] | None = None,
    ) -> None:
        """`dims`: the student's C_1..C_L; `source_dims` and `statistics` per source, newest last; `mean_weight`: w̄.

        `half_precision`: the newest source's features were stored as half floats. `source_weights`: what each source's
        KL counts, all of them at every step.

        Raises ConfigError where a term has nothing to work on, InputError where statistics do not fit.
        """
        super().__init__()
        self.objective = alive = objective.effective
        self.labelled = bool(mean_weight) and alive.lambda_ce > 0
        self.teacher_floor = HALF_FLOOR if half_precision else SAMPLE_FLOOR
        self.source_weights = None if source_weights is None else [w / sum(source_weights) for w in source_weights]
        _check(alive, classes, self.labelled, bool(source_dims))
        _check_features(alive, source_dims)
        self.partners = partners(len(dims), len(source_dims[-1])) if source_dims and source_dims[-1] else ()
        self.policy = weight_policy(alive.weighting, len(dims)) if alive.lambda_corr else None
        self.progress = RunningMean(len(dims)) if alive.lambda_dist else None
        self.predictors = nn.ModuleList()
        if alive.lambda_dist:
            teacher_dims = [source_dims[-1][partner] for partner in self.partners]
            self._build_predictors(dims, teacher_dims, statistics[-1], seed)

    def _build_predictors(
        self, dims: Sequence[int], teacher_dims: Sequence[int], statistics: Statistics | None, seed: int
    ) -> None:
        if statistics is None:
            raise ConfigError("distill.lambda_dist is above 0, but the newest source has no statistics; name them")
        generator = torch.Generator().manual_seed(integer("extra parameters", seed))
        kind, pairs = self.objective.distribution, [statistics[partner] for partner in self.partners]
        for dim, teacher_dim, (mean, sd) in zip(dims, teacher_dims, pairs, strict=True):
            self.predictors.append(distribution_term(kind, dim, teacher_dim, mean, sd, generator=generator))

    def groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of the extra parameters; [] where no term has any."""
        learnt = self.policy.optimiser_groups() if self.policy else []
        predictors = list(self.predictors.parameters())
        return [*([{"params": predictors}] if predictors else []), *learnt]

    def uses_logits(self, phase: Phase) -> bool:
        """Whether some term of `phase` looks at the student's logits; where none does, the head gets no gradient."""
        return phase.labels and bool(self.labelled or self.objective.lambda_kd)

    def after_step(self) -> None:
        """Bring learnt weights back into their bounds."""
        if self.policy:
            self.policy.after_step()

    def forward(
        self,
        logits: Tensor | None,
        features: Sequence[Tensor],
        batch: TensorBatch,
        phase: Phase,
        step: int,
        kept: Sequence[int] = (-1,),
    ) -> Loss:
        """The student's logits (b,C) and features [(b,C_l)] on `batch`; `kept`: the sources whose KL counts."""
        parts: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        if logits is not None:
            parts |= self._on_logits(logits, batch, kept)
        if any(getattr(self.objective, f"lambda_{name}") for name in FEATURE_TERMS):
            parts |= self._on_features(features, batch.sources[-1][1], phase, figures)
        total = torch.stack([self._weight(name, phase.rise(step)) * part for name, part in parts.items()]).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()}, figures)

    def _weight(self, name: str, rise: float) -> float:
        weight = getattr(self.objective, f"lambda_{name}")
        return rise * weight if name in FEATURE_TERMS else weight

    def _on_logits(self, logits: Tensor, batch: TensorBatch, kept: Sequence[int]) -> dict[str, Tensor]:
        parts = {}
        smoothing = self.objective.label_smoothing
        if self.labelled:
            parts["ce"] = label_term(logits, batch.q, batch.weight, drawn=batch.drawn, smoothing=smoothing)
        if self.objective.lambda_kd:
            shares = self.source_weights
            teachers = [source[0] for source in batch.sources] if shares else [batch.sources[n][0] for n in kept]
            parts["kd"] = teacher_term(self.objective, logits, teachers, batch.q, batch.weight, shares)
        return parts

    def _on_features(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], phase: Phase, figures: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Over the gathered batch: every rank computes the full terms. `figures` are added to."""
        partnered = [teacher[partner] for partner in self.partners[: len(student)]]
        floor = PRECISION_FLOOR[student[0].dtype]
        joined = gather_batch([*student, *partnered])
        student, teacher = joined[: len(student)], joined[len(student) :]
        parts: dict[str, Tensor] = {}
        if self.objective.lambda_feature:
            parts["feature"] = feature_baseline(self.objective.method, student, teacher)
        r2 = None
        if self.objective.lambda_dist:
            parts["dist"], r2 = self._distribution(student, teacher, phase.spread, figures)
        if self.objective.lambda_corr or phase.groups:
            parts |= self._relations(student, teacher, phase, r2, figures, floor)
        return parts

    def _distribution(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], spread: Sequence[int], figures: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """mean_l D_l over the substages of `spread`, and their R²_l of this batch."""
        found = [self.predictors[n - 1](student[n - 1], teacher[n - 1]) for n in spread]
        r2 = torch.stack([output.r2 for output in found])
        assert self.progress is not None
        running = self.progress.update(r2, first=spread[0])
        figures |= {f"r2_{n}": value for n, value in zip(spread, running, strict=True)}
        return torch.stack([output.loss for output in found]).mean(), r2

    def _relations(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        phase: Phase,
        r2: Tensor | None,
        figures: dict[str, Tensor],
        floor: float,
    ) -> dict[str, Tensor]:
        """L_corr with its weights and L_comb, over the active substages; `r2` is that of phase.spread."""
        first, last = phase.active[0], phase.active[-1]
        floors = (floor, self.teacher_floor)
        rows = relation_rows(student[first - 1 : last], teacher[first - 1 : last], first=first, floors=floors)
        parts = {}
        if self.policy is not None:
            losses = correlation_losses(rows)
            offset = first - phase.spread[0]
            weighted = self.policy(losses, None if r2 is None else r2[offset : offset + len(losses)], first=first)
            parts["corr"] = weighted.total
            figures |= {f"corr_{n}": loss for n, loss in zip(phase.active, losses.detach(), strict=True)}
            figures |= {f"omega_{n}": weight for n, weight in zip(phase.active, weighted.weights, strict=True)}
        if phase.groups:
            parts["comb"] = combination_losses(rows, phase.groups).mean()
        return parts


def partners(substages: int, teacher_substages: int) -> tuple[int, ...]:
    """Position (from 0) of the teacher's substage that belongs to each of the student's: ceil(l · L_T / L_S) - 1."""
    return tuple(math.ceil(n * teacher_substages / substages) - 1 for n in range(1, substages + 1))


def _check_features(objective: Objective, source_dims: Sequence[Sequence[int]]) -> None:
    """Terms that compare features need a newest source that has some."""
    used = [name for name in FEATURE_TERMS if getattr(objective, f"lambda_{name}")]
    if used and source_dims and not source_dims[-1]:
        raise ConfigError(
            f"distill.lambda_{used[0]} compares features, and the newest source gives logits alone: set "
            "distill.method: kd, or the weights of features to 0"
        )


def _check(objective: Objective, classes: int, labelled: bool, taught: bool) -> None:
    if not taught and objective.method != "supervised":
        raise ConfigError(f"method {objective.method!r} learns from a teacher, but the job has no source of targets")
    weights = [getattr(objective, f"lambda_{name}") for name in ("kd", *FEATURE_TERMS)]
    if not labelled and not any(weights):
        raise ConfigError(
            "there is nothing to learn from: no clip is labelled (or distill.lambda_ce is 0), and every distillation "
            "weight is 0"
        )
    if objective.weighting == "lagging" and objective.lambda_corr and not objective.lambda_dist:
        raise ConfigError("distill.weighting: lagging weighs by R², which needs distill.lambda_dist above 0")
    if objective.lambda_kd and objective.standardize and objective.method not in ("dkd", "dist"):
        check_standardizable(classes)
