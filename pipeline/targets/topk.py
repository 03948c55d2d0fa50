"""The k largest logits of a row and what a loss must know of the others: their mean, s.d. and log-sum-exp.

From these the probabilities of k + 1 events follow (each kept class, and "one of the rest"), raw or z-scored, at the
temperatures that are stored; the probability of a class that is not kept does not. Log-sum-exps are taken in float64 of
the float32 logits, before anything is rounded.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError

VARIANCE_FLOOR = 1e-4  # of the z-score, as in losses.logits
NOTHING = np.float32(-1e30)  # log of the empty sum, where all logits are kept: a finite number that is none of a loss's
MOST_SMALL = 1 << 15


@dataclass(frozen=True)
class TopK:
    """index (n, k), logit (n, k) in falling order, mean (n,), sd (n,) with n - 1 in the denominator, tail_lse (n, 2, M)
    of x / τ for x raw and z-scored and each of the temperatures; `classes`: C, 0 where there is no row to say it."""

    index: np.ndarray
    logit: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    tail_lse: np.ndarray
    temperatures: tuple[float, ...]
    classes: int


def largest(logits: np.ndarray, k: int, temperatures: tuple[float, ...]) -> TopK:
    """Float32 logits (n, C) → their k largest; of equal ones the first. A row that is not finite gives NaN throughout.

    ConfigError where C < k.
    """
    rows, classes = logits.shape
    if classes < k:
        raise ConfigError(
            f"precompute.codec.top_k is {k}, but the teacher has {classes} classes: lower it or leave it out"
        )
    values = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, np.nan).astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    mean, variance = values.mean(axis=1), values.var(axis=1, ddof=min(1, classes - 1))
    scores = (values - mean[:, None]) / np.sqrt(variance[:, None] + VARIANCE_FLOOR)
    rest = order[:, k:]
    tails = [[_lse(x, rest, temperature) for temperature in temperatures] for x in (values, scores)]
    index = order[:, :k].astype(np.int16 if classes <= MOST_SMALL else np.int32)
    return TopK(
        index=index,
        logit=np.take_along_axis(values, order[:, :k], axis=1).astype(np.float32),
        mean=mean.astype(np.float32),
        sd=np.sqrt(variance).astype(np.float32),
        tail_lse=np.moveaxis(np.asarray(tails, np.float32).reshape(2, len(temperatures), rows), 2, 0),
        temperatures=temperatures,
        classes=classes,
    )


def _lse(values: np.ndarray, rest: np.ndarray, temperature: float) -> np.ndarray:
    """log Σ exp(x / τ) over the columns `rest` of each row, (n,)."""
    if not rest.shape[1]:
        return np.full(len(values), NOTHING)
    scaled = np.take_along_axis(values, rest, axis=1) / temperature
    top = scaled.max(axis=1, keepdims=True)
    return np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
