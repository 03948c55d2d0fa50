"""Intervals: their formulas by hand, and what they cover in seeded simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.intervals import accuracy_interval, cluster_error, group_bootstrap, mean_interval, wilson


def test_wilson_is_the_formula():
    found = wilson(18, 24)
    z, n, p = 1.959963984540054, 24, 18 / 24
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert found.method == "Wilson over 24 videos"
    assert (wilson(0, 9).low, wilson(9, 9).high) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_groups_of_unequal_size_weigh_by_their_videos():
    # a: 3 of 4, b: 0 of 1; the mixed draw is 3 of 5
    found = group_bootstrap(np.array([1, 1, 1, 0, 0], bool), np.array(list("aaaab")), level=0.4)
    assert (found.low, found.high) == (0.6, 0.6)


def test_cluster_error_by_hand():
    # mean 3/5; residual sums: a 3 - 4·3/5 = .6, b 0 - 1·3/5 = -.6; G = 2
    values, groups = np.array([1.0, 1, 1, 0, 0]), np.array(list("aaaab"))
    assert cluster_error(values, groups) == pytest.approx(math.sqrt(2 * 2 * 0.36) / 5)
    assert cluster_error(values, None) == pytest.approx(values.std(ddof=1) / math.sqrt(5))


def _videos(sizes: list[int], right: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct, labels (two classes in turn) and groups for groups of these sizes with so many right."""
    correct = np.concatenate([np.arange(size) < hits for size, hits in zip(sizes, right, strict=True)])
    return correct, np.arange(len(correct)) % 2, np.repeat(np.arange(len(sizes)), sizes)


def test_few_groups_have_no_interval():
    found = accuracy_interval(*_videos([4] * 5, [4, 3, 2, 1, 4]))
    assert (found.low, found.high) == (None, None)
    assert found.method == "no interval: 5 groups, at least 6 are needed"


def test_under_twenty_groups_t_over_groups():
    correct, labels, groups = _videos([4, 2, 4, 6, 4, 4], [2, 1, 1, 3, 3, 2])
    found = accuracy_interval(correct, labels, groups)
    half = stats.t.ppf(0.975, 5) * cluster_error(correct.astype(float), groups)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.method == "t over 6 groups"


def test_twenty_groups_are_resampled():
    correct, labels, groups = _videos([4] * 20, [4, 3, 2, 1] * 5)
    assert accuracy_interval(correct, labels, groups, draws=500).method == "bootstrap over 20 groups, 500 draws"


def test_equal_groups_count_as_one_trial_each():
    """Eight groups of ten videos, all right: not 80 independent successes (95.4–100 %), and not 100–100 %."""
    found = accuracy_interval(*_videos([10] * 8, [10] * 8))
    assert (found.low, found.high) == pytest.approx((wilson(8, 8).low, 1.0))
    assert found.low == pytest.approx(0.676, abs=0.001)


def test_classes_of_one_group_are_said():
    correct, _, groups = _videos([4] * 6, [4, 3, 2, 1, 4, 3])
    found = accuracy_interval(correct, groups, groups)
    assert found.method == "t over 6 groups; 6 classes of one group each"


def test_bounds_are_shares():
    found = accuracy_interval(*_videos([2] * 6, [2, 2, 2, 2, 2, 0]))
    assert found.high == 1.0


def test_groups_of_one_video_are_plain_wilson():
    correct, labels, groups = _videos([1] * 8, [1, 1, 0, 1, 1, 0, 0, 1])
    assert accuracy_interval(correct, labels, groups) == accuracy_interval(correct, labels, None)
    assert accuracy_interval(correct, labels, groups).method == "Wilson over 8 videos"


def test_replicates_widen_by_the_spread_of_the_seeds():
    generator = np.random.default_rng(0)
    rows = generator.random((3, 400)) < np.array([[0.6], [0.7], [0.8]])
    found, labels = accuracy_interval(rows, np.zeros(400), None), np.zeros(400)
    alone = accuracy_interval(rows[1], labels, None)
    assert found.low < rows.mean() < found.high
    assert found.high - found.low > 3 * (alone.high - alone.low)
    assert found.method == "t over 3 replicates and 400 videos"


@pytest.mark.parametrize("groups", [6, 8, 12, 19, 20])
@pytest.mark.parametrize("unequal", [False, True])
def test_coverage_of_a_grouped_accuracy(groups, unequal):
    """Nominal 95; where the method says that it covers (from 6 groups on) it does, within the error of 500 draws."""
    assert _coverage(groups, unequal) >= 0.90


def test_a_bootstrap_over_few_groups_would_not_cover():
    """Why there is a t interval: at 6 groups the bootstrap misses three times as often."""
    assert _coverage(6, False, bootstrap=True) < 0.90 <= _coverage(6, False)


def _coverage(count: int, unequal: bool, *, bootstrap: bool = False, draws: int = 500) -> float:
    generator = np.random.default_rng(count)
    hit = 0
    for _ in range(draws):
        sizes = generator.integers(2, 12, count) if unequal else np.full(count, 6)
        groups = np.repeat(np.arange(count), sizes)
        rate = 0.6 + generator.uniform(-0.3, 0.3, count)[groups]
        correct = generator.random(len(groups)) < rate
        found = (
            group_bootstrap(correct, groups, draws=300)
            if bootstrap
            else accuracy_interval(correct, np.zeros(len(groups)), groups, draws=300)
        )
        hit += found.low <= 0.6 <= found.high
    return hit / draws


def test_one_video_has_no_spread():
    found = mean_interval(np.array([[1.0]]), None)
    assert (found.low, found.method) == (None, "no interval: 1 videos, at least 2 are needed")
