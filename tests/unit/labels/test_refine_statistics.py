"""What refinement is worth on simulated labellers, and that `auto` keeps its hands off where it would harm."""

import numpy as np
import pytest

from pipeline.labels.refine import Refined, refine
from tests.unit.labels.simulated import STRONG, WEAK, World, nobody, simulate, symmetric, to_next_class

CLASSES = 12


def refined(world: World, given: np.ndarray, channel: str, seed: int = 0) -> Refined:
    return refine(
        world.logits, given, num_classes=CLASSES, channel=channel, protected=nobody(given),
        validation=world.validation, seed=seed, clean=world.clean,
    )  # fmt: skip


def accuracy(world: World, given: np.ndarray, channel: str, seed: int = 0) -> float:
    return refined(world, given, channel, seed).report["labels"]["accuracy_after"]


@pytest.mark.parametrize("channel", ["scalar", "full", "auto"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forty_percent_symmetric_noise_is_mostly_undone_by_a_strong_labeller(channel: str, seed: int) -> None:
    world = simulate(seed, STRONG)
    labels = refined(world, symmetric(world.clean, 0.4, CLASSES, seed), channel).report["labels"]
    assert labels["accuracy_before"] == pytest.approx(0.6, abs=0.05)
    assert labels["accuracy_after"] - labels["accuracy_before"] > 0.08
    assert labels["precision"] > 0.65
    assert labels["recall"] > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_under_class_dependent_noise_the_full_channel_beats_the_scalar_one(seed: int) -> None:
    world = simulate(seed, STRONG)
    given = to_next_class(world.clean, 0.3, CLASSES, seed)
    full = refined(world, given, "full")
    assert full.report["labels"]["accuracy_after"] > accuracy(world, given, "scalar") + 0.03
    assert np.mean([full.channel[c, (c + 1) % CLASSES] for c in range(CLASSES)]) == pytest.approx(0.3, abs=0.06)


def test_auto_never_harms_clean_labels_with_a_weak_labeller() -> None:
    unguarded, weakness = [], []
    for seed in range(12):
        world = simulate(seed, WEAK)
        result = refined(world, world.clean, "auto", seed)
        assert result.report["labels"]["accuracy_after"] >= 0.995, (seed, result.report["reason"])
        unguarded.append(accuracy(world, world.clean, "full"))
        weakness.append((result.predicted == world.clean).mean())
    assert np.mean(weakness) == pytest.approx(0.3, abs=0.06)
    assert max(unguarded) < 0.9  # the guard was needed in each of the twelve
