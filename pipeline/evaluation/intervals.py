"""Intervals of an accuracy. The method is part of the result: who reads a number sees what was assumed."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

FEW_GROUPS = 10


@dataclass(frozen=True)
class Interval:
    """A two-sided interval in the unit of the estimate, with the method and what it took as independent."""

    low: float
    high: float
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
    """Interval of the mean of `correct` (V,) bool.

    Bootstrap over whole groups where groups hold several videos and every class is filmed in two groups or more
    (videos of one group are alike; a group that is a class of its own cannot be resampled). Else Wilson, with the
    reason in its name. Groups that all have the same accuracy give a bootstrap no spread: Wilson as well.
    """
    reason = _why_not_groups(correct, labels, groups)
    if reason is None:
        assert groups is not None
        return group_bootstrap(correct, groups, level=level, draws=draws, seed=seed)
    return wilson(int(correct.sum()), len(correct), level=level, reason=reason)


def wilson(successes: int, trials: int, *, level: float = 0.95, reason: str = "") -> Interval:
    """Score interval of Wilson 1927 for a proportion, each trial independent."""
    bounds = stats.binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    suffix = f"; {reason}" if reason else ""
    return Interval(float(bounds.low), float(bounds.high), level, f"Wilson over {trials} videos{suffix}")


def group_bootstrap(
    correct: np.ndarray, groups: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of Σ correct / Σ videos over groups drawn with replacement."""
    names, group_of = np.unique(groups, return_inverse=True)
    hits = np.bincount(group_of, weights=correct.astype(float))
    sizes = np.bincount(group_of).astype(float)
    weights = resampling_weights(len(names), draws, np.random.default_rng(seed))
    low, high = percentile_bounds((weights @ hits) / (weights @ sizes), level)
    note = "; few groups: likely too narrow" if len(names) < FEW_GROUPS else ""
    return Interval(low, high, level, f"bootstrap over {len(names)} groups, {draws} draws{note}")


def resampling_weights(items: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each item is drawn, (draws, items), when `items` are drawn with replacement."""
    return generator.multinomial(items, np.full(items, 1.0 / items), size=draws).astype(float)


def percentile_bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    """Lower and upper percentile that leave out (1 - level) / 2 on each side."""
    tail = (1.0 - level) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _why_not_groups(correct: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> str | None:
    if groups is None or len(np.unique(groups)) == len(groups):
        return ""
    spread = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if spread < 2:
        return "a class with one group only, videos taken as independent"
    _, group_of = np.unique(groups, return_inverse=True)
    rates = np.bincount(group_of, weights=correct.astype(float)) / np.bincount(group_of)
    if np.ptp(rates) == 0:
        return "all groups equally accurate, videos taken as independent"
    return None
