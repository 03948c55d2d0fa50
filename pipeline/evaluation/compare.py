"""Paired statistics of two methods: over replicates, over the videos of one test split, over groups and seeds.

Differences are always first minus second, in the unit of what is given (fractions of 1 for accuracies).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipeline.errors import InputError
from pipeline.evaluation.intervals import Interval, percentile_bounds, resampling_weights


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference over n replicates, its t interval (n - 1 d.f.), s.d. of the differences and p."""

    mean: float
    low: float
    high: float
    sd: float
    n: int
    p: float
    wins: int
    test: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Discordance:
    """Two methods on the same videos: `only_first` and `only_second` right, difference, its sampling error, p."""

    only_first: int
    only_second: int
    n: int
    difference: float
    error: float
    p: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, margin: float | None = None
) -> PairedDifference:
    """Difference of two methods over the same replicates (values pair by position).

    Without `margin`: two-sided t test of no difference. With it: one-sided test that the first is not worse than the
    second by `margin` or more (non-inferiority). The interval is two-sided either way. InputError under 2 replicates.
    """
    differences = _paired(first, second)
    n = len(differences)
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * sd / math.sqrt(n)
    test = "two-sided, no difference" if margin is None else f"one-sided, not worse by {margin:g}"
    p = _t_test(mean, sd, n, margin)
    return PairedDifference(mean, mean - half, mean + half, sd, n, p, int((differences > 0).sum()), test)


def sampling_error(correct_first: np.ndarray, correct_second: np.ndarray) -> float:
    """√(b + c) / n: error of an accuracy difference on n shared videos, b and c those that only one has right."""
    return discordance(correct_first, correct_second).error


def discordance(correct_first: np.ndarray, correct_second: np.ndarray) -> Discordance:
    """Counts of McNemar 1947 for two bool vectors (V,) over the same videos; p is the exact binomial one."""
    assert correct_first.shape == correct_second.shape, "both methods are scored on the same videos"
    b = int((correct_first & ~correct_second).sum())
    c = int((~correct_first & correct_second).sum())
    n = len(correct_first)
    p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return Discordance(b, c, n, (b - c) / n, math.sqrt(b + c) / n, p)


def bootstrap_groups_seeds(
    correct_first: np.ndarray,
    correct_second: np.ndarray,
    groups: np.ndarray,
    *,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the accuracy difference; correct (S seeds, V videos) bool each, groups (V,).

    Groups and seeds are drawn with replacement, independently of each other: videos of one group share their scene,
    runs of one seed share their start. Group sizes weigh as they are.
    """
    assert correct_first.shape == correct_second.shape == (len(correct_first), len(groups)), "(seeds, videos) twice"
    names, group_of = np.unique(groups, return_inverse=True)
    difference = correct_first.astype(float) - correct_second.astype(float)
    sums = np.stack([np.bincount(group_of, weights=row, minlength=len(names)) for row in difference])
    generator = np.random.default_rng(seed)
    of_groups = resampling_weights(len(names), draws, generator)
    of_seeds = resampling_weights(len(difference), draws, generator)
    totals = np.einsum("ds,sg,dg->d", of_seeds, sums, of_groups)
    counts = of_seeds.sum(axis=1) * (of_groups @ np.bincount(group_of))
    low, high = percentile_bounds(totals / counts, level)
    return Interval(low, high, level, f"bootstrap over {len(names)} groups × {len(difference)} seeds, {draws} draws")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values (Holm 1979) by name: step-down, monotone, at most 1."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _paired(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    if len(first) != len(second):
        raise InputError(
            f"compare: {len(first)} replicates of one method, {len(second)} of the other; run the same ones"
        )
    if len(first) < 2:
        raise InputError(f"compare: {len(first)} replicate has no spread; give at least 2 (5 or more to say anything)")
    return np.asarray(first, float) - np.asarray(second, float)


def _t_test(mean: float, sd: float, n: int, margin: float | None) -> float:
    shifted = mean + (margin or 0.0)
    if sd == 0:
        t = math.copysign(math.inf, shifted) if shifted else 0.0
    else:
        t = shifted / (sd / math.sqrt(n))
    return float(stats.t.sf(t, n - 1)) if margin is not None else float(2 * stats.t.sf(abs(t), n - 1))
