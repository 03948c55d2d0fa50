"""The gate's figures: who is weak, what is said with few videos or groups, and what file facts give away."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import file_facts
from pipeline.evaluation.gate import FILES, MAJORITY, PROBE, TEACHER, figures, line, majority_class, verdict, warnings

CLASSES = 4


def alone(count: int) -> np.ndarray:
    """Every video a group of its own."""
    return np.arange(count).astype(str)


def looked(labels: np.ndarray, teacher: np.ndarray, groups: np.ndarray | None = None, **more: np.ndarray) -> Any:
    predicted = {TEACHER: teacher, **more, MAJORITY: np.zeros_like(labels)}
    return figures(labels, alone(len(labels)) if groups is None else groups, predicted, {})


def with_accuracy(labels: np.ndarray, right: int) -> np.ndarray:
    """Right on the first `right` videos of a fixed order, wrong on the others."""
    order = np.random.default_rng(3).permutation(len(labels))
    found = (labels + 1) % CLASSES
    found[order[:right]] = labels[order[:right]]
    return found


def test_a_good_teacher_passes_and_the_figures_are_those_of_the_videos() -> None:
    labels = np.arange(80) % CLASSES
    found = looked(labels, with_accuracy(labels, 60))
    assert (found["weak"], found["decidable"], found["fallback"]) == (False, True, "")
    top1 = {row["name"]: row["top1"] for row in found["rows"]}
    assert top1 == {TEACHER: 0.75, MAJORITY: 0.25}
    assert found["leads"][MAJORITY]["difference"] == pytest.approx(0.5)
    assert found["leads"][MAJORITY]["low"] > 0.3
    assert "75.0 %; that is better than" in verdict(found)
    assert warnings(found) == []
    assert line(found).startswith("teacher 75.0 % (")


def test_a_teacher_that_draws_lots_is_weak() -> None:
    labels = np.arange(80) % CLASSES
    drawn = looked(labels, np.random.default_rng(0).permutation(labels))
    assert drawn["weak"]
    assert drawn["decidable"]
    assert "is not shown to be better than" in verdict(drawn)


def test_the_lead_is_paired_and_a_few_points_over_the_majority_are_weak() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    barely = np.array([0] * 46 + [1] * 4 + [1] * 8 + [0] * 42)  # 54 % against 50 %, 8 gained and 4 lost
    assert looked(labels, barely)["weak"]
    clearly = np.array([0] * 50 + [1] * 12 + [0] * 38)  # 62 %, and nothing lost
    assert not looked(labels, clearly)["weak"]


def test_groups_count_not_their_videos() -> None:
    labels = np.arange(80) % 2
    groups = np.repeat(np.arange(8), 10).astype(str)
    by_group = labels.copy()
    by_group[:20] = 1 - by_group[:20]  # right in six groups of eight, wrong in two
    found = looked(labels, by_group, groups)
    assert (found["groups"], found["weak"]) == (8, True)
    assert not looked(labels, by_group)["weak"], "as if videos of a group were independent"
    everywhere = np.where(np.arange(80) * 7 % 11 < 8, labels, 1 - labels)  # as often right, in every group
    assert not looked(labels, everywhere, groups)["weak"]


def test_under_six_groups_videos_stand_for_them_and_it_says_so() -> None:
    labels = np.arange(40) % 2
    groups = np.repeat(np.arange(4), 10).astype(str)
    found = looked(labels, labels.copy(), groups)
    assert not found["weak"]
    assert found["fallback"] == (
        "4 groups are fewer than the 6 of an interval: videos are taken as independent, and more than half of the way "
        "from the majority class to no mistake is asked for"
    )
    assert found["fallback"] in verdict(found)
    assert looked(labels, np.zeros(40, np.int64), groups)["weak"]


@pytest.mark.parametrize(("gained", "weak"), [(8, True), (10, True), (11, False)])
def test_under_six_groups_a_lead_has_to_be_clear(gained: int, weak: bool) -> None:
    """Of 20 videos that the majority class has wrong; an interval over videos would let all three pass."""
    labels = np.array([0] * 20 + [1] * 20)
    teacher = np.where(np.arange(40) < 20 + gained, labels, 0)
    found = looked(labels, teacher, (np.arange(40) % 4).astype(str))
    assert found["leads"][MAJORITY]["low"] > 0
    assert found["weak"] is weak
    assert not looked(labels, teacher)["weak"], "independent videos need no margin"


@pytest.mark.parametrize("count", [3, 4, 5])
def test_lots_drawn_per_scene_seldom_pass(count: int) -> None:
    """The hardest case: a scene has one class, and a teacher that knows nothing says one thing of all its videos."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(count), 40)
    drawn = rng.integers(0, 2, (400, count))
    passed = [not looked(groups % 2, one[groups], groups.astype(str))["weak"] for one in drawn]
    assert np.mean(passed) == pytest.approx(0.5**count, abs=0.04), "those that are right in every scene"


def test_two_classes_and_five_videos_cannot_tell_even_a_perfect_teacher() -> None:
    labels = np.array([0, 1, 0, 1, 0])
    found = looked(labels, labels.copy())
    assert found["weak"]
    assert not found["decidable"]
    assert "even a teacher without a mistake" in verdict(found)
    assert looked(np.array([1]), np.array([1]))["weak"]


def test_one_class_in_validation_is_no_ground_for_a_teacher() -> None:
    labels = np.zeros(40, np.int64)
    found = looked(labels, labels.copy())
    assert (found["weak"], found["decidable"]) == (True, False)


def test_a_better_probe_is_told_with_whether_it_can_be_told_apart() -> None:
    labels = np.arange(80) % CLASSES
    near = looked(labels, with_accuracy(labels, 60), **{PROBE: with_accuracy(labels, 62)})
    (text,) = warnings(near)
    assert "(77.5 % against 75.0 %), not distinguishable on 80 validation videos" in text
    far = looked(labels, with_accuracy(labels, 40), **{PROBE: with_accuracy(labels, 76)})
    assert "), distinguishable on 80" in warnings(far)[0]
    assert warnings(looked(labels, with_accuracy(labels, 62), **{PROBE: with_accuracy(labels, 60)})) == []


def test_file_facts_warn_where_they_do_not_stay_behind() -> None:
    labels = np.arange(80) % CLASSES
    for facts, said in ((76, "are better than the teacher"), (60, "are as good as the teacher")):
        (text,) = warnings(looked(labels, with_accuracy(labels, 60), **{FILES: with_accuracy(labels, facts)}))
        assert said in text
    assert warnings(looked(labels, with_accuracy(labels, 60), **{FILES: with_accuracy(labels, 59)})) == []
    # Two that know nothing are no sign of how files were made.
    assert warnings(looked(labels, with_accuracy(labels, 20), **{FILES: with_accuracy(labels, 20)})) == []


def test_the_majority_class_leaves_out_what_has_no_label() -> None:
    assert majority_class(np.array([-1, -1, -1, 2, 2, 1])) == 2
    assert majority_class(np.array([3, 1, 3, 1])) == 1


def facts(count: int, seed: int) -> np.ndarray:
    """(N, F) facts of files that differ in bytes and frames alone."""
    rng = np.random.default_rng(seed)
    fixed = np.tile([320.0, 240.0, 0.0, 0.0, 25.0], (count, 1))
    fixed[:, 2], fixed[:, 3] = rng.integers(20, 60, count), rng.lognormal(10, 1, count)
    return fixed


def test_a_class_that_is_a_resolution_is_found_without_a_pixel() -> None:
    labels = np.arange(120) % 2
    training, asked = facts(120, 0), facts(60, 1)
    training[:, 0] = np.where(labels == 1, 640, 320)
    wanted = np.arange(60) % 2
    asked[:, 0] = np.where(wanted == 1, 640, 320)
    found = file_facts.guess(training, labels, alone(120), asked, classes=2)
    assert (found.predicted == wanted).mean() > 0.95
    assert found.columns == ("width", "frames", "bytes")
    assert "leave-group-out on training" in found.chosen_by


def test_facts_that_say_nothing_are_near_chance() -> None:
    rng = np.random.default_rng(5)
    labels, wanted = rng.integers(0, 4, 200), rng.integers(0, 4, 400)
    found = file_facts.guess(facts(200, 0), labels, alone(200), facts(400, 1), classes=4)
    assert 0.15 < (found.predicted == wanted).mean() < 0.35


def test_k_is_chosen_with_the_own_group_left_out() -> None:
    """Scenes of four equal files with labels of their own: with the own group k = 1 would look perfect."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 4)
    labels = np.where(groups < 28, 0, 1)
    training = np.repeat(facts(40, 2), 4, axis=0)
    found = file_facts.guess(
        training, labels, groups.astype(str), training + rng.normal(0, 1e-3, training.shape), classes=2
    )
    assert float(found.chosen_by.split(", ")[1].split(" %")[0]) < 80.0


def test_files_that_are_all_alike_and_headers_that_are_silent() -> None:
    labels = np.array([0, 1, 1, 1, 0, 1])
    alike = np.tile([320.0, 240.0, 30.0, 1000.0, 25.0], (6, 1))
    found = file_facts.guess(alike, labels, alone(6), alike[:2], classes=2)
    assert (found.columns, found.predicted.tolist()) == ((), [1, 1])
    silent = alike.copy()
    silent[labels == 0, 4] = np.nan
    found = file_facts.guess(silent, labels, alone(6), silent, classes=2)
    assert "no fps" in found.columns
    one_group = file_facts.guess(silent, labels, np.full(6, "g"), silent[:1], classes=2)
    assert (one_group.neighbours, one_group.chosen_by) == (5, "fixed: one group of training videos")
