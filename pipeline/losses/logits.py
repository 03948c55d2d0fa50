"""Losses on logits. B samples, C classes; the teacher's logits come second and never receive a gradient."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.losses.precision import in_float32
from pipeline.losses.topk import DENSE, TOPK, Teacher, TopKLogits, event_log_probabilities, needs

VARIANCE_FLOOR = 1e-4
CONSTANT = 1e-6  # a vector whose spread is below this share of its norm is constant in float32


@in_float32
def cross_entropy_soft(logits: Tensor, q: Tensor) -> Tensor:
    """CE(q, p) = -Σ_c q_c log p_c per sample, (B, C), (B, C) → (B,); q on the simplex (no check)."""
    return -(q * F.log_softmax(logits, dim=1)).sum(dim=1)


def smooth_labels(q: Tensor, smoothing: float) -> Tensor:
    """(1 - ε) q + ε / C, (B, C) → (B, C): label smoothing (Szegedy et al., CVPR 2016, eq. in §7), ε in [0, 1)."""
    return q * (1 - smoothing) + smoothing / q.shape[1]


def check_standardizable(classes: int) -> None:
    """ConfigError for two classes or fewer, a warning under five: what logit standardisation leaves of them.

    Two z-scored logits are always ±1/√2 times a sign: only which class is larger is left. The fewer the classes, the
    less the spread of a row says.
    """
    if classes <= 2:
        raise ConfigError(f"logit standardisation leaves no signal with {classes} classes: set standardize to false")
    if classes < 5:
        warnings.warn(
            f"logit standardisation with only {classes} classes leaves little signal; compare with standardize: false",
            stacklevel=3,
        )


def standardize_logits(logits: Tensor) -> Tensor:
    """z = (a - mean) / sqrt(var + 1e-4) per row, unbiased variance (logit standardisation, Sun et al., CVPR 2024).

    The published z-score has no floor; without it constant logits give gradients of 4e5. (B, C) → (B, C).
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / torch.sqrt(logits.var(dim=1, keepdim=True, unbiased=True) + VARIANCE_FLOOR)


@needs(TOPK)
@in_float32
def kl_distillation(
    student_logits: Tensor, teacher_logits: Teacher, *, temperature: float, standardize: bool = False
) -> Tensor:
    """τ² KL(softmax(t/τ) ‖ softmax(s/τ)) per sample, (B, C), (B, C) → (B,) (Hinton, Vinyals & Dean 2015).

    With `standardize` both sides are z-scored first (Sun et al., CVPR 2024); see `check_standardizable` for its
    ConfigError and its warning. Of a teacher's top k it is the KL over k + 1 events (`losses.topk`), and the z-score
    uses the mean and s.d. of all its logits.
    """
    student = student_logits
    if standardize:
        check_standardizable(student.shape[1])
        student = standardize_logits(student)
    if isinstance(teacher_logits, TopKLogits):
        log_p, log_q = event_log_probabilities(
            student, teacher_logits, temperature=temperature, standardize=standardize, floor=VARIANCE_FLOOR
        )
        return temperature**2 * _kl(log_p.detach(), log_q)
    teacher = teacher_logits.detach()
    teacher = standardize_logits(teacher) if standardize else teacher
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * _kl(log_p, log_q)


@needs(DENSE)
@in_float32
def decoupled_kd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    """τ² (α TCKD + β NCKD) per sample, (B, C), (B, C), target int64 (B,) → (B,) (Zhao et al., CVPR 2022, eq. 7).

    TCKD is the KL of (p_target, 1 - p_target), NCKD that of the softmax over the other classes. KD = TCKD +
    (1 - p^T_target) NCKD.
    """
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    tckd = _kl(_target_or_other(teacher, target), _target_or_other(student, target))
    others = [F.log_softmax(_without(logits, target), dim=1) for logits in (teacher, student)]
    return temperature**2 * (alpha * tckd + beta * _kl(*others))


@needs(DENSE)
@in_float32
def dist(student_logits: Tensor, teacher_logits: Tensor, *, beta: float, gamma: float, temperature: float) -> Tensor:
    """τ² (β (1 - mean Pearson over samples' rows) + γ (1 - mean Pearson over classes' columns)) of softmax(a/τ).

    (B, C), (B, C) → () (DIST, Huang et al., NeurIPS 2022, eq. 8–10 and the authors' code). A constant row or column
    has correlation 0, as there, but no gradient: with the published 1e-8 it would be 1e8.
    """
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)
    inter = 1 - _pearson(student, teacher).mean()
    intra = 1 - _pearson(student.T, teacher.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=1)


def _target_or_other(logits: Tensor, target: Tensor) -> Tensor:
    total = logits.logsumexp(dim=1, keepdim=True)
    hit = logits.gather(1, target[:, None])
    return torch.cat([hit, _without(logits, target).logsumexp(dim=1, keepdim=True)], dim=1) - total


def _without(logits: Tensor, target: Tensor) -> Tensor:
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= target[:, None]))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a_centred, b_centred = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    a_norm, b_norm = a_centred.norm(dim=1), b_centred.norm(dim=1)
    varies = (a_norm > CONSTANT * a.norm(dim=1)) & (b_norm > CONSTANT * b.norm(dim=1))
    a_safe = torch.where(varies, a_norm, 1.0)
    cosine = (a_centred * b_centred).sum(dim=1) / (a_safe * b_norm + 1e-8)
    return torch.where(varies, cosine, 0.0)
