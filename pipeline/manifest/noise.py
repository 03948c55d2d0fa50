"""Label noise injected on purpose, and label fractions. Draws depend on (seed, video_id) alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.artifacts.identity import integer, unit_draw
from pipeline.errors import ConfigError, InputError

KINDS = ("none", "symmetric", "asymmetric")
LEAST_PER_CLASS = 2


def inject(
    video_ids: Sequence[str], labels: np.ndarray, num_classes: int, *, kind: str, rate: float, seed: int
) -> np.ndarray:
    """Noisy copies of labels (N,) int, -1 (unlabelled) untouched.

    symmetric: with probability `rate` another class, each equally likely. asymmetric: the next class (c + 1 mod C).
    """
    if kind not in KINDS:
        raise ConfigError(f"manifest.noise.kind {kind!r} is none of {', '.join(KINDS)}")
    if kind == "none" or num_classes < 2:
        return labels.copy()
    steps = [_step(video_id, num_classes, kind, rate, seed) for video_id in video_ids]
    return np.where(labels < 0, labels, (labels + np.asarray(steps, labels.dtype)) % num_classes)


def _step(video_id: str, num_classes: int, kind: str, rate: float, seed: int) -> int:
    if unit_draw("noise", seed, video_id) >= rate:
        return 0
    return 1 if kind == "asymmetric" else 1 + integer("noise class", seed, video_id) % (num_classes - 1)


def label_fraction(video_ids: Sequence[str], labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
    """Labels (N,) of which only a fraction is kept, the others -1: stratified, nested, at least 2 a class.

    Within a class the videos with the smallest draws keep theirs, so a larger fraction keeps all of a smaller one.
    """
    draws = np.array([unit_draw("label", seed, video_id) for video_id in video_ids])
    kept = np.full_like(labels, -1)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        count = max(min(LEAST_PER_CLASS, len(rows)), int(np.ceil(fraction * len(rows) - 1e-9)))
        kept[rows[np.argsort(draws[rows], kind="stable")[:count]]] = label
    return kept


def check_fraction(labels: np.ndarray, kept: np.ndarray, classes: Sequence[str], fraction: float) -> None:
    """InputError where a class that stands in `labels` (N,) is left with fewer than 2 of the labels `kept` (M,)."""
    counts = np.bincount(kept[kept >= 0], minlength=len(classes))
    poor = [n for n in np.unique(labels[labels >= 0]) if counts[n] < LEAST_PER_CLASS]
    if poor:
        named = ", ".join(f"{classes[n]} ({counts[n]})" for n in poor)
        raise InputError(
            f"manifest.label_fraction {fraction:g} needs at least {LEAST_PER_CLASS} labelled training videos of each "
            f"class; fewer are there of {named}: add videos, leave the class out, or set manifest.label_fraction: 1"
        )


def clean_names(labels: np.ndarray, classes: Sequence[str]) -> list[str | None]:
    """Class names of labels, None for -1."""
    names: Mapping[int, str] = dict(enumerate(classes))
    return [names.get(int(label)) for label in labels]
