import numpy as np
import pytest
from scipy.special import softmax

from pipeline.labels.channel import (
    fit,
    fit_full,
    fit_scalar,
    posteriors,
    scalar_matrix,
    soft_labels,
    validation_temperature,
)
from pipeline.labels.predictions import Rows, Validation
from tests.unit.labels.simulated import symmetric


def calibrated(seed: int, *, videos: int, classes: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 1, C) and labels drawn from their softmax at this temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3 * temperature, size=(videos, 1, classes))
    cumulative = softmax(logits[:, 0] / temperature, axis=1).cumsum(axis=1)
    labels = (generator.random((videos, 1)) > cumulative).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


def naive_full(logits: np.ndarray, given: np.ndarray, temperature: float) -> np.ndarray:
    """The EM of the design, entry by entry."""
    count, classes = len(given), logits.shape[2]
    prior = np.maximum(softmax(logits / temperature, axis=2).mean(axis=1), 1e-8)
    channel = np.full((classes, classes), 0.2 / (classes - 1))
    np.fill_diagonal(channel, 0.8)
    for _ in range(40):
        new = np.full((classes, classes), 2 / (classes - 1))
        np.fill_diagonal(new, 5.0)
        for i in range(count):
            weights = [prior[i, c] * channel[c, given[i]] for c in range(classes)]
            for c in range(classes):
                new[c, given[i]] += weights[c] / sum(weights)
        channel = new / new.sum(axis=1, keepdims=True)
    return channel


def scalar_likelihood(logits: np.ndarray, given: np.ndarray, rate: float, temperature: float) -> float:
    classes = logits.shape[2]
    own = softmax(logits / temperature, axis=2).mean(axis=1)[np.arange(len(given)), given]
    return float(np.log((1 - rate) * own + rate / (classes - 1) * (1 - own)).sum())


@pytest.mark.parametrize(("rate", "temperature"), [(0.0, 1.0), (0.2, 2.5), (0.4, 0.5)])
def test_scalar_recovers_rate_and_temperature_together(rate: float, temperature: float) -> None:
    logits, truth = calibrated(0, videos=6000, classes=8, temperature=temperature)
    fitted = fit_scalar([Rows(logits, symmetric(truth, rate, 8, 1))])
    assert fitted.rate == pytest.approx(rate, abs=0.025)
    assert fitted.temperature == pytest.approx(temperature, rel=0.1)
    np.testing.assert_allclose(fitted.matrix, scalar_matrix(fitted.rate, 8))


def test_scalar_maximises_the_marginal_likelihood_over_a_dense_grid() -> None:
    logits, truth = calibrated(3, videos=300, classes=5, temperature=1.7)
    given = symmetric(truth, 0.3, 5, 2)
    fitted = fit_scalar([Rows(logits, given)])
    grid = [scalar_likelihood(logits, given, r, t) for r in np.linspace(0, 0.8, 41) for t in np.geomspace(0.2, 8, 60)]
    assert scalar_likelihood(logits, given, fitted.rate, fitted.temperature) >= max(grid) - 0.01


def test_a_scalar_rate_never_passes_pure_chance() -> None:
    logits = np.tile([[0.0, 6.0]], (50, 1))[:, None]
    assert fit_scalar([Rows(logits, np.zeros(50, dtype=int))]).rate <= 0.5


def test_labels_of_pure_chance_leave_the_temperature_at_one() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 1, 4))
    against = logits[:, 0].argmin(axis=1)  # labels that contradict the labeller say nothing of its temperature
    fitted = fit_scalar([Rows(logits, against)])
    assert fitted.rate == pytest.approx(0.75)
    assert fitted.temperature == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("videos", "temperature"), [(60, 1.3), (400, 4.0)])
def test_full_equals_the_plain_loops(videos: int, temperature: float) -> None:
    """At τ = 4 the rounds have not converged, so that their number and the start are seen."""
    logits, truth = calibrated(1, videos=videos, classes=4, temperature=1.0)
    given = symmetric(truth, 0.3, 4, 5)
    fitted = fit_full([Rows(logits, given)], temperature=temperature)
    np.testing.assert_allclose(fitted.matrix, naive_full(logits, given, temperature), rtol=1e-9)


def test_rows_in_two_parts_fit_as_one_table() -> None:
    logits, given = calibrated(2, videos=80, classes=4, temperature=1.0)
    whole, parts = [Rows(logits, given)], [Rows(logits[:50], given[:50]), Rows(logits[50:], given[50:])]
    for name in ("scalar", "full"):
        one, two = fit(name, whole, temperature=1.0), fit(name, parts, temperature=1.0)
        np.testing.assert_allclose(one.matrix, two.matrix, rtol=1e-9)
        assert one.rate == pytest.approx(two.rate)


def test_full_finds_which_class_is_mistaken_for_which() -> None:
    logits, truth = calibrated(4, videos=8000, classes=5, temperature=1.0)
    flips = (np.random.default_rng(0).random(8000) < 0.35) & (truth == 2)
    fitted = fit_full([Rows(logits, np.where(flips, 4, truth))], temperature=1.0)
    assert fitted.matrix[2, 4] == pytest.approx(0.35, abs=0.05)
    assert fitted.matrix.diagonal()[[0, 1, 3, 4]].min() > 0.95
    assert fitted.rate == pytest.approx(flips.mean(), abs=0.01)


def test_posterior_is_bayes_rule() -> None:
    matrix = np.array([[0.9, 0.1], [0.4, 0.6]])
    q = posteriors(np.log([[0.3, 0.7]]), np.array([0]), matrix)
    np.testing.assert_allclose(q, [[0.27 / 0.55, 0.28 / 0.55]])


def test_without_noise_the_given_label_is_certain_even_against_the_floor() -> None:
    q = posteriors(np.log([[1.0, 1e-8, 1e-8]]), np.array([2]), scalar_matrix(0.0, 3))
    assert q.tolist() == [[0.0, 0.0, 1.0]]


def test_mix_is_the_weighted_mean_of_given_label_and_prediction() -> None:
    logits, given = calibrated(5, videos=20, classes=3, temperature=1.0)
    rows = Rows(logits, given)
    q = soft_labels(fit("mix", [rows], temperature=2.0, share=0.25), rows)
    expected = 0.75 * np.eye(3)[given] + 0.25 * softmax(logits[:, 0] / 2.0, axis=1)
    np.testing.assert_allclose(q, expected, atol=1e-7)


def test_validation_temperature_is_that_of_single_models() -> None:
    draws = [calibrated(seed, videos=2000, classes=6, temperature=3.0) for seed in range(2)]
    labels = draws[0][1]
    logits = np.stack([draws[0][0], draws[0][0]])
    assert validation_temperature(Validation(logits, labels, trusted=True)) == pytest.approx(3.0, rel=0.08)
    shuffled = np.stack([draws[0][0], draws[1][0]])  # the second model knows nothing: both must share one τ
    assert validation_temperature(Validation(shuffled, labels, trusted=True)) > 4.0
