"""Classes told from file facts alone, without a pixel: what a teacher has to beat before it can be said to see.

Width, height, frames, bytes and frame rate of a file say nothing of what it shows, unless the classes were filmed, cut
or encoded differently. Nearest neighbours find out, whatever the shape of the difference.

Legend: N training videos, V videos that are asked for, F facts, C classes.
"""

from dataclasses import dataclass

import numpy as np

FACTS = ("width", "height", "frames", "bytes", "fps")
NEIGHBOURS = (1, 3, 5, 9, 15)
FIXED = 5  # neighbours where training videos of one group alone leave nothing to choose by
MOST = 4000  # training videos that are looked at
_AT_ONCE = 256


@dataclass(frozen=True)
class Guesses:
    """`predicted` (V,) int64; `neighbours`: k; `chosen_by`: how k was chosen; `columns`: the facts that vary."""

    predicted: np.ndarray
    neighbours: int
    chosen_by: str
    columns: tuple[str, ...]


def guess(
    training: np.ndarray, labels: np.ndarray, groups: np.ndarray, asked: np.ndarray, *, classes: int, seed: int = 0
) -> Guesses:
    """k nearest neighbours on the facts (N, F) → classes of `asked` (V, F); labels (N,) int64, groups (N,).

    Facts are positive and in the order of FACTS, NaN where a header is silent. Logarithms, as files differ by factors;
    what is missing is the training median and has a column of its own; standardised by the training videos; constant
    columns are left out. k is the one with the best accuracy on training videos when a video's own group is left out,
    of equal ones the largest. Whoever is as near as the k-th neighbour votes as well, and a tie goes to the class with
    more training videos. At most MOST training videos, drawn from `seed`. AssertionError without any.
    """
    assert len(training) == len(labels) == len(groups) > 0
    if len(training) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(training), MOST, replace=False))
        training, labels, groups = training[chosen], labels[chosen], groups[chosen]
    known, wanted, columns = _standardised(training, asked)
    share = np.bincount(labels, minlength=classes) / len(labels)
    votes = np.eye(classes)[labels]
    apart = np.unique(groups, return_inverse=True)[1]
    if apart.max() == 0:
        found, said = min(FIXED, len(known)), "fixed: one group of training videos"
    else:
        right = [float((_vote(known, known, votes, share, k, apart) == labels).mean()) for k in NEIGHBOURS]
        best = max(range(len(right)), key=lambda place: (right[place], place))
        found, said = NEIGHBOURS[best], f"leave-group-out on training, {100 * right[best]:.1f} % there"
    return Guesses(_vote(known, wanted, votes, share, found), found, said, columns)


def _standardised(training: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Columns that vary over the training videos, mean 0 and s.d. 1 there."""
    logs = [np.log1p(np.maximum(values.astype(np.float64), 0.0)) for values in (training, asked)]
    missing = [np.isnan(values) for values in logs]
    middle = np.array(
        [
            np.median(column[~lost]) if (~lost).any() else 0.0
            for column, lost in zip(logs[0].T, missing[0].T, strict=True)
        ]
    )
    whole = [np.hstack([np.where(lost, middle, values), lost]) for values, lost in zip(logs, missing, strict=True)]
    mean, sd = whole[0].mean(axis=0), whole[0].std(axis=0)
    varies = sd > 1e-12
    names = [*FACTS, *(f"no {name}" for name in FACTS)]
    known, wanted = ((values[:, varies] - mean[varies]) / sd[varies] for values in whole)
    return known, wanted, tuple(name for name, used in zip(names, varies, strict=True) if used)


def _vote(
    known: np.ndarray,
    asked: np.ndarray,
    votes: np.ndarray,
    share: np.ndarray,
    k: int,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Classes (V,); `own` (N,): groups, where the asked are the known, of which nobody votes for its own."""
    found = np.empty(len(asked), np.int64)
    for start in range(0, len(asked), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        distance = ((asked[part, None, :] - known[None]) ** 2).sum(axis=2)
        if own is not None:
            distance[own[part, None] == own[None]] = np.inf
        place = min(k, len(known)) - 1
        limit = np.partition(distance, place, axis=1)[:, place, None]
        near = np.isfinite(distance) & (distance <= limit * (1 + 1e-9) + 1e-12)
        found[part] = (near @ votes + 1e-6 * share).argmax(axis=1)
    return found
