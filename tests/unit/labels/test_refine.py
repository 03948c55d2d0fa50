import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError
from pipeline.labels.channel import RULES
from pipeline.labels.predictions import OutOfFold, Validation, mean_probability
from pipeline.labels.refine import Refined, align_classes, refine, soft_match_weights, start_labels
from tests.unit.labels.simulated import STRONG, WEAK, World, nobody, simulate, symmetric

WORLD = simulate(7, STRONG, videos=240, held_out=60, classes=6)
NOISY = symmetric(WORLD.clean, 0.3, 6, 7)
PARTLY = np.where(np.arange(240) % 4 == 0, -1, NOISY)


def refined(channel: str, labels: np.ndarray = NOISY, world: World = WORLD, **more: Any) -> Refined:
    settled = {"num_classes": 6, "protected": nobody(labels), "validation": world.validation, "seed": 0} | more
    return refine(world.logits, labels, channel=channel, **settled)


def assert_same(one: Refined, two: Refined) -> None:
    assert one.report == two.report
    for name in ("q", "weight", "flipped", "predicted"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@given(st.integers(0, 10**6), st.sampled_from(RULES), st.integers(2, 5), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_rows_lie_on_the_simplex_and_weights_in_0_to_1(seed: int, channel: str, classes: int, views: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 10 ** generator.uniform(-2, 2), size=(20, views, classes))
    labels = generator.integers(-1, classes, size=20)
    kept = (generator.random(20) < 0.2) & (labels >= 0)
    result = refine(OutOfFold.unseen(logits), labels, num_classes=classes, channel=channel, protected=kept, seed=seed)
    assert result.q.min() >= 0
    np.testing.assert_allclose(result.q.sum(axis=1), 1, atol=1e-5)
    assert 0 <= result.weight.min() <= result.weight.max() <= 1
    assert (result.weight[labels >= 0] == 1).all()


@given(st.integers(0, 10**6), st.sampled_from(RULES), st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_renaming_the_classes_renames_q(seed: int, channel: str, order: list[int]) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 2, size=(40, 2, 5)), generator.integers(-1, 5, size=40)
    kept, renamed = labels == 0, np.append(order, -1)  # class c becomes order[c]; -1 stays
    moved = np.empty_like(logits)
    moved[..., order] = logits
    common = {"num_classes": 5, "channel": channel, "protected": kept, "seed": 0}
    before = refine(OutOfFold.unseen(logits), labels, **common)
    after = refine(OutOfFold.unseen(moved), renamed[labels], **common)
    np.testing.assert_allclose(after.q[:, order], before.q, atol=2e-5)
    np.testing.assert_allclose(after.weight, before.weight, atol=2e-5)


def test_renaming_the_classes_does_not_change_what_auto_chooses() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])

    def moved(values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        out[..., order] = values
        return out

    held = Validation(moved(WORLD.validation.logits), order[WORLD.validation.labels], trusted=True)
    logits = OutOfFold(moved(WORLD.logits.logits), WORLD.logits.model, WORLD.logits.trained_on)
    before = refined("auto")
    after = refined("auto", order[NOISY], World(order[WORLD.clean], logits, WORLD.folds, held))
    assert before.report["choice"] == after.report["choice"] != "none"
    np.testing.assert_allclose(after.q[:, order], before.q, atol=1e-5)
    pairs = zip(before.report["self_test"]["table"], after.report["self_test"]["table"], strict=True)
    assert all(one["d"] == pytest.approx(two["d"]) for one, two in pairs)


def test_none_changes_nothing_exactly() -> None:
    result = refined("none", PARTLY)
    labelled = PARTLY >= 0
    assert np.array_equal(result.q[labelled], np.eye(6, dtype=np.float32)[PARTLY[labelled]])
    assert np.array_equal(result.weight, labelled.astype(np.float32))
    assert not result.flipped.any()
    assert result.report["flips"] == 0
    assert (result.channel, result.rate, result.temperature) == (None, None, None)
    assert np.array_equal(result.predicted, mean_probability(WORLD.logits.logits).argmax(axis=1))


def test_auto_that_finds_no_proof_is_none_exactly() -> None:
    world = simulate(0, WEAK)
    result = refine(
        world.logits, world.clean, num_classes=12, channel="auto", protected=nobody(world.clean),
        validation=world.validation, seed=0,
    )  # fmt: skip
    assert result.report["choice"] == "none"
    assert np.array_equal(result.q, np.eye(12, dtype=np.float32)[world.clean])
    assert result.report["self_test"]["rate"] is not None


def test_untrusted_validation_gives_none_under_auto_with_the_reason() -> None:
    held = Validation(WORLD.validation.logits, WORLD.validation.labels, trusted=False)
    result = refined("auto", validation=held)
    assert (result.report["choice"], result.report["flips"]) == ("none", 0)
    assert "no trusted validation" in result.report["reason"]


@pytest.mark.parametrize("channel", ["auto", "scalar", "full", "mix"])
def test_one_group_has_no_out_of_fold_predictions_and_gives_none(channel: str) -> None:
    result = refine(None, PARTLY, num_classes=6, channel=channel, protected=nobody(PARTLY), seed=0)
    assert result.report["choice"] == "none"
    assert "one group" in result.report["reason"]
    assert np.array_equal(result.q[1], np.eye(6)[PARTLY[1]])
    assert (result.predicted == -1).all()


@pytest.mark.parametrize("channel", RULES)
def test_protected_videos_keep_their_smoothed_label(channel: str) -> None:
    wrong = WORLD.clean != NOISY
    result = refined(channel, protected=wrong)
    assert np.array_equal(result.q[wrong], start_labels(NOISY, 6)[wrong].astype(np.float32))
    assert not result.flipped[wrong].any()
    assert (result.weight == 1).all()
    assert result.report["protected"] == wrong.sum()


def test_nothing_free_to_change_gives_none() -> None:
    result = refined("scalar", protected=np.ones(240, dtype=bool))
    assert result.report["choice"] == "none"
    assert "protected or missing" in result.report["reason"]


def test_start_labels_are_one_hot_or_smoothed_by_a_twentieth() -> None:
    labels = np.array([1, -1])
    assert start_labels(labels, 4, smoothing=0.0).tolist() == [[0, 1, 0, 0], [0.25] * 4]
    np.testing.assert_allclose(start_labels(labels, 4), [[0.0125, 0.9625, 0.0125, 0.0125], [0.25] * 4])


def test_unlabelled_videos_get_the_aligned_prediction_and_its_softmatch_weight() -> None:
    result = refined("scalar", PARTLY)
    unlabelled = PARTLY < 0
    p = mean_probability(WORLD.logits.logits, result.temperature)
    reference = (np.bincount(PARTLY[~unlabelled], minlength=6) + 1) / ((~unlabelled).sum() + 6)
    aligned = p[unlabelled] * reference / p.mean(axis=0)
    aligned /= aligned.sum(axis=1, keepdims=True)
    confidence = aligned.max(axis=1)
    mean, variance = confidence.mean(), confidence.var(ddof=1)
    expected = [np.exp(-(min(c - mean, 0) ** 2) / (2 * (variance + 1e-8) / 4)) for c in confidence]
    np.testing.assert_allclose(result.q[unlabelled], aligned, rtol=1e-5)
    np.testing.assert_allclose(result.weight[unlabelled], expected, rtol=1e-5)
    assert not result.flipped[unlabelled].any()
    assert result.report["unlabelled"] == 60


def test_unlabelled_videos_do_not_move_the_channel() -> None:
    labelled = PARTLY >= 0
    alone = refine(
        OutOfFold.unseen(WORLD.logits.logits[labelled]), PARTLY[labelled], num_classes=6, channel="full",
        protected=nobody(PARTLY[labelled]), validation=WORLD.validation, seed=0,
    )  # fmt: skip
    np.testing.assert_array_equal(alone.channel, refined("full", PARTLY).channel)


def test_alignment_has_a_floor_and_softmatch_a_single_video() -> None:
    aligned = align_classes(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(aligned, [[0.25 / (0.25 + 500), 500 / (0.25 + 500)]])
    assert soft_match_weights(np.array([0.3])).tolist() == [1.0]
    np.testing.assert_allclose(soft_match_weights(np.array([0.2, 0.6])), [np.exp(-1.0), 1.0], rtol=1e-5)


@pytest.mark.parametrize("channel", ["auto", "full", "mix"])
def test_the_same_seed_gives_the_same_labels_and_no_input_is_written(channel: str) -> None:
    kept = [array.copy() for array in (WORLD.logits.logits, NOISY, WORLD.validation.logits, WORLD.validation.labels)]
    first = refined(channel, clean=WORLD.clean)
    np.random.default_rng().random()
    assert_same(first, refined(channel, clean=WORLD.clean))
    now = (WORLD.logits.logits, NOISY, WORLD.validation.logits, WORLD.validation.labels)
    assert all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True))
    assert len(first.q) == len(NOISY)


def test_predicted_is_the_labellers_opinion_at_the_temperature_of_the_channel() -> None:
    """One sure view against two doubting ones: the doubters win at τ = 1, the sure one at τ = 8."""
    views = np.tile([[6.0, 0.0], [0.0, 2.0], [0.0, 2.0]], (50, 1, 1))
    wild = np.random.default_rng(0).normal(0, 100, size=(1, 50, 1, 2))
    held = Validation(wild, np.arange(50) % 2, trusted=True)
    labels = np.arange(50) % 2
    common = {"num_classes": 2, "protected": nobody(labels), "validation": held, "seed": 0}
    mixed = refine(OutOfFold.unseen(views), labels, channel="mix", **common)
    assert mixed.temperature == pytest.approx(8.0)
    assert (mixed.predicted == 0).all()
    assert (refine(OutOfFold.unseen(views), labels, channel="none", **common).predicted == 1).all()


def test_another_seed_draws_other_noise() -> None:
    tables = [refined("auto", seed=seed).report["self_test"]["table"] for seed in (0, 1)]
    assert tables[0] != tables[1]


def test_types_are_those_of_the_labels_table() -> None:
    result = refined("scalar")
    assert [getattr(result, n).dtype.name for n in ("q", "weight", "flipped", "predicted")] == [
        "float32", "float32", "bool", "int32",
    ]  # fmt: skip


def test_the_report_is_json_and_agrees_with_the_rows() -> None:
    result = refined("auto", clean=WORLD.clean)
    report = json.loads(json.dumps(result.report, allow_nan=False))
    flips = result.q.argmax(axis=1) != NOISY
    assert report["choice"] in RULES
    assert np.array_equal(result.flipped, flips)
    assert report["flips"] == flips.sum() == sum(report["flips_per_class"]["from"])
    assert report["flips_per_class"]["to"] == np.bincount(result.q.argmax(axis=1)[flips], minlength=6).tolist()
    assert report["labels"]["accuracy_before"] == pytest.approx((WORLD.clean == NOISY).mean())
    assert report["labels"]["accuracy_after"] == pytest.approx((result.q.argmax(axis=1) == WORLD.clean).mean())
    assert np.allclose(np.sum(report["channel"], axis=1), 1)
    assert report["rate"] == pytest.approx(0.3, abs=0.1)


def test_where_the_temperature_comes_from_is_reported() -> None:
    scalar = refined("scalar")
    assert "given labels" in scalar.report["temperature_from"]
    assert "validation" in refined("full").report["temperature_from"]
    unproven = refined("full", validation=None)
    assert unproven.temperature == scalar.temperature
    assert "given labels" in unproven.report["temperature_from"]


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"labels\.channel: 'best' is none of auto, scalar, full, mix, none"):
        refined("best")
    with pytest.raises(InputError, match="given labels must lie in"):
        refined("none", np.where(NOISY == 0, 6, NOISY))
    with pytest.raises(InputError, match="do not fit 239 videos"):
        refined("none", NOISY[1:])
    with pytest.raises(InputError, match="one bool"):
        refined("none", protected=np.zeros(3, dtype=bool))
    with pytest.raises(InputError, match="validation logits have 12 classes"):
        refined("full", validation=simulate(0, STRONG, videos=30, held_out=10).validation)
    with pytest.raises(InputError, match="clean labels"):
        refined("none", clean=WORLD.clean[1:])
