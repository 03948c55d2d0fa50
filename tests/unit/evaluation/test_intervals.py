import numpy as np
import pytest

from pipeline.evaluation.intervals import accuracy_interval, group_bootstrap, wilson


def test_wilson_is_the_formula():
    found = wilson(18, 24)
    z, n, p = 1.959963984540054, 24, 18 / 24
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert found.method == "Wilson over 24 videos"


def test_two_groups_give_their_own_accuracies_as_bounds():
    # of two groups each alone is drawn with probability 1/4, so the 2.5 % and 97.5 % points are the groups themselves
    correct = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    found = group_bootstrap(correct, np.array(list("aaaabbbb")))
    assert (found.low, found.high) == (0.25, 0.75)
    assert found.method == "bootstrap over 2 groups, 2000 draws; few groups: likely too narrow"


def test_groups_of_unequal_size_weigh_by_their_videos():
    # a: 3 of 4, b: 0 of 1; the mixed draw is 3 of 5
    found = group_bootstrap(np.array([1, 1, 1, 0, 0], bool), np.array(list("aaaab")), level=0.4)
    assert (found.low, found.high) == (0.6, 0.6)


def _videos(groups: str, labels: str, correct: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([c == "1" for c in correct]), np.array([int(c) for c in labels]), np.array(list(groups))


def test_bootstrap_where_each_class_spans_groups():
    correct, labels, groups = _videos("aabbccdd", "01010101", "11011001")
    assert accuracy_interval(correct, labels, groups).method.startswith("bootstrap over 4 groups")


@pytest.mark.parametrize(
    ("groups", "labels", "correct", "reason"),
    [
        ("aaaabbbb", "00001111", "11101000", "a class with one group only"),
        ("aabbccdd", "01010101", "10101010", "all groups equally accurate"),
    ],
)
def test_wilson_with_its_reason_where_groups_cannot_be_resampled(groups, labels, correct, reason):
    found = accuracy_interval(*_videos(groups, labels, correct))
    assert found.method.startswith("Wilson over 8 videos; ")
    assert reason in found.method
    assert found.high > found.low


def test_groups_of_one_video_are_plain_wilson():
    correct, labels, groups = _videos("abcdefgh", "01010101", "11011001")
    assert accuracy_interval(correct, labels, groups) == accuracy_interval(correct, labels, None)
    assert accuracy_interval(correct, labels, groups).method == "Wilson over 8 videos"
