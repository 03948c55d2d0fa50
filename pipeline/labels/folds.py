"""Cross-fitting folds: stratified by label, whole groups, the same for the same seed whatever the order of the rows."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from pipeline.errors import ConfigError, InputError

MAX_FOLDS = 3
LEAST_EXAMPLES = 3
ONE_GROUP = "all videos belong to one group: no fold model could be trained without the videos that it labels"
_STREAM = 0x0F01D5

Groups = Sequence[str] | Sequence[int] | np.ndarray


def folds_for(groups: Groups) -> int:
    """F = min(3, number of groups). One means that there is no cross-fitting: call `refine` with logits None."""
    return min(MAX_FOLDS, len(np.unique(np.asarray(groups))))


def assign_folds(groups: Groups, labels: np.ndarray, *, folds: int = MAX_FOLDS, seed: int) -> np.ndarray:
    """Fold of every video: (N,) int64 in 0..F-1 with F = min(folds, number of groups).

    `labels` (N,) int, -1 for unlabelled videos, which are spread evenly like a class of their own. Large groups are
    placed first; each goes where its classes are rarest so far, relative to their frequency, then to the smallest fold.
    Raises ConfigError for folds < 1 and InputError for arrays of different lengths or without rows.
    """
    group_of, label_of = _checked(groups, labels, folds)
    table = _label_table(group_of, label_of)
    fold_of_group = _place(table, _placing_order(table, seed), min(folds, table.shape[0]))
    return fold_of_group[group_of]


def protected_videos(given: np.ndarray, folds: np.ndarray, *, least: int = LEAST_EXAMPLES) -> np.ndarray:
    """Videos (N,) bool whose given class has fewer than `least` examples among the other folds' videos.

    The model that labels such a video hardly knows its class, so `refine` lets it keep its label. Unlabelled videos
    (given = -1) are never protected.
    """
    given, folds = np.asarray(given), np.asarray(folds)
    labelled = given >= 0
    counts = np.zeros((folds.max(initial=0) + 1, given.max(initial=0) + 1), dtype=np.int64)
    np.add.at(counts, (folds[labelled], given[labelled]), 1)
    in_training_part = counts.sum(axis=0) - counts
    return labelled & (in_training_part[folds, given] < least)


def _checked(groups: Groups, labels: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray]:
    if folds < 1:
        raise ConfigError(f"labels: {folds} folds asked for, at least 1 is needed")
    names, values = np.asarray(groups), np.asarray(labels)
    if names.ndim != 1 or names.shape != values.shape or not len(names):
        raise InputError(f"folds need one group and one label per video, got {names.shape} and {values.shape}")
    return np.unique(names, return_inverse=True)[1], np.unique(values, return_inverse=True)[1]


def _label_table(group_of: np.ndarray, label_of: np.ndarray) -> sparse.csr_array:
    """Videos per group and label, (groups, labels)."""
    entries = np.ones(len(group_of), dtype=np.int64)
    return sparse.coo_array((entries, (group_of, label_of))).tocsr()


def _placing_order(table: sparse.csr_array, seed: int) -> np.ndarray:
    shuffled = np.random.default_rng([_STREAM, seed]).permutation(table.shape[0])
    sizes = np.asarray(table.sum(axis=1))
    return shuffled[np.argsort(-sizes[shuffled], kind="stable")]


def _place(table: sparse.csr_array, order: np.ndarray, folds: int) -> np.ndarray:
    totals = np.asarray(table.sum(axis=0))
    placed = np.zeros((folds, table.shape[1]), dtype=np.int64)
    fold_of_group = np.zeros(table.shape[0], dtype=np.int64)
    for group in order:
        entries = slice(table.indptr[group], table.indptr[group + 1])
        labels, counts = table.indices[entries], table.data[entries]
        crowding = (placed[:, labels] * (counts / totals[labels])).sum(axis=1)
        # Rounded: the order in which the terms are added (the class ids) must not break a tie.
        fold = np.lexsort((placed.sum(axis=1), crowding.round(9)))[0]
        placed[fold, labels] += counts
        fold_of_group[group] = fold
    return fold_of_group
