import json
import math

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.evaluation.metrics import (
    ECE_BINS,
    confusion,
    fit_temperature,
    gap_recovered,
    mean_metrics,
    scores,
    video_metrics,
    video_table,
)

CLASSES = ("run", "walk", "jump")


def _logits(*probabilities: list[float]) -> np.ndarray:
    return np.log(np.array(probabilities))


def _three_videos() -> dict:
    """v1 has two views that disagree, v2 one view, v3 no label."""
    ids = ["v2", "v1", "v3", "v1"]
    logits = _logits([0.2, 0.5, 0.3], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1])
    return {"video_ids": ids, "logits": logits, "labels": {"v1": 0, "v2": 2, "v3": None}}


def test_a_video_is_the_mean_softmax_of_its_views():
    table = video_table(**_three_videos())
    assert table.video_ids == ("v1", "v2")
    np.testing.assert_allclose(table.probabilities(), [[0.5, 0.4, 0.1], [0.2, 0.5, 0.3]], atol=1e-12)
    assert table.correct.tolist() == [True, False]
    assert table.unlabelled == 1


def test_metrics_by_hand():
    table = video_table(**_three_videos(), teacher_logits=_logits([0.1, 0.8, 0.1], *[[0.4, 0.5, 0.1]] * 3))
    found = video_metrics(table, CLASSES, quarantined=["v9"])
    assert (found["videos"], found["clips"], found["unlabelled_videos"], found["quarantined_videos"]) == (2, 3, 1, 1)
    assert found["top1"] == 0.5
    assert found["top1_quarantined_wrong"] == pytest.approx(1 / 3)
    assert found["top5"] is None  # three classes: always right
    assert found["clip"]["top5"] is None
    assert found["clip"]["top1_interval"]["low"] is None  # views of two videos: no spread to speak of
    assert found["nll"] == pytest.approx(-(math.log(0.5) + math.log(0.3)) / 2)
    assert found["clip"]["top1"] == pytest.approx(1 / 3)
    assert found["clip"]["nll"] == pytest.approx(-(math.log(0.7) + 2 * math.log(0.3)) / 3)
    assert found["agreement"] == 0.5  # the teacher says walk twice, the student run and walk
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert found["scaled"] is None
    assert found["top1_interval"]["method"] == "Wilson over 2 videos"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_ece_is_the_weighted_gap_of_fifteen_bins():
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet(np.full(6, 0.4), size=400)
    labels = generator.integers(6, size=400)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.ceil(confidence * ECE_BINS)
    expected = sum(
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    )
    assert scores(probabilities, labels)["ece"] == pytest.approx(expected, abs=1e-6)
    fifth = np.sort(probabilities, axis=1)[:, -5]
    in_five = probabilities[np.arange(400), labels] >= fifth
    assert scores(probabilities, labels)["top5"] == pytest.approx(in_five.mean())


def test_probabilities_a_rounding_above_one_are_still_probabilities():
    certain = np.array([[1.0 + 2e-16, 0.0], [0.0, 1.0 + 4e-16]])
    assert scores(certain, np.array([0, 1]))["ece"] == 0.0


def test_temperature_is_recovered_and_mends_calibration():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, (4000, 5))
    odds = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = [int(generator.choice(5, p=row)) for row in odds]
    ids = [f"v{i:04d}" for i in range(4000)]
    table = video_table(ids, truth * 3, dict(zip(ids, labels, strict=True)))
    temperature = fit_temperature(table)
    assert temperature == pytest.approx(3.0, rel=0.08)
    found = video_metrics(table, list("abcde"), temperature=temperature)
    assert found["scaled"]["temperature"] == temperature
    assert found["scaled"]["ece"] < 0.03 < 0.1 < found["ece"]
    assert found["scaled"]["nll"] < found["nll"] - 0.2


def test_confusion_rows_are_labels():
    counts = confusion(np.eye(3)[[0, 1, 1, 2]], np.array([0, 0, 1, 2]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_groups_reach_the_interval():
    ids = [f"v{i:02d}" for i in range(16)]
    labels = {name: i % 2 for i, name in enumerate(ids)}
    groups = {name: f"g{i // 2}" for i, name in enumerate(ids)}
    logits = np.eye(2)[[0, 1, 1, 1, 0, 0, 0, 1] * 2]
    found = video_metrics(video_table(ids, logits, labels, groups=groups), ["a", "b"])
    for interval in (found["top1_interval"], found["clip"]["top1_interval"]):
        assert interval["method"] == "t over 8 groups"
        assert interval["low"] < found["top1"] < interval["high"]


def test_replicates_have_mean_figures_and_summed_counts():
    table = video_table(**_three_videos())
    other = video_table(**_three_videos() | {"logits": _logits(*[[0.1, 0.2, 0.7]] * 4)})
    runs = [video_metrics(run, CLASSES) for run in (table, other)]
    found = mean_metrics(runs)
    assert found["top1"] == np.mean([run["top1"] for run in runs])
    assert found["clip"]["nll"] == np.mean([run["clip"]["nll"] for run in runs])
    assert (found["videos"], found["top5"], found["scaled"]) == (2, None, None)
    assert found["confusion"] == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_gap_recovered():
    assert gap_recovered(0.956, 0.929, 0.870) == pytest.approx(0.059 / 0.086)
    assert gap_recovered(0.8, 0.9, 0.8) is None


def test_input_errors_name_the_video_or_the_lack():
    case = _three_videos()
    with pytest.raises(InputError, match="'v3' has logits but is not in the manifest"):
        video_table(case["video_ids"], case["logits"], {"v1": 0, "v2": 2})
    with pytest.raises(InputError, match="none of 3 videos has a label"):
        video_table(case["video_ids"], case["logits"], {"v1": None, "v2": -1, "v3": None})


def test_a_video_is_not_both_scored_and_quarantined():
    with pytest.raises(AssertionError):
        video_metrics(video_table(**_three_videos()), CLASSES, quarantined=["v1"])
