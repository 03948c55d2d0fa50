"""Paired statistics of two methods: over the videos or groups of one test split, over replicates, over both.

Differences are always first minus second, in the unit of what is given (fractions of 1 for accuracies).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipeline.errors import InputError
from pipeline.evaluation.intervals import (
    Interval,
    group_count,
    independent,
    mean_interval,
    percentile_bounds,
    resampling_weights,
)

BETTER, WORSE, EQUAL, UNKNOWN = "better", "worse", "not distinguishable", "no interval"


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
class Difference:
    """Accuracy of the first minus that of the second method, its paired interval, and the one word that it supports.

    `word`: `better`, `worse` or `not distinguishable`, from the interval, or `no interval` (low and high None).
    `replicates`: how many each method has at least; `p` (exact binomial of McNemar 1947) for independent videos only.
    """

    difference: float
    low: float | None
    high: float | None
    level: float
    word: str
    method: str
    n: int
    replicates: int = 1
    p: float | None = None

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


def paired_interval(
    first_correct: np.ndarray,
    second_correct: np.ndarray,
    groups: np.ndarray | None,
    *,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Difference:
    """Difference of two methods on the same videos, with the word that its interval supports.

    Both bool (V,), or (R, V) with replicates that pair by row; one row beside R rows is the same network each time.
    Groups (V,) as in `intervals`: videos of one group are not independent. Independent videos and one replicate: the
    adjusted Wald interval of Bonett & Price 2012. Bounds stay within -1 and 1.
    """
    first, second = _same_replicates(first_correct, second_correct)
    values = first.astype(float) - second.astype(float)
    single = len(values) == 1 and independent(groups)
    found = adjusted_wald(first[0], second[0], level) if single else _grouped(values, groups, level, draws, seed)
    return Difference(
        difference=float(values.mean()),
        low=None if found.low is None else max(found.low, -1.0),
        high=None if found.high is None else min(found.high, 1.0),
        level=level,
        word=word(found.low, found.high),
        method=found.method,
        n=values.shape[1],
        replicates=len(values),
        p=discordance(first[0], second[0]).p if single else None,
    )


def word(low: float | None, high: float | None) -> str:
    """What an interval of a difference supports, in one word."""
    if low is None or high is None:
        return UNKNOWN
    return BETTER if low > 0 else WORSE if high < 0 else EQUAL


def adjusted_wald(correct_first: np.ndarray, correct_second: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of a difference of paired proportions (Bonett & Price 2012): one pseudo-video each way.

    With b and c videos that only one has right: p₁ = (b + 1)/(n + 2), p₂ = (c + 1)/(n + 2), p₁ - p₂ ± z √((p₁ + p₂ -
    (p₁ - p₂)²)/(n + 2)). It excludes 0 almost exactly where the exact binomial test does.
    """
    found = discordance(correct_first, correct_second)
    bounds = _bonett_price(found.only_first, found.only_second, found.n, level)
    return Interval(*bounds, level, f"adjusted Wald over {found.n} paired videos")


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


def _same_replicates(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    assert first.shape[1] == second.shape[1], "both methods are scored on the same videos"
    if 1 not in (len(first), len(second)) and len(first) != len(second):
        raise InputError(
            f"compare: {len(first)} replicates of one method, {len(second)} of the other; run the same ones"
        )
    rows = max(len(first), len(second))
    return np.broadcast_to(first, (rows, first.shape[1])), np.broadcast_to(second, (rows, first.shape[1]))


def _grouped(values: np.ndarray, groups: np.ndarray | None, level: float, draws: int, seed: int) -> Interval:
    found = mean_interval(values, groups, level=level, draws=draws, seed=seed)
    if found.low is None or found.low != found.high:
        return found
    # no spread at all does not mean no error: each unit counts as one pair
    count, mean = group_count(values, groups), float(values.mean())
    bounds = _bonett_price(count * max(mean, 0.0), count * max(-mean, 0.0), count, level)
    unit = "videos" if independent(groups) else "groups"
    return Interval(*bounds, level, f"adjusted Wald over {count} {unit}, all with the same difference")


def _bonett_price(only_first: float, only_second: float, n: int, level: float) -> tuple[float, float]:
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    difference = first - second
    half = float(stats.norm.ppf(0.5 + level / 2)) * math.sqrt((first + second - difference**2) / (n + 2))
    return difference - half, difference + half


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
