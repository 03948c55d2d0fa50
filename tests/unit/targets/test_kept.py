"""The share of the KL that top-k targets keep: against a direct loop, against the loss itself, and known figures."""

import math

import numpy as np
import pytest
import torch

from pipeline.losses import TopKLogits, kl_distillation
from pipeline.targets.kept import UNTRAINED, WRONG, kept_share
from pipeline.targets.topk import largest

VIEWS, CLASSES = 256, 100


def peaked(height: float, noise: float) -> np.ndarray:
    """Logits (256, 100): noise, and one class of a hundred that stands out."""
    logits = np.random.default_rng(0).normal(0, noise, (VIEWS, CLASSES))
    logits[np.arange(VIEWS), np.arange(VIEWS) * 7 % CLASSES] += height
    return logits


def directly(logits: np.ndarray, k: int, tau: float, *, standardize: bool, wrong: bool) -> float:
    """The definition, view by view and class by class."""
    coarse = dense = 0.0
    for place, row in enumerate(logits):
        other = logits[place - len(logits) // 2] if wrong else np.zeros(len(row))
        rows = [
            [(x - r.mean()) / math.sqrt(r.var(ddof=1) + 1e-4) if standardize else x for x in r] for r in (row, other)
        ]
        sums = [sum(math.exp(x / tau) for x in r) for r in rows]
        p, q = ([math.exp(x / tau) / total for x in r] for r, total in zip(rows, sums, strict=True))
        dense += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        top = sorted(range(len(row)), key=lambda c: -p[c])[:k]
        left = [1 - sum(values[c] for c in top) for values in (p, q)]
        coarse += sum(p[c] * math.log(p[c] / q[c]) for c in top)
        coarse += left[0] * math.log(left[0] / left[1]) if k < len(row) else 0.0
    return coarse / dense


@pytest.mark.parametrize("standardize", [True, False])
def test_it_is_what_the_definition_says(standardize: bool) -> None:
    logits = np.random.default_rng(1).normal(0, 2, (7, 9))
    for k, tau in ((1, 1.0), (3, 2.0), (8, 4.0), (9, 2.0)):
        found = kept_share(logits, k, temperature=tau, standardize=standardize)
        for name, wrong in ((UNTRAINED, False), (WRONG, True)):
            want = directly(logits, k, tau, standardize=standardize, wrong=wrong)
            assert found.students[name] == pytest.approx(want, rel=1e-10)
        assert found.share == min(found.students.values())


@pytest.mark.parametrize("standardize", [True, False])
def test_it_is_what_the_losses_keep(standardize: bool) -> None:
    logits = peaked(5, 2).astype(np.float32)
    stored = largest(logits, 20, (2.0,))
    kept = TopKLogits(
        torch.from_numpy(stored.index.astype(np.int64)),
        *(torch.from_numpy(values) for values in (stored.logit, stored.mean, stored.sd, stored.tail_lse)),
        temperatures=(2.0,),
        classes=CLASSES,
    )
    student = torch.from_numpy(np.roll(logits, VIEWS // 2, axis=0))
    how = {"temperature": 2.0, "standardize": standardize}
    share = (
        kl_distillation(student, kept, **how).sum() / kl_distillation(student, torch.from_numpy(logits), **how).sum()
    )
    assert kept_share(logits, 20, **how).students[WRONG] == pytest.approx(float(share), rel=1e-4)


def test_a_standardised_teacher_of_a_hundred_classes_loses_half_at_20_and_most_at_5() -> None:
    shares = {k: kept_share(peaked(5, 2), k, temperature=2.0, standardize=True).share for k in (5, 20, 50, 100)}
    assert shares[20] == pytest.approx(0.55, abs=0.03)
    assert shares[5] == pytest.approx(0.28, abs=0.03)
    assert shares[5] < shares[20] < shares[50] < 0.9
    assert shares[100] == pytest.approx(1.0, abs=1e-12)


def test_without_standardisation_a_sharp_teacher_keeps_enough() -> None:
    plain = kept_share(peaked(12, 2), 20, temperature=2.0, standardize=False)
    assert plain.share > 0.9
    assert plain.enough <= 20
    assert kept_share(peaked(12, 2), 20, temperature=2.0, standardize=True).share < 0.75


def test_the_k_that_is_named_is_the_smallest_that_keeps_enough() -> None:
    found = kept_share(peaked(5, 2), 20, temperature=2.0, standardize=True)
    assert 50 < found.enough < CLASSES
    assert kept_share(peaked(5, 2), found.enough, temperature=2.0, standardize=True).share >= 0.9
    assert kept_share(peaked(5, 2), found.enough - 1, temperature=2.0, standardize=True).share < 0.9


def test_nothing_to_lose_and_a_single_view() -> None:
    alike = kept_share(np.ones((4, 6)), 2, temperature=2.0, standardize=True)
    assert (alike.share, alike.enough) == (1.0, 1)
    assert set(kept_share(peaked(5, 2)[:1], 5, temperature=2.0, standardize=False).students) == {UNTRAINED}
