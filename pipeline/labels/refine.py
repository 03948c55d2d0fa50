"""Pseudo-label optimisation: from given labels and out-of-fold predictions to soft labels with weights.

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201. Only training rows come in and go out; a validation
split is read for the temperature and the self-test and never rewritten. The given labels are always the starting
point, so that errors do not pile up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, InputError
from pipeline.labels.channel import RULES, Channel, fit, fit_scalar, soft_labels, validation_temperature
from pipeline.labels.folds import ONE_GROUP
from pipeline.labels.predictions import OutOfFold, Rows, Validation, mean_probability
from pipeline.labels.scoring import flips_per_class, hard_labels, score_labels
from pipeline.labels.selftest import Choice, Options, choose

CHANNELS = ("auto", *RULES, "none")
SMOOTHING = 0.05
_VARIANCE_FLOOR = 1e-8


@dataclass(frozen=True, eq=False)
class Refined:
    """The labels of N training videos, in the types of the labels table.

    q (N, C) float32 on the simplex, weight (N,) float32, flipped (N,) bool, predicted (N,) int32: the labeller's own
    argmax, -1 where there was none. `channel` (C, C), `rate` and `temperature` are None where nothing was fitted.
    `report` is JSON-able.
    """

    q: np.ndarray
    weight: np.ndarray
    flipped: np.ndarray
    predicted: np.ndarray
    channel: np.ndarray | None
    rate: float | None
    temperature: float | None
    report: dict[str, Any]


def refine(
    logits: OutOfFold | None,
    given: np.ndarray,
    *,
    num_classes: int,
    channel: str,
    protected: np.ndarray,
    validation: Validation | None = None,
    options: Options = Options(),
    seed: int,
    clean: np.ndarray | None = None,
) -> Refined:
    """Refine the given labels (N,) int (-1: unlabelled) of the training videos.

    `logits` are out-of-fold by construction; None says that there are none (one group) and gives `none`. `channel` is
    auto, scalar, full, mix or none; `protected` (N,) bool as from `folds.protected_videos`; `clean` (N,) int (-1:
    unknown) only adds scores to the report. Raises ConfigError for an unknown channel and InputError for arrays that
    do not fit.
    """
    if channel not in CHANNELS:
        raise ConfigError(f"labels.channel: {channel!r} is none of {', '.join(CHANNELS)}")
    training = _Training(logits, np.asarray(given, dtype=np.int64), np.asarray(protected), num_classes)
    _check_company(training, validation, clean)
    choice = _choose(training, channel, validation, options, seed)
    fitted, source = _fit(training, choice.channel, validation, options.share)
    facts: dict[str, Any] = {
        "asked": channel,
        "choice": choice.channel,
        "reason": choice.reason,
        "temperature_from": source,
    }
    facts["self_test"] = choice.facts() if channel == "auto" else None
    return _result(training, fitted, facts, clean)


def start_labels(given: np.ndarray, num_classes: int, *, smoothing: float = SMOOTHING) -> np.ndarray:
    """One-hot given labels, smoothed by ε/C: (N, C) float64. An unlabelled video starts uniform (its weight is 0)."""
    start = np.full((len(given), num_classes), smoothing / num_classes)
    labelled = np.flatnonzero(given >= 0)
    start[labelled, given[labelled]] += 1 - smoothing
    start[given < 0] = 1 / num_classes
    return start


def align_classes(probability: np.ndarray, reference: np.ndarray, model: np.ndarray) -> np.ndarray:
    """p̄ · reference / max(model, 1e-3/C), rows brought back to sum 1: (n, C), (C,), (C,) -> (n, C)."""
    aligned = probability * reference / np.maximum(model, 1e-3 / len(model))
    return aligned / aligned.sum(axis=1, keepdims=True)


def soft_match_weights(confidence: np.ndarray) -> np.ndarray:
    """exp(-min(c - m, 0)² / (2 (v + 1e-8) / 4)), m and v the mean and variance of c (n,) over the unlabelled videos.

    SoftMatch (Chen et al., ICLR 2023, truncated Gaussian), over the whole set instead of moving averages.
    """
    if not len(confidence):
        return confidence
    variance = confidence.var(ddof=min(1, len(confidence) - 1))
    below = np.minimum(confidence - confidence.mean(), 0)
    return np.exp(-(below**2) / (2 * (variance + _VARIANCE_FLOOR) / 4))


@dataclass(frozen=True, eq=False)
class _Training:
    """The training videos: labeller's logits, given labels, and which of them must stay."""

    logits: OutOfFold | None
    given: np.ndarray
    protected: np.ndarray
    num_classes: int

    def __post_init__(self) -> None:
        videos, classes = len(self.given), self.num_classes
        if videos and not (self.given.min() >= -1 and self.given.max() < classes):
            raise InputError(f"given labels must lie in -1..{classes - 1}: {self.given.min()}..{self.given.max()}")
        if self.protected.shape != (videos,) or self.protected.dtype != bool:
            raise InputError(f"`protected` must hold one bool for each of {videos} videos")
        if self.logits is not None and (len(self.logits.logits), self.logits.num_classes) != (videos, classes):
            shape = self.logits.logits.shape
            raise InputError(f"out-of-fold logits {shape} do not fit {videos} videos of {classes} classes")

    @property
    def labelled(self) -> np.ndarray:
        return self.given >= 0

    @property
    def free(self) -> np.ndarray:
        """Videos whose given label may change."""
        return self.labelled & ~self.protected

    def rows(self, mask: np.ndarray) -> Rows:
        assert self.logits is not None
        return Rows(self.logits.logits[mask], self.given[mask])

    def counts(self) -> dict[str, int]:
        unlabelled, protected = ~self.labelled, self.labelled & self.protected
        return {"videos": len(self.given), "unlabelled": int(unlabelled.sum()), "protected": int(protected.sum())}


def _check_company(training: _Training, validation: Validation | None, clean: np.ndarray | None) -> None:
    if validation is not None and validation.logits.shape[-1] != training.num_classes:
        raise InputError(f"validation logits have {validation.logits.shape[-1]} classes, not {training.num_classes}")
    if clean is not None and np.shape(clean) != training.given.shape:
        raise InputError(f"clean labels {np.shape(clean)} do not fit {len(training.given)} videos")


def _choose(training: _Training, channel: str, validation: Validation | None, options: Options, seed: int) -> Choice:
    if channel == "none":
        return Choice("none", "asked for")
    if training.logits is None:
        return Choice("none", ONE_GROUP)
    if not training.free.any():
        return Choice("none", "no given label may change: all are protected or missing")
    if channel != "auto":
        return Choice(channel, "asked for")
    rows, protected = training.rows(training.labelled), training.protected[training.labelled]
    return choose(rows, validation, protected=protected, options=options, seed=seed)


def _fit(
    training: _Training, rule: str, validation: Validation | None, share: float
) -> tuple[Channel | None, str | None]:
    """The fitted rule and where its τ_c comes from; without trusted validation labels `full` and `mix` take the τ_c
    that `scalar` would fit. Protected videos stay out: the labeller hardly knows their class."""
    if rule == "none":
        return None, None
    rows = training.rows(training.free)
    if rule == "scalar" or validation is None or not validation.trusted or not len(validation.labels):
        scalar, source = fit_scalar([rows]), "marginal likelihood of the given labels"
        return (scalar if rule == "scalar" else fit(rule, [rows], temperature=scalar.temperature, share=share)), source
    temperature = validation_temperature(validation)
    return fit(rule, [rows], temperature=temperature, share=share), "likelihood of the validation labels"


def _soft_labels(training: _Training, fitted: Channel | None) -> tuple[np.ndarray, np.ndarray]:
    """q (N, C) and weight (N,) of all videos."""
    given, classes, weight = training.given, training.num_classes, training.labelled.astype(float)
    if fitted is None or training.logits is None:
        return start_labels(given, classes, smoothing=0.0), weight
    soft, unlabelled = start_labels(given, classes), ~training.labelled
    soft[training.free] = soft_labels(fitted, training.rows(training.free))
    if unlabelled.any():
        probability = mean_probability(training.logits.logits, fitted.temperature)
        counts = np.bincount(given[training.labelled], minlength=classes) + 1
        # The model's frequencies come from all videos: those of a few unlabelled ones would be mostly chance.
        soft[unlabelled] = align_classes(probability[unlabelled], counts / counts.sum(), probability.mean(axis=0))
        weight[unlabelled] = soft_match_weights(soft[unlabelled].max(axis=1))
    return soft, weight


def _predicted(training: _Training, fitted: Channel | None) -> np.ndarray:
    if training.logits is None:
        return np.full(len(training.given), -1, dtype=np.int32)
    temperature = 1.0 if fitted is None else fitted.temperature
    return mean_probability(training.logits.logits, temperature).argmax(axis=1).astype(np.int32)


def _result(training: _Training, fitted: Channel | None, facts: dict[str, Any], clean: np.ndarray | None) -> Refined:
    given, (soft, weight) = training.given, _soft_labels(training, fitted)
    soft = soft.astype(np.float32)  # what is reported is what the table will hold
    labels = hard_labels(soft, given)
    flipped = training.labelled & (labels != given)
    matrix, rate, temperature = (fitted.matrix, fitted.rate, fitted.temperature) if fitted else (None, None, None)
    report = facts | training.counts()
    report |= {"channel": None if matrix is None else matrix.tolist(), "rate": rate, "temperature": temperature}
    report |= {"flips": int(flipped.sum()), "flips_per_class": flips_per_class(given, labels, training.num_classes)}
    report["labels"] = None if clean is None else score_labels(soft, given, np.asarray(clean))
    return Refined(
        soft, weight.astype(np.float32), flipped, _predicted(training, fitted), matrix, rate, temperature, report
    )
