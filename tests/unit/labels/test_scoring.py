import numpy as np
import pytest

from pipeline.labels.scoring import flips_per_class, hard_labels, score_labels

# video      0  1  2  3  4   5  6
GIVEN = np.array([0, 1, 2, 0, 1, -1, 2])
CLEAN = np.array([0, 0, 2, 1, 2, 1, -1])
AFTER = np.array([0, 0, 1, 0, 0, 1, 0])
# 1 is corrected, 2 is broken, 3 stays wrong, 4 flips from wrong to wrong, 5 was unlabelled, 6 has no known truth
SOFT = 0.1 + 0.7 * np.eye(3)[AFTER]


def test_scores_of_a_table_made_by_hand() -> None:
    score = score_labels(SOFT, GIVEN, CLEAN)
    assert score["videos"] == 5
    assert score["accuracy_before"] == pytest.approx(2 / 5)
    assert score["accuracy_after"] == pytest.approx(2 / 5)
    assert score["precision"] == pytest.approx(1 / 3)
    assert score["recall"] == pytest.approx(1 / 3)
    assert score["unlabelled_accuracy"] == 1.0
    assert score["flips_per_class"] == {"from": [0, 2, 1], "to": [2, 1, 0]}
    assert score["per_class"] == {
        "accuracy_before": [0.5, 0.0, 0.5],
        "accuracy_after": [1.0, 0.0, 0.0],
        "precision": [0.5, 0.0, None],
        "recall": [1.0, 0.0, 0.0],
    }


def test_what_is_undefined_is_none() -> None:
    clean = np.array([0, 1])
    score = score_labels(np.eye(2), clean, clean)
    assert (score["precision"], score["recall"], score["unlabelled_accuracy"]) == (None, None, None)
    assert (score["accuracy_before"], score["accuracy_after"]) == (1.0, 1.0)


def test_flips_count_where_they_leave_and_where_they_land() -> None:
    assert flips_per_class(GIVEN, AFTER, 3) == {"from": [0, 2, 2], "to": [3, 1, 0]}


def test_a_tie_keeps_the_given_label() -> None:
    soft = np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.6]])
    assert hard_labels(soft, np.array([1, -1, 0])).tolist() == [1, 0, 1]
