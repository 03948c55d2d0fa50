"""A teacher of whom only the k largest logits are known, and the losses that this is enough for.

B samples, C classes, k kept, M temperatures. Events of a sample: each kept class, and "one of the rest" (none where
k = C). Over these k + 1 events teacher and student have exact probabilities, and the KL between them is the KL of the
coarsened distributions: never above the dense one (data processing), equal to it where at most one class is left out.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
DENSE, TOPK = "dense", "topk"


@dataclass(frozen=True)
class TopKLogits:
    """index int64 (B, k) of the kept classes; logit (B, k); mean and sd (B,) of all C logits, sd with C - 1 below;
    tail (B, 2, M): log Σ exp(x / τ) over the rest, x raw and z-scored, at each of `temperatures`."""

    index: Tensor
    logit: Tensor
    mean: Tensor
    sd: Tensor
    tail: Tensor
    temperatures: tuple[float, ...]
    classes: int


Teacher = Tensor | TopKLogits


def needs(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declares what a loss must know of the teacher's logits, as its attribute `needs`: `dense` (all of them), or
    `topk` (it takes both forms). A dense loss refuses a TopKLogits with ConfigError."""
    assert what in (DENSE, TOPK), what

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if what == DENSE and any(isinstance(value, TopKLogits) for value in (*args, *kwargs.values())):
                raise ConfigError(
                    f"{function.__name__} needs all of the teacher's logits, and these targets hold the largest only: "
                    "store them without precompute.codec.top_k"
                )
            return function(*args, **kwargs)

        checked.needs = what  # type: ignore[attr-defined]
        return checked

    return declare


def event_log_probabilities(
    student: Tensor, teacher: TopKLogits, *, temperature: float, standardize: bool, floor: float
) -> tuple[Tensor, Tensor]:
    """log-probabilities (B, k + 1) of teacher and student over the events; (B, k) where all classes are kept.

    student: (B, C) logits, z-scored already where `standardize`; `floor`: of the variance in the teacher's z-score.
    ConfigError where the temperature was not stored, or the student has other classes.
    """
    if student.shape[1] != teacher.classes:
        raise ConfigError(f"top-k targets of {teacher.classes} classes cannot teach a student of {student.shape[1]}")
    kept = teacher.logit
    if standardize:
        kept = (kept - teacher.mean[:, None]) / torch.sqrt(teacher.sd[:, None] ** 2 + floor)
    log_p, log_q = kept / temperature, (student / temperature).gather(1, teacher.index)
    if teacher.index.shape[1] < teacher.classes:
        rest = (student / temperature).scatter(1, teacher.index, float("-inf")).logsumexp(dim=1, keepdim=True)
        log_p = torch.cat([log_p, _tail(teacher, temperature, standardize)], dim=1)
        log_q = torch.cat([log_q, rest], dim=1)
    return F.log_softmax(log_p, dim=1), F.log_softmax(log_q, dim=1)


def _tail(teacher: TopKLogits, temperature: float, standardize: bool) -> Tensor:
    if temperature not in teacher.temperatures:
        stored = ", ".join(f"{value:g}" for value in teacher.temperatures) or "none"
        raise ConfigError(
            f"the loss runs at temperature {temperature:g}, but these top-k targets hold the rest's log-sum-exp at "
            f"{stored}: add it to precompute.codec.temperatures"
        )
    return teacher.tail[:, int(standardize), teacher.temperatures.index(temperature), None].to(teacher.logit.dtype)
