"""How good labels are where the clean ones are known (injected noise), and which classes the flips touch.

A flip is a given label whose class is no longer the most probable one of q. Unlabelled or unknown is -1.
"""

from typing import Any

import numpy as np


def hard_labels(soft: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Most probable class (N,) int64 of q (N, C); an exact tie keeps the given label."""
    best = soft.argmax(axis=1)
    own = np.take_along_axis(soft, np.maximum(given, 0)[:, None], axis=1)[:, 0]
    keeps = (given >= 0) & (own == soft.max(axis=1))
    return np.where(keeps, given, best)


def flips_per_class(given: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, list[int]]:
    """Flips counted by the class that they leave (`from`) and the one that they reach (`to`), C counts each."""
    flips = (given >= 0) & (labels != given)
    return {"from": _count(given[flips], num_classes), "to": _count(labels[flips], num_classes)}


def score_labels(soft: np.ndarray, given: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """Accuracy of given and refined labels, precision and recall of the flips; shares in 0..1, None where undefined.

    precision = flips that land on the truth / flips; recall = wrong labels corrected / wrong labels. `per_class` holds
    the same as C values: accuracy and recall by true class, precision by the class that the flips reach.
    `unlabelled_accuracy` is that of q on videos without a given label. Videos whose clean label is -1 do not count.
    """
    labels, classes = hard_labels(soft, given), soft.shape[1]
    known = clean >= 0
    rows = known & (given >= 0)
    before, after, truth = given[rows], labels[rows], clean[rows]
    unlabelled = known & (given < 0)
    return {
        "videos": int(rows.sum()),
        **_measures(before, after, truth),
        "unlabelled_accuracy": _share(labels[unlabelled] == clean[unlabelled]),
        "flips_per_class": flips_per_class(before, after, classes),
        "per_class": _per_class(before, after, truth, classes),
    }


def _measures(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    right = after == truth
    return {
        "accuracy_before": _share(before == truth),
        "accuracy_after": _share(right),
        "precision": _share(right[after != before]),
        "recall": _share(right[before != truth]),
    }


def _per_class(before: np.ndarray, after: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, list[float | None]]:
    right, flipped, wrong = after == truth, after != before, before != truth
    every = np.ones(len(truth), dtype=bool)
    return {
        "accuracy_before": _shares(truth, ~wrong, every, classes),
        "accuracy_after": _shares(truth, right, every, classes),
        "precision": _shares(after, right, flipped, classes),
        "recall": _shares(truth, right, wrong, classes),
    }


def _shares(by: np.ndarray, hits: np.ndarray, among: np.ndarray, classes: int) -> list[float | None]:
    found, total = _count(by[hits & among], classes), _count(by[among], classes)
    return [hit / count if count else None for hit, count in zip(found, total, strict=True)]


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _count(classes_hit: np.ndarray, num_classes: int) -> list[int]:
    return np.bincount(classes_hit, minlength=num_classes).tolist()
