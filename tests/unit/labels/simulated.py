"""Synthetic fold models: soft predictions of known strength, without a network."""

from dataclasses import dataclass

import numpy as np

from pipeline.labels.folds import assign_folds
from pipeline.labels.predictions import FoldPrediction, OutOfFold, Validation


@dataclass(frozen=True)
class World:
    """Clean training labels (N,), their out-of-fold predictions, folds and a validation split."""

    clean: np.ndarray
    logits: OutOfFold
    folds: np.ndarray
    validation: Validation


@dataclass(frozen=True)
class Labeller:
    """Evidence for a class is N(0, 1), plus `gain` for the true class, plus what a fold model believes of each class
    whatever it sees (s.d. `bias`), plus what all of them take for each other (s.d. `confusion` per pair of classes).
    Logits are that times `overconfidence`."""

    gain: float
    bias: float = 0.3
    confusion: float = 0.0
    overconfidence: float = 2.0


STRONG = Labeller(gain=2.5)  # 78 % out-of-fold of 12 classes
MIDDLING = Labeller(gain=1.2)  # 36 %
WEAK = Labeller(gain=1.3, bias=0.5, confusion=1.0)  # 18 to 35 %, sure of its confusions


def simulate(
    seed: int, labeller: Labeller, *, videos: int = 900, held_out: int = 300, classes: int = 12, views: int = 2
) -> World:
    """Three fold models of one labeller over balanced random labels."""
    generator = np.random.default_rng(seed)
    clean, truth = generator.integers(classes, size=videos), generator.integers(classes, size=held_out)
    folds = assign_folds(np.arange(videos), clean, seed=seed)
    beliefs = generator.normal(0, labeller.bias, size=(3, classes))
    mistaken = generator.normal(0, labeller.confusion, size=(classes, classes))

    def speak(labels: np.ndarray, model: int) -> np.ndarray:
        evidence = (mistaken[labels] + beliefs[model])[:, None] + generator.normal(0, 0.9, (len(labels), 1, classes))
        evidence = evidence + generator.normal(0, 0.44, size=(len(labels), views, classes))
        evidence[np.arange(len(labels)), :, labels] += labeller.gain
        return (labeller.overconfidence * evidence).astype(np.float32)

    predictions = [
        FoldPrediction(
            np.flatnonzero(folds == model), speak(clean[folds == model], model), np.flatnonzero(folds != model)
        )
        for model in range(3)
    ]
    held = np.stack([speak(truth, model) for model in range(3)])
    return World(clean, OutOfFold.gather(predictions, videos), folds, Validation(held, truth, trusted=True))


def symmetric(labels: np.ndarray, rate: float, classes: int, seed: int) -> np.ndarray:
    """Each label becomes another class, uniformly, with this probability."""
    generator = np.random.default_rng([1, seed])
    shift = generator.integers(1, classes, size=len(labels))
    return np.where(generator.random(len(labels)) < rate, (labels + shift) % classes, labels)


def to_next_class(labels: np.ndarray, rate: float, classes: int, seed: int) -> np.ndarray:
    """Each label becomes the next class with this probability."""
    flips = np.random.default_rng([2, seed]).random(len(labels)) < rate
    return np.where(flips, (labels + 1) % classes, labels)


def nobody(labels: np.ndarray) -> np.ndarray:
    return np.zeros(len(labels), dtype=bool)
