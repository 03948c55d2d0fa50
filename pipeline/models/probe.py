"""Fitting a probe: multinomial logistic regression on what a frozen backbone gives, regularised by cross-validation.

It cannot overfit in silence: blocks of features and strength of the penalty are those that do best on videos (whole
groups of them) that were left out, of the training videos alone. Deterministic; seconds for hundreds of videos.

Legend: R rows (views), V videos, F described features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.models.frame import ProbeHead, describe

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C; features are divided by sqrt(F), so it means the same
FIXED = 1e-2
FOLDS, MOST_ROWS = 5, 2000
BLOCKS = ("statistics", "ordered", "both")


@dataclass(frozen=True)
class Trial:
    """One candidate of the cross-validation: share of left-out videos that are right, its standard error over groups,
    mean negative log likelihood."""

    blocks: str
    strength: float
    accuracy: float
    error: float
    nll: float


@dataclass(frozen=True)
class Choice:
    """What was chosen and why; `trials` is empty where cross-validation was not possible."""

    blocks: str
    strength: float
    reason: str
    trials: tuple[Trial, ...] = ()


def fit_probe(
    head: ProbeHead, features: np.ndarray, video: np.ndarray, q: np.ndarray, weight: np.ndarray, groups: Sequence[str]
) -> Choice:
    """Fill `head` from stored features (R,T,ΣD) of views; video (R,) says whose each is, q (V,C), weight (V,), groups.

    Videos of weight 0 are left out. Each view of a video counts 1/V_i of its weight; soft labels count by class.
    """
    described = _described(head, features)
    head.mean.copy_(torch.from_numpy(described.mean(0)))
    spread = described.std(0)
    # A feature that never changes says nothing: divided by 1 it stays 0.
    spread = np.where(spread > 1e-6 * max(1e-12, float(spread.max())), spread, 1.0)
    head.scale.copy_(torch.from_numpy(spread))
    x = ((described - described.mean(0)) / spread).astype(np.float64)
    masks = _masks(head, x.shape[1])
    choice = choose(x, masks, video, q, weight, groups)
    span, back = _span(x[:, masks[choice.blocks]])
    coefficients, bias = _fit(span, video, q, weight, choice.strength)
    whole = np.zeros((q.shape[1], x.shape[1]))
    whole[:, masks[choice.blocks]] = coefficients @ back
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(whole))
        head.linear.bias.copy_(torch.from_numpy(bias))
    return choice


def choose(
    x: np.ndarray,
    masks: dict[str, np.ndarray],
    video: np.ndarray,
    q: np.ndarray,
    weight: np.ndarray,
    groups: Sequence[str],
) -> Choice:
    """Blocks and strength by cross-validation over whole groups; the highest accuracy, then the lowest NLL."""
    labels, names = q.argmax(1), np.unique(np.asarray(groups), return_inverse=True)[1]
    used = np.flatnonzero(weight > 0)
    why = _why_not(labels[used], names[used])
    if why:
        return Choice("both", FIXED, f"{why}; the fixed strength {FIXED:g} is taken")
    rows = _few_rows(video, used)
    parts = _folds(labels, names, used)
    trials = []
    for blocks, mask in masks.items():
        span, _ = _span(x[rows][:, mask])  # of all rows, so of any part of them: an L2 penalty sees no difference
        trials += [_trial(span, blocks, strength, video[rows], q, weight, names, parts) for strength in STRENGTHS]
    best = max(trials, key=lambda trial: (round(trial.accuracy, 9), -trial.nll))
    reason = f"{len(parts)}-fold cross-validation over {len(np.unique(names[used]))} groups of training videos"
    return Choice(best.blocks, best.strength, reason, tuple(trials))


def left_out(q: np.ndarray, weight: np.ndarray, groups: Sequence[str]) -> list[np.ndarray]:
    """Positions of the videos that each fold of the cross-validation leaves out; where it is possible (`choose`)."""
    names = np.unique(np.asarray(groups), return_inverse=True)[1]
    return _folds(q.argmax(1), names, np.flatnonzero(weight > 0))


def _described(head: ProbeHead, features: np.ndarray) -> np.ndarray:
    parts = [
        describe(torch.from_numpy(features[start : start + 256].astype(np.float32)), head.embedding).numpy()
        for start in range(0, len(features), 256)
    ]
    return np.concatenate(parts)


def _masks(head: ProbeHead, count: int) -> dict[str, np.ndarray]:
    ordered = np.arange(count) >= count - head.num_frames * head.embedding
    return {"statistics": ~ordered, "ordered": ordered, "both": np.ones(count, bool)}


def _why_not(labels: np.ndarray, groups: np.ndarray) -> str:
    """Why there can be no cross-validation, "" where there can: each class needs two groups at least."""
    least = min((len(np.unique(groups[labels == label])) for label in np.unique(labels)), default=0)
    if len(np.unique(labels)) < 2:
        return "cross-validation needs two classes with labelled videos, there is one"
    if least < 2:
        return f"cross-validation needs videos of each class in at least 2 groups, one class has {least}"
    return ""


def _few_rows(video: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Rows of the used videos, at most 2,000: then the first views of each."""
    rows = np.flatnonzero(np.isin(video, used))
    turn = np.zeros(len(rows), np.int64)
    seen: dict[int, int] = {}
    for place, row in enumerate(rows):
        turn[place] = seen.get(int(video[row]), 0)
        seen[int(video[row])] = turn[place] + 1
    most = max(1, MOST_ROWS // max(1, len(used)))
    return rows[turn < most]


def _folds(labels: np.ndarray, groups: np.ndarray, used: np.ndarray) -> list[np.ndarray]:
    """Positions of the videos left out by each fold; every fold's training part has all classes where that can be."""
    from sklearn.model_selection import StratifiedGroupKFold

    least = min(len(np.unique(groups[used][labels[used] == label])) for label in np.unique(labels[used]))
    splitter = StratifiedGroupKFold(n_splits=min(FOLDS, least), shuffle=True, random_state=0)
    return [used[held] for _, held in splitter.split(used, labels[used], groups[used]) if len(held)]


def _trial(
    x: np.ndarray,
    blocks: str,
    strength: float,
    video: np.ndarray,
    q: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray,
    parts: Sequence[np.ndarray],
) -> Trial:
    right, loss, owner = [], [], []
    for held in parts:
        out = np.isin(video, held)
        coefficients, bias = _fit(x[~out], video[~out], q, weight, strength)
        scores = x[out] @ coefficients.T + bias
        scores -= scores.max(1, keepdims=True)
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        mean = np.stack([shares[video[out] == one].mean(0) for one in held])
        truth = q[held].argmax(1)
        right += (mean.argmax(1) == truth).tolist()
        loss += (-np.log(np.maximum(mean[np.arange(len(held)), truth], 1e-12))).tolist()
        owner += groups[held].tolist()
    return Trial(
        blocks,
        strength,
        float(np.mean(right)),
        group_error(np.array(right, float), np.array(owner)),
        float(np.mean(loss)),
    )


def group_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Cluster-robust standard error of the mean of values (n,) over groups (n,)."""
    number = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(number, weights=values - values.mean())
    return float(np.sqrt(len(sums) / max(1, len(sums) - 1) * (sums**2).sum()) / len(values))


def _fit(
    x: np.ndarray, video: np.ndarray, q: np.ndarray, weight: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (C,K) and bias (C,) of the penalised maximum likelihood on rows (R,K) of a span; classes without a
    row get a bias of -30."""
    from sklearn.linear_model import LogisticRegression

    counts = np.bincount(video, minlength=len(q)).astype(float)
    share = (weight / np.maximum(counts, 1))[video][:, None] * q[video]
    row, label = np.nonzero(share > 1e-4)
    classes = np.unique(label)
    coefficients, bias = np.zeros((q.shape[1], x.shape[1])), np.full(q.shape[1], -30.0)
    if len(classes) < 2:
        bias[classes] = 0.0
        return coefficients, bias
    model: Any = LogisticRegression(C=strength * len(np.unique(video)), max_iter=2000, tol=1e-6)
    model.fit(x[row], label, sample_weight=share[row, label])
    found, intercept = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn gives one row of two classes: half to each side is the symmetric form
        found, intercept = np.stack([-found[0], found[0]]) / 2, np.array([-intercept[0], intercept[0]]) / 2
    coefficients[classes], bias[classes] = found, intercept
    return coefficients, bias


def _span(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (R,F), divided by sqrt(F), in coordinates of their span (R,K), and (K,F) that leads coefficients back.

    With more features than rows a fit in the span is the same, for an L2 penalty, and far cheaper.
    """
    scaled = x / np.sqrt(x.shape[1])
    if len(x) >= x.shape[1]:
        return scaled, np.eye(x.shape[1]) / np.sqrt(x.shape[1])
    u, s, back = np.linalg.svd(scaled, full_matrices=False)
    kept = s > 1e-9 * s[0]
    if not kept.any():  # nothing differs between the rows: the bias alone decides
        return np.zeros((len(x), 1)), np.zeros((1, x.shape[1]))
    return u[:, kept] * s[kept], back[kept] / np.sqrt(x.shape[1])


def head_of(network: nn.Module) -> ProbeHead:
    """The probe of a frame network (`VideoNetwork` with option head: probe)."""
    found = network.get_submodule("body.head")
    assert isinstance(found, ProbeHead)
    return found
