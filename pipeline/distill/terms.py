"""The terms that have no state: labels, the teachers' logits, published feature losses that are added to KD.

Legend: b rows of this rank, C classes, C_l channels of substage l.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.distill.spec import Objective
from pipeline.errors import ConfigError
from pipeline.losses import (
    Teacher,
    TopKLogits,
    cross_entropy_soft,
    decoupled_kd,
    dist,
    gather_batch,
    kl_distillation,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
    smooth_labels,
)

RKD_ANGLE = 2.0  # the published weights are 25 for distances and 50 for angles: λ_feature scales both


def label_term(logits: Tensor, q: Tensor, weight: Tensor, *, drawn: int | None = None, smoothing: float) -> Tensor:
    """L_ce = Σ_i w_i CE(q_i, p_i) / b, () from (b,C), (b,C), (b,): linear, so ranks need no common normaliser.

    Not divided by the mean weight: with few labels each of them would weigh more than all that the teacher says, and
    labels would destroy what it gives. With `drawn`, the first `drawn` rows are the labelled ones of the batch
    (`labelled_share`) and L_ce is their mean.
    """
    if drawn is not None:
        logits, q, weight = logits[:drawn], q[:drawn], weight[:drawn]
    target = smooth_labels(q, smoothing) if smoothing else q
    return (weight * cross_entropy_soft(logits, target)).sum() / len(weight)


def teacher_term(
    objective: Objective,
    logits: Tensor,
    teachers: Sequence[Teacher],
    q: Tensor,
    weight: Tensor,
    shares: Sequence[float] | None = None,
) -> Tensor:
    """L_kd: the mean over the kept sources of the KL (or DKD, or DIST in its place), over all rows unweighted, ().

    `shares`: a weight per source, of sum 1, in place of equal ones.
    """
    losses = torch.stack([_teacher_loss(objective, logits, teacher, q, weight) for teacher in teachers])
    return losses.mean() if shares is None else (losses * losses.new_tensor(shares)).sum()


def _teacher_loss(objective: Objective, logits: Tensor, teacher: Teacher, q: Tensor, weight: Tensor) -> Tensor:
    temperature = objective.temperature
    if isinstance(teacher, TopKLogits) and objective.method in ("dkd", "dist"):
        raise ConfigError(f"method {objective.method} needs all of the teacher's logits: store them without top_k")
    if isinstance(teacher, Tensor) and objective.method == "dkd":
        # A hard label is needed: the soft label's largest entry, for unlabelled rows the teacher's.
        target = torch.where(weight > 0, q.argmax(1), teacher.argmax(1))
        alpha, beta = objective.dkd_alpha, objective.dkd_beta
        return decoupled_kd(logits, teacher, target, alpha=alpha, beta=beta, temperature=temperature).mean()
    if isinstance(teacher, Tensor) and objective.method == "dist":
        student, teacher = gather_batch([logits, teacher])
        return dist(student, teacher, beta=objective.dist_beta, gamma=objective.dist_gamma, temperature=temperature)
    return kl_distillation(logits, teacher, temperature=temperature, standardize=objective.standardize).mean()


def feature_baseline(method: str, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """A published relational loss on pooled features (B,C_l), (): SP as the mean over substages, RKD and PKT on the
    last substage, where their authors apply them."""
    if method == "sp":
        pairs = zip(student, teacher, strict=True)
        return torch.stack([similarity_preserving(*pair) for pair in pairs]).mean()
    if method == "pkt":
        return probabilistic_transfer(student[-1], teacher[-1])
    assert method == "rkd", method
    return relational_distance(student[-1], teacher[-1]) + RKD_ANGLE * relational_angle(student[-1], teacher[-1])
