"""Noise channels A[c, y] = P(given y | true c): how they are fitted, and the soft labels that follow from them.

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201, with Dawid & Skene (1979), the classifier as the
prior of the true class. p̄ is the mean over views of the out-of-fold softmax at temperature τ_c.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, sparse

from pipeline.labels.predictions import Rows, Validation, chunks

RULES = ("scalar", "full", "mix")
ROUNDS = 40
START_DIAGONAL = 0.8
PRIOR_DIAGONAL = 5.0
PRIOR_OFF_DIAGONAL = 2.0
HIGHEST_RATE = 0.9
MIX_SHARE = 0.7
_EQUAL = 1e-6
_COARSE = 8
_TEMPERATURES = [float(value) for value in np.geomspace(0.2, 8.0, 24 * _COARSE + 1)]


@dataclass(frozen=True, eq=False)
class Channel:
    """A fitted rule: `name` scalar, full or mix; `matrix` (C, C) and `rate` (share of wrong given labels) are None for
    mix; `share` is the η of mix."""

    name: str
    temperature: float
    matrix: np.ndarray | None = None
    rate: float | None = None
    share: float = MIX_SHARE


def fit(name: str, parts: Sequence[Rows], *, temperature: float, share: float = MIX_SHARE) -> Channel:
    """Fit the rule `name` on all rows of `parts`; `temperature` is that of `full` and `mix` (`scalar` fits its own)."""
    if name == "scalar":
        return fit_scalar(parts)
    if name == "full":
        return fit_full(parts, temperature=temperature)
    assert name == "mix", name
    return Channel("mix", temperature, share=share)


def soft_labels(channel: Channel, rows: Rows) -> np.ndarray:
    """Refined labels q (n, C) float64 of rows whose label is given: the posterior, or the mixture for `mix`."""
    log_probability = rows.log_probability(channel.temperature)
    if channel.matrix is not None:
        return posteriors(log_probability, rows.labels, channel.matrix)
    probability = np.exp(log_probability)
    mixed = channel.share * probability / probability.sum(axis=1, keepdims=True)
    mixed[np.arange(len(mixed)), rows.labels] += 1 - channel.share
    return mixed


def fit_scalar(parts: Sequence[Rows]) -> Channel:
    """One noise rate ρ and τ_c that together maximise the marginal likelihood of the given labels,

    Σ_i log[(1-ρ) p̄_iy + ρ/(C-1) (1-p̄_iy)]. ρ in [0, min(.9, 1-1/C)] is exact for each τ (the sum is concave in it),
    τ is searched on a lattice of .2..8 with steps of 2 %, coarse first.
    """
    classes = parts[0].num_classes

    def profile(temperature: float) -> tuple[float, float]:
        own = np.concatenate([part.label_probability(temperature) for part in parts])
        return _best_rate(own, classes)

    temperature = _best_temperature(lambda value: profile(value)[1])
    rate = profile(temperature)[0]
    return Channel("scalar", temperature, scalar_matrix(rate, classes), rate)


def fit_full(parts: Sequence[Rows], *, temperature: float) -> Channel:
    """The whole matrix by EM, 40 rounds from .8 on the diagonal; each M step adds 5 on the diagonal, 2/(C-1) off it.

    The rate is 1 - Σ_c π_c A_cc with π the mean soft label of the last round.
    """
    classes = parts[0].num_classes
    prior = _two_valued(classes, PRIOR_DIAGONAL, PRIOR_OFF_DIAGONAL / (classes - 1))
    matrix = scalar_matrix(1 - START_DIAGONAL, classes)
    for _ in range(ROUNDS):
        counts = sum((_expected_counts(part, temperature, matrix) for part in parts), np.zeros_like(prior))
        matrix = (counts + prior) / (counts + prior).sum(axis=1, keepdims=True)
    frequency = counts.sum(axis=1) / counts.sum()
    return Channel("full", temperature, matrix, float(1 - frequency @ matrix.diagonal()))


def posteriors(log_probability: np.ndarray, given: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """q_ic ∝ p̄_ic A[c, given_i] from log p̄ (n, C), in the log domain: (n, C) float64, each row sums to 1."""
    with np.errstate(divide="ignore"):  # a rate of 0 has log 0 = -inf off the diagonal, and so weight 0
        soft = log_probability + np.log(matrix).T[given]
    soft -= soft.max(axis=1, keepdims=True)
    np.exp(soft, out=soft)
    soft /= soft.sum(axis=1, keepdims=True)
    return soft


def scalar_matrix(rate: float, classes: int) -> np.ndarray:
    """1 - rate on the diagonal, rate/(C-1) elsewhere: (C, C)."""
    return _two_valued(classes, 1 - rate, rate / (classes - 1))


def validation_temperature(validation: Validation) -> float:
    """τ_c that maximises the likelihood of the validation labels under single fold models (never their mean: a row of
    the training table is written by one model)."""
    models, videos, views, classes = validation.logits.shape
    logits = validation.logits.reshape(models * videos, views, classes)
    rows = Rows(logits, np.tile(validation.labels, models))
    return _best_temperature(lambda value: float(np.log(rows.label_probability(value)).sum()))


def _best_temperature(likelihood: Callable[[float], float]) -> float:
    """The best of a coarse pass over the lattice and a fine one around its winner. The fixed lattice lets rows keep
    their values between the fits of the self-test."""
    lattice = range(len(_TEMPERATURES))
    best = _likeliest(lattice[::_COARSE], likelihood)
    return _TEMPERATURES[_likeliest(lattice[max(0, best - _COARSE + 1) : best + _COARSE], likelihood)]


def _likeliest(positions: Sequence[int], likelihood: Callable[[float], float]) -> int:
    """Position of the highest likelihood; among equals the temperature nearest 1. At a rate of pure chance all
    temperatures are equal, and rounding errors (so the class ids) would choose."""
    values = {position: likelihood(_TEMPERATURES[position]) for position in positions}
    equals = [position for position in positions if values[position] > max(values.values()) - _EQUAL]
    return min(equals, key=lambda position: abs(math.log(_TEMPERATURES[position])))


def _best_rate(own: np.ndarray, classes: int) -> tuple[float, float]:
    """The rate that maximises Σ log(own + rate · slope), and that sum."""
    slope = (1 - own) / (classes - 1) - own
    highest = min(HIGHEST_RATE, 1 - 1 / classes)

    def derivative(rate: float) -> float:
        return float((slope / (own + rate * slope)).sum())

    if derivative(0.0) <= 0:
        rate = 0.0
    elif derivative(highest) >= 0:
        rate = highest
    else:
        rate = float(optimize.brentq(derivative, 0.0, highest, xtol=1e-10))
    return rate, float(np.log(own + rate * slope).sum())


def _expected_counts(rows: Rows, temperature: float, matrix: np.ndarray) -> np.ndarray:
    """Σ_i q_ic 1[given_i = y] as (c, y), by chunks so that a large table needs no second copy."""
    log_probability, classes = rows.log_probability(temperature), len(matrix)
    counts = np.zeros((classes, classes))
    for chunk in chunks(len(rows.labels)):
        soft = posteriors(log_probability[chunk], rows.labels[chunk], matrix)
        entries = (np.ones(len(soft)), rows.labels[chunk], np.arange(len(soft) + 1))
        members = sparse.csr_array(entries, shape=soft.shape)
        counts += (members.T @ soft).T
    return counts


def _two_valued(classes: int, diagonal: float, elsewhere: float) -> np.ndarray:
    matrix = np.full((classes, classes), elsewhere)
    np.fill_diagonal(matrix, diagonal)
    return matrix
