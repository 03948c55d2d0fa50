from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.labels import selftest
from pipeline.labels.predictions import Rows, Validation
from pipeline.labels.refine import refine
from pipeline.labels.selftest import Options, Trial, choose, labeller_accuracy, noise_rate, standard_error
from tests.unit.labels.simulated import MIDDLING, STRONG, WEAK, Labeller, World, nobody, simulate, symmetric


def chosen(world: World, given: np.ndarray, validation: Validation | None, **more: Any) -> selftest.Choice:
    rows = Rows(world.logits.logits, given)
    return choose(rows, validation, **({"protected": nobody(given), "seed": 0} | more))


def first(validation: Validation, videos: int) -> Validation:
    return Validation(validation.logits[:, :videos], validation.labels[:videos], trusted=True)


def test_the_rate_follows_from_accuracy_and_agreement() -> None:
    assert noise_rate(0.8, 0.8, 11) == 0.0
    assert noise_rate(0.8, 0.9, 11) == 0.0
    assert noise_rate(0.8, 0.5, 11) == pytest.approx(0.3 / 0.78)
    assert noise_rate(0.8, 0.0, 11) == 0.9


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_estimated_rate_is_near_the_injected_one(rate: float) -> None:
    world = simulate(2, STRONG, videos=3000, held_out=2000)
    choice = chosen(world, symmetric(world.clean, rate, 12, 0), world.validation)
    assert choice.rate == pytest.approx(rate, abs=0.04)


def test_accuracy_is_that_of_single_models_not_of_their_mean() -> None:
    right, wrong = [[5.0, 0, 0]], [[0, 4.0, 0]]
    logits = np.array([[right] * 4, [wrong] * 4, [wrong] * 4])
    assert labeller_accuracy(Validation(logits, np.zeros(4, dtype=int), trusted=True)) == pytest.approx(1 / 3)


def test_standard_error_of_independent_videos_and_of_doubled_ones() -> None:
    values = np.random.default_rng(0).normal(size=50)
    single = values.std(ddof=1) / np.sqrt(50)
    assert standard_error(values, np.arange(50)) == pytest.approx(single)
    assert standard_error(np.repeat(values, 2), np.repeat(np.arange(50), 2)) == pytest.approx(single)
    assert standard_error(values, np.zeros(50)) == np.inf


def test_no_trusted_validation_gives_none_and_says_so() -> None:
    world = simulate(0, STRONG, videos=120, held_out=60)
    untrusted = Validation(world.validation.logits, world.validation.labels, trusted=False)
    for validation in (None, untrusted):
        choice = chosen(world, world.clean, validation)
        assert (choice.channel, choice.trials) == ("none", ())
        assert "no trusted validation" in choice.reason


def test_thirty_nine_validation_videos_are_too_few_and_forty_are_not() -> None:
    world = simulate(0, STRONG, videos=300, held_out=60)
    given = symmetric(world.clean, 0.4, 12, 0)
    few = chosen(world, given, first(world.validation, 39))
    assert (few.channel, few.reason) == ("none", "39 validation videos, fewer than 40")
    assert chosen(world, given, first(world.validation, 40)).trials


def test_a_labeller_at_twice_chance_is_refused() -> None:
    world = simulate(0, STRONG, videos=120, held_out=60, classes=6)
    labels, logits = world.validation.labels, np.full((3, 60, 1, 6), 0.0)
    truth = np.where(np.arange(60) < 20, labels, (labels + 1) % 6)
    logits[:, np.arange(60), 0, truth] = 4.0
    choice = chosen(world, world.clean, Validation(logits, labels, trusted=True))
    assert choice.accuracy == pytest.approx(2 / 6)
    assert (choice.channel, choice.trials) == ("none", ())
    assert "not more than 2/C = 33.3%" in choice.reason


def test_a_strong_labeller_proves_a_channel_on_noisy_labels() -> None:
    world = simulate(0, STRONG)
    choice = chosen(world, symmetric(world.clean, 0.4, 12, 0), world.validation)
    assert choice.channel in ("scalar", "full")
    assert [(t.candidate, t.shape) for t in choice.trials] == [
        ("scalar", "uniform"), ("scalar", "full"), ("full", "uniform"), ("full", "full"),
    ]  # fmt: skip
    assert min(t.d for t in choice.trials) > 0.2
    facts = choice.facts()
    assert facts["table"][0] == {
        "candidate": "scalar", "shape": "uniform", "d": choice.trials[0].d, "se": choice.trials[0].se,
        "lower": choice.trials[0].d - 1.645 * choice.trials[0].se,
    }  # fmt: skip


def test_a_weak_labeller_proves_nothing_on_clean_labels() -> None:
    world = simulate(0, WEAK)
    choice = chosen(world, world.clean, world.validation)
    assert choice.channel == "none"
    assert min(t.d for t in choice.trials if t.candidate == "full") < -0.2
    assert "no channel surely gains" in choice.reason


def test_the_candidates_meet_the_same_corrupted_labels() -> None:
    world = simulate(1, MIDDLING)
    given = symmetric(world.clean, 0.3, 12, 0)
    twice = chosen(world, given, world.validation, options=Options(candidates=("full", "scalar", "full")))
    once = chosen(world, given, world.validation, options=Options(candidates=("full",)))
    assert twice.trials[:2] == twice.trials[4:] == once.trials


def test_one_fold_model_speaks_in_each_draw_and_they_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    world, speakers = simulate(1, STRONG, videos=150, held_out=50), []
    original = selftest.soft_labels

    def watched(channel: Any, rows: Rows) -> np.ndarray:
        match = [np.array_equal(rows.logits, logits) for logits in world.validation.logits]
        speakers.append(match.index(True))
        return original(channel, rows)

    monkeypatch.setattr(selftest, "soft_labels", watched)
    options = Options(candidates=("scalar",), draws=4)
    chosen(world, symmetric(world.clean, 0.3, 12, 0), world.validation, options=options)
    assert speakers == [0, 1, 2, 0] * 2


def test_labels_are_corrupted_at_the_rate_and_with_the_shape() -> None:
    shape = np.array([[0, 0.8, 0.2], [0.5, 0, 0.5], [1.0, 0, 0]])
    matrix, truth = 0.7 * np.eye(3) + 0.3 * shape, np.repeat([0, 1, 2], 20000)
    noisy = selftest._corrupt(truth, matrix, np.array([2, 0, 1]), np.random.default_rng(0))
    counts = np.array([np.bincount(noisy[truth == label], minlength=3) for label in range(3)])
    np.testing.assert_allclose(counts / 20000, matrix, atol=0.015)


def test_the_worse_shape_counts_and_the_highest_of_the_sure_ones_wins() -> None:
    scalar = [Trial("scalar", "uniform", 0.30, 0.01), Trial("scalar", "full", 0.05, 0.01)]
    full = [Trial("full", "uniform", 0.06, 0.01), Trial("full", "full", 0.40, 0.01)]
    unsure = [Trial("mix", "uniform", 0.50, 0.01), Trial("mix", "full", 0.10, 0.07)]
    assert selftest._verdict(scalar + full + unsure, ("scalar", "full", "mix"))[0] == "full"
    assert selftest._verdict(unsure, ("mix",))[0] == "none"
    assert selftest._verdict([Trial("full", "uniform", 0.0, 0.0)], ("full",))[0] == "none"


def test_groups_widen_the_standard_error() -> None:
    world = simulate(0, STRONG, videos=300, held_out=60)
    held, given = world.validation, symmetric(world.clean, 0.4, 12, 0)
    grouped = Validation(held.logits, held.labels, trusted=True, groups=np.arange(60) // 59)
    loose, tight = chosen(world, given, grouped), chosen(world, given, held)
    assert [t.d for t in loose.trials] == [t.d for t in tight.trials]
    assert all(a.se != b.se for a, b in zip(loose.trials, tight.trials, strict=True))
    one_group = Validation(held.logits, held.labels, trusted=True, groups=np.zeros(60))
    assert chosen(world, given, one_group).channel == "none"


def test_protected_videos_stay_out_of_the_fits() -> None:
    world = simulate(3, STRONG, videos=300, held_out=60)
    given = symmetric(world.clean, 0.4, 12, 0)
    kept = np.arange(300) < 60
    some = chosen(world, given, world.validation, protected=kept)
    assert some.agreement == chosen(world, given, world.validation).agreement
    rows = Rows(world.logits.logits[~kept], given[~kept])
    fewer = choose(rows, world.validation, protected=nobody(given[~kept]), seed=0)
    assert fewer.agreement != some.agreement
    assert some.trials != chosen(world, given, world.validation).trials


@pytest.mark.parametrize("wrong", [{"draws": 3}, {"candidates": ("best",)}, {"candidates": ()}, {"share": 0.0}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="labels"):
        Options(**wrong)


def two_classes(gain: float, seed: int = 3) -> World:
    return simulate(seed, Labeller(gain=gain), videos=600, held_out=300, classes=2)


def test_of_two_classes_a_strong_labeller_chooses_a_channel_that_helps() -> None:
    world = two_classes(2.5)
    given = symmetric(world.clean, 0.3, 2, 1)
    choice = chosen(world, given, world.validation)
    assert choice.channel in ("scalar", "full")
    refined = refine(
        world.logits,
        given,
        num_classes=2,
        channel=choice.channel,
        protected=nobody(given),
        validation=world.validation,
        seed=0,
    )
    before, after = (given == world.clean).mean(), (refined.q.argmax(1) == world.clean).mean()
    assert after > before + 0.15


def test_of_two_classes_clean_labels_stay_and_a_labeller_at_chance_decides_nothing() -> None:
    strong = two_classes(2.5)
    assert chosen(strong, strong.clean, strong.validation).channel == "none"
    blind = two_classes(0.0)
    choice = chosen(blind, symmetric(blind.clean, 0.3, 2, 1), blind.validation)
    assert (choice.channel, choice.trials) == ("none", ())
    assert "not surely above chance" in choice.reason


def test_of_few_classes_chance_is_judged_by_groups() -> None:
    """60 % of 50 videos of one scene is one lucky scene."""
    world = two_classes(2.5)
    labels = np.zeros(100, dtype=int)
    right = np.arange(100) < 60
    logits = np.where(right[:, None], [[3.0, 0.0]], [[0.0, 3.0]])[None, :, None, :]
    alone = Validation(logits, labels, trusted=True)
    scenes = Validation(logits, labels, trusted=True, groups=np.arange(100) // 50)
    assert "not surely above chance" not in chosen(world, world.clean, alone).reason
    assert "not surely above chance" in chosen(world, world.clean, scenes).reason


def test_few_groups_need_the_t_interval() -> None:
    """Three scenes of 60, 65 and 82 % right: 1.96 standard errors end above chance, the t interval does not."""
    labels = np.zeros(120, dtype=int)
    hits = np.concatenate([np.arange(40) < count for count in (24, 26, 33)])
    logits = np.where(hits[:, None], [[3.0, 0.0]], [[0.0, 3.0]])[None, :, None, :]
    scenes = Validation(logits, labels, trusted=True, groups=np.arange(120) // 40)
    error = standard_error(hits.astype(float), scenes.group_of)
    assert hits.mean() - 1.96 * error > 0.5
    assert "not surely above chance" in selftest._weak(float(hits.mean()), scenes, 2)
    one = Validation(logits, labels, trusted=True, groups=np.zeros(120))
    assert "all videos are of one group" in selftest._weak(float(hits.mean()), one, 2)


def test_another_view_policy_alone_passes_for_noise() -> None:
    """Labellers that do 7 points better in the views of validation make the rule believe in noise on clean labels, and
    sometimes choose a channel; in the same views they never do."""
    found = {"same": 0, "other": 0}
    rates = []
    for seed in range(6):
        world = simulate(seed, Labeller(gain=1.8), videos=900, held_out=400)
        easier = simulate(seed, Labeller(gain=2.2), videos=900, held_out=400).validation
        for name, validation in (("same", world.validation), ("other", easier)):
            choice = chosen(world, world.clean, validation)
            found[name] += choice.channel != "none"
            if name == "other":
                rates.append(choice.rate)
    assert found["same"] == 0
    assert found["other"] > 0
    assert min(rates) > 0.05
