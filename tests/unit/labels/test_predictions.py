import numpy as np
import pytest
from scipy.special import softmax

from pipeline.errors import InputError
from pipeline.labels import predictions
from pipeline.labels.predictions import FoldPrediction, OutOfFold, Rows, Validation, mean_probability


def logits_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_gather_puts_every_row_back_to_its_video() -> None:
    table = logits_of(5, 2, 3)
    parts = [
        FoldPrediction(rows=np.array([4, 0]), logits=table[[4, 0]], trained_on=np.array([1, 2, 3])),
        FoldPrediction(rows=np.array([1, 3, 2]), logits=table[[1, 3, 2]], trained_on=np.array([0, 4])),
    ]
    whole = OutOfFold.gather(parts, 5)
    assert np.array_equal(whole.logits, table)
    assert whole.model.tolist() == [0, 1, 1, 1, 0]
    assert whole.num_classes == 3


def test_a_row_of_a_model_that_saw_the_video_is_refused() -> None:
    parts = [
        FoldPrediction(np.array([0, 1]), logits_of(2, 1, 3), np.array([1, 2, 3])),
        FoldPrediction(np.array([2, 3]), logits_of(2, 1, 3), np.array([0, 1])),
    ]
    with pytest.raises(InputError, match=r"1 videos \(first position 1\) were predicted by a model that was trained"):
        OutOfFold.gather(parts, 4)


def test_in_sample_logits_cannot_pass_as_out_of_fold() -> None:
    everything = np.ones((1, 4), dtype=bool)
    with pytest.raises(InputError, match="4 videos"):
        OutOfFold(logits_of(4, 1, 3), np.zeros(4, dtype=int), everything)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_a_video_without_a_prediction_or_with_two_is_refused(rows: list[int]) -> None:
    part = FoldPrediction(np.array(rows), logits_of(len(rows), 1, 3), np.array([], dtype=int))
    with pytest.raises(InputError, match="each of the 3 training videos once"):
        OutOfFold.gather([part], 3)


def test_a_given_teacher_that_saw_no_label_needs_no_folds() -> None:
    whole = OutOfFold.unseen(logits_of(4, 2, 3))
    assert not whole.trained_on.any()
    assert whole.model.tolist() == [0, 0, 0, 0]


def test_values_that_are_not_finite_are_refused() -> None:
    logits = logits_of(4, 2, 3)
    logits[1, 1, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        OutOfFold.unseen(logits)
    with pytest.raises(InputError, match="validation logits"):
        Validation(logits[None], np.zeros(4, dtype=int), trusted=True)


def test_mean_probability_is_the_mean_of_the_views_at_a_temperature_in_whatever_chunks(monkeypatch) -> None:
    logits, labels = logits_of(7, 3, 4), np.array([0, 1, 2, 3, 0, 1, 2])
    expected = softmax(logits.astype(np.float64) / 0.5, axis=2).mean(axis=1)
    monkeypatch.setattr(predictions, "CHUNK", 3)
    rows = Rows(logits, labels)
    np.testing.assert_allclose(mean_probability(logits, 0.5), expected, rtol=1e-12)
    np.testing.assert_allclose(rows.log_probability(0.5), np.log(expected), rtol=1e-12)
    np.testing.assert_allclose(rows.label_probability(0.5), expected[np.arange(7), labels], rtol=1e-12)


def test_values_are_kept_per_temperature() -> None:
    rows = Rows(logits_of(3, 1, 4), np.array([0, 1, 2]))
    first = rows.log_probability(1.0)
    assert rows.log_probability(1.0) is first
    assert not np.allclose(rows.log_probability(2.0), first)
    np.testing.assert_array_equal(rows.log_probability(1.0), first)
    assert rows.label_probability(1.0) is rows.label_probability(1.0)


def test_no_probability_falls_below_the_floor() -> None:
    logits = np.array([[[0.0, 1e4]]])
    assert mean_probability(logits).tolist() == [[1e-8, 1.0]]
    assert Rows(logits, np.array([0])).label_probability(1.0).tolist() == [1e-8]


def test_validation_is_a_read_only_copy() -> None:
    logits, labels = logits_of(2, 4, 1, 3), np.array([0, 1, 2, 0])
    validation = Validation(logits, labels, trusted=True)
    labels[0] = 2
    assert validation.labels.tolist() == [0, 1, 2, 0]
    assert validation.group_of.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        validation.labels[0] = 1


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1, -1], [0, 1]])
def test_validation_labels_must_fit(labels: list[int]) -> None:
    with pytest.raises(InputError, match="validation"):
        Validation(logits_of(1, 3, 1, 3), np.array(labels), trusted=True)
