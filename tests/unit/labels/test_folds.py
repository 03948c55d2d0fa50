import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError
from pipeline.labels.folds import assign_folds, folds_for, protected_videos

GROUPED = st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 4)), min_size=1, max_size=60)


@pytest.mark.parametrize(("groups", "expected"), [(["a", "a"], 1), (["a", "b"], 2), (["a", "b", "c", "d", "a"], 3)])
def test_as_many_folds_as_groups_but_at_most_three(groups: list[str], expected: int) -> None:
    assert folds_for(groups) == expected


def test_each_class_is_spread_to_within_one_video_when_every_video_is_its_own_group() -> None:
    labels = np.random.default_rng(0).integers(-1, 7, size=500)
    folds = assign_folds([f"v{i}" for i in range(500)], labels, seed=3)
    counts = np.array([np.bincount(folds[labels == label], minlength=3) for label in range(-1, 7)])
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert np.ptp(np.bincount(folds)) <= 8


@given(GROUPED)
@settings(deadline=None)
def test_groups_stay_whole_and_no_fold_is_empty(videos: list[tuple[int, int]]) -> None:
    groups, labels = np.array(videos).T
    folds = assign_folds(groups, labels, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    assert set(folds) == set(range(min(3, len(set(groups)))))


@given(GROUPED, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_the_order_of_the_rows_nor_the_class_ids_matter(videos: list[tuple[int, int]], random) -> None:
    groups, labels = np.array(videos).T
    order, renamed = list(range(len(videos))), list(range(6))
    random.shuffle(order)
    random.shuffle(renamed)
    folds = assign_folds(groups, labels, seed=5)
    assert np.array_equal(assign_folds(groups[order], labels[order], seed=5), folds[order])
    assert np.array_equal(assign_folds(groups, np.array(renamed)[labels + 1], seed=5), folds)


def test_rounding_errors_do_not_break_ties() -> None:
    for seed in (290, 356, 375):  # unrounded sums, in another order of the classes, gave other folds
        generator = np.random.default_rng(seed)
        groups, labels, renamed = (
            generator.integers(12, size=60),
            generator.integers(5, size=60),
            generator.permutation(5),
        )
        assert np.array_equal(assign_folds(groups, labels, seed=0), assign_folds(groups, renamed[labels], seed=0))


def test_groups_of_mixed_classes_are_balanced() -> None:
    generator = np.random.default_rng(1)
    groups, labels = generator.integers(60, size=1200), generator.integers(5, size=1200)
    folds = assign_folds(groups, labels, seed=0)
    counts = np.array([np.bincount(folds[labels == label], minlength=3) for label in range(5)])
    assert (np.ptp(counts, axis=1) < 0.12 * counts.mean(axis=1)).all()


def test_the_seed_decides() -> None:
    groups, labels = np.arange(90), np.arange(90) % 3
    first = assign_folds(groups, labels, seed=0)
    assert np.array_equal(first, assign_folds(groups, labels, seed=0))
    assert not np.array_equal(first, assign_folds(groups, labels, seed=1))


def test_a_class_with_two_examples_in_the_training_part_is_protected_and_one_with_three_is_not() -> None:
    folds = np.array([0, 1, 2, 0, 1, 1, 2, 0, 1])
    given_labels = np.array([0, 0, 0, 1, 1, 1, 1, -1, -1])
    assert protected_videos(given_labels, folds).tolist() == [True, True, True, False, True, True, False, False, False]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="one group and one label"):
        assign_folds(["a", "b"], np.array([0]), seed=0)
    with pytest.raises(InputError, match="one group and one label"):
        assign_folds([], np.array([]), seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        assign_folds(["a"], np.array([0]), folds=0, seed=0)
