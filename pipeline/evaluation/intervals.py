"""Intervals that cover, of an accuracy and of any mean over videos. The method is part of the result.

Videos of one group (scene, camera, recording) are alike, so only groups are independent. Where each video is a group of
its own an accuracy has Wilson's interval. Else, by the number of groups: under 6 there is no interval, under 20 a
t interval over groups (a bootstrap over 4 groups covers 76 %, over 10 groups 90 %, at nominal 95 %), from 20 on a
bootstrap over groups. With replicates (training seeds) the spread over seeds is added to the sampling error.

Legend: V videos, G groups, R replicates.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

LEAST_GROUPS, BOOTSTRAP_GROUPS = 6, 20


@dataclass(frozen=True)
class Interval:
    """A two-sided interval in the unit of the estimate, with the method and what it took as independent.

    `low` and `high` are None where there is no interval; `method` then says why.
    """

    low: float | None
    high: float | None
    level: float
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def accuracy_interval(
    correct: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `correct`, bool (V,) or (R, V) with one row per replicate; labels and groups (V,).

    Where the groups are all equally accurate they have no spread to resample: then Wilson's over groups, each taken as
    one trial. Bounds stay within 0 and 1.
    """
    values = np.atleast_2d(correct).astype(float)
    if len(values) == 1 and independent(groups):
        return wilson(int(values.sum()), values.shape[1], level=level)
    found = mean_interval(values, groups, level=level, draws=draws, seed=seed)
    if found.low is None or found.high is None:
        return found
    if found.low == found.high:
        return _as_one_trial(float(values.mean()), group_count(values, groups), level, groups)
    return Interval(max(found.low, 0.0), min(found.high, 1.0), level, found.method + _one_group_classes(labels, groups))


def wilson(successes: float, trials: int, *, level: float = 0.95) -> Interval:
    """Score interval of Wilson 1927 for a proportion, each trial independent."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    share, weight = successes / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0), level, f"Wilson over {trials} videos")


def mean_interval(
    values: np.ndarray, groups: np.ndarray | None, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Interval of the mean of `values` (R, V): over videos or groups, and over the R replicates where R ≥ 2.

    One replicate of independent videos: t over videos. Two or more replicates: s.e.² = s² over replicates / R + squared
    sampling error of the mean over replicates, t with the degrees of freedom of Satterthwaite 1946. With two replicates
    those cover 87 % only (their one degree of freedom is lost where the two happen to be alike), so that there each
    source of error takes its own t quantile: 95 to 99 % in simulation, and wide.
    """
    count = group_count(values, groups)
    unit = "videos" if independent(groups) else "groups"
    if count < (2 if unit == "videos" else LEAST_GROUPS):
        least = 2 if unit == "videos" else LEAST_GROUPS
        return Interval(None, None, level, f"no interval: {count} {unit}, at least {least} are needed")
    mean, error = float(values.mean()), cluster_error(values.mean(axis=0), groups)
    quantile = 0.5 + level / 2
    if len(values) > 1:
        half = _with_seeds(values, error, count, quantile)
        method = f"t over {len(values)} replicates and {count} {unit}"
    elif groups is not None and unit == "groups" and count >= BOOTSTRAP_GROUPS:
        return group_bootstrap(values[0], groups, level=level, draws=draws, seed=seed)
    else:
        half, method = float(stats.t.ppf(quantile, count - 1)) * error, f"t over {count} {unit}"
    return Interval(mean - half, mean + half, level, method)


def cluster_error(values: np.ndarray, groups: np.ndarray | None) -> float:
    """Cluster-robust standard error of the mean of `values` (V,), for groups of any sizes.

    √(G/(G-1) Σ_g (Σ_{i in g} (x_i - mean))²) / V: the mean is a ratio of two sums over groups (Cochran 1977, §6.3), and
    a group's residual grows with its size. Each video its own group: the ordinary standard error.
    """
    group_of = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    residuals = np.bincount(group_of, weights=values - values.mean())
    count = len(residuals)
    return math.sqrt(count / (count - 1) * float(residuals @ residuals)) / len(values)


def group_bootstrap(
    values: np.ndarray, groups: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of Σ values / Σ videos, values (V,), over groups drawn with replacement."""
    names, group_of = np.unique(groups, return_inverse=True)
    sums = np.bincount(group_of, weights=values.astype(float))
    sizes = np.bincount(group_of).astype(float)
    weights = resampling_weights(len(names), draws, np.random.default_rng(seed))
    low, high = percentile_bounds((weights @ sums) / (weights @ sizes), level)
    return Interval(low, high, level, f"bootstrap over {len(names)} groups, {draws} draws")


def resampling_weights(items: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each item is drawn, (draws, items), when `items` are drawn with replacement."""
    return generator.multinomial(items, np.full(items, 1.0 / items), size=draws).astype(float)


def percentile_bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    """Lower and upper percentile that leave out (1 - level) / 2 on each side."""
    tail = (1.0 - level) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def independent(groups: np.ndarray | None) -> bool:
    """Whether every video is a group of its own."""
    return groups is None or len(np.unique(groups)) == len(groups)


def group_count(values: np.ndarray, groups: np.ndarray | None) -> int:
    """How many independent units `values` (R, V) hold."""
    return values.shape[1] if groups is None else len(np.unique(groups))


def _with_seeds(values: np.ndarray, error: float, count: int, quantile: float) -> float:
    """Half width from the spread over R replicates and the sampling error over `count` videos or groups."""
    replicates = len(values)
    seeds = float(values.mean(axis=1).std(ddof=1)) / math.sqrt(replicates)
    if replicates == 2 or seeds == 0 or error == 0:
        t = stats.t.ppf(quantile, [replicates - 1, count - 1])
        return math.hypot(t[0] * seeds, t[1] * error)
    total = seeds**2 + error**2
    freedom = total**2 / (seeds**4 / (replicates - 1) + error**4 / (count - 1))
    return float(stats.t.ppf(quantile, freedom)) * math.sqrt(total)


def _as_one_trial(share: float, count: int, level: float, groups: np.ndarray | None) -> Interval:
    found, unit = wilson(share * count, count, level=level), "videos" if independent(groups) else "groups"
    return Interval(found.low, found.high, level, f"Wilson over {count} {unit}, all equally accurate")


def _one_group_classes(labels: np.ndarray, groups: np.ndarray | None) -> str:
    if groups is None or independent(groups):
        return ""
    alone = sum(len(np.unique(groups[labels == label])) < 2 for label in np.unique(labels))
    return f"; {alone} classes of one group each" if alone else ""
