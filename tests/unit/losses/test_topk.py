"""Losses from a teacher's top k: equal to the k + 1 event loss computed by hand, and to the dense loss where k = C."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.method import LOGITS_NEEDED
from pipeline.distill.spec import METHODS, Objective
from pipeline.distill.terms import teacher_term
from pipeline.errors import ConfigError
from pipeline.losses import TopKLogits, decoupled_kd, dist, kl_distillation
from pipeline.targets.topk import largest

B, C, TEMPERATURES = 6, 9, (1.0, 2.0, 4.0)


def teacher(seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((B, C))).astype(np.float32)


def student(seed: int = 1) -> Tensor:
    values = torch.randn(B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * values).requires_grad_()


def sparse(logits: np.ndarray, k: int, temperatures: tuple[float, ...] = TEMPERATURES) -> TopKLogits:
    found = largest(logits, k, temperatures)
    columns = {"logit": found.logit, "mean": found.mean, "sd": found.sd, "tail": found.tail_lse}
    wide = {name: torch.from_numpy(values.astype(np.float64)) for name, values in columns.items()}
    index = torch.from_numpy(found.index.astype(np.int64))
    return TopKLogits(index=index, **wide, temperatures=temperatures, classes=logits.shape[1])


def by_hand(logits: np.ndarray, answers: Tensor, k: int, temperature: float, standardize: bool) -> Tensor:
    """τ² Σ_events P log(P / Q), from whole softmaxes in float64: probabilities first, then the rest's are added up."""
    t = torch.from_numpy(logits.astype(np.float64))
    z = [(x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-4) for x in (t, answers)]
    p, q = (torch.softmax(x / temperature, 1) for x in (z if standardize else (t, answers)))
    order = t.argsort(1, descending=True)
    events = [torch.cat([x.gather(1, order[:, :k]), x.gather(1, order[:, k:]).sum(1, keepdim=True)], 1) for x in (p, q)]
    return temperature**2 * (events[0] * (events[0] / events[1]).log()).sum(1)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 3, C - 1])
def test_value_and_gradient_are_those_of_k_plus_one_events(k: int, temperature: float, standardize: bool) -> None:
    ours, theirs = student(), student()
    loss = kl_distillation(ours, sparse(teacher(), k), temperature=temperature, standardize=standardize)
    expected = by_hand(teacher(), theirs, k, temperature, standardize)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-6)
    weights = torch.arange(1.0, B + 1, dtype=torch.float64)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("k", [C, C - 1])
def test_with_at_most_one_class_left_out_it_is_the_dense_loss(k: int, standardize: bool) -> None:
    ours, theirs = student(), student()
    dense = torch.from_numpy(teacher().astype(np.float64))
    loss = kl_distillation(ours, sparse(teacher(), k), temperature=2.0, standardize=standardize)
    expected = kl_distillation(theirs, dense, temperature=2.0, standardize=standardize)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_coarser_events_never_tell_more() -> None:
    losses = [kl_distillation(student(), sparse(teacher(), k), temperature=2.0) for k in range(1, C + 1)]
    assert all(bool((less <= more + 1e-9).all()) for less, more in itertools.pairwise(losses))


def test_all_classes_kept_need_no_stored_temperature() -> None:
    loss = kl_distillation(student(), sparse(teacher(), C, ()), temperature=3.0)
    assert torch.isfinite(loss).all()


def test_a_temperature_that_is_not_stored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature 3, .* at 1, 2, 4: add it to precompute\.codec\.temperatures"):
        kl_distillation(student(), sparse(teacher(), 3), temperature=3.0)


def test_other_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 classes cannot teach a student of 8"):
        kl_distillation(student()[:, :8], sparse(teacher(), 3), temperature=2.0)


TARGET = torch.zeros(B, dtype=torch.int64)
LOSSES: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "kl": (kl_distillation, lambda known: kl_distillation(student(), known, temperature=2.0)),
    "dkd": (
        decoupled_kd,
        lambda known: decoupled_kd(student(), known, TARGET, alpha=1.0, beta=8.0, temperature=2.0),
    ),
    "dist": (dist, lambda known: dist(student(), known, beta=1.0, gamma=1.0, temperature=2.0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_declares_what_it_really_takes(name: str) -> None:
    function, call = LOSSES[name]
    assert torch.isfinite(call(torch.from_numpy(teacher()).double())).all()
    if function.needs == "dense":
        with pytest.raises(ConfigError, match="needs all of the teacher's logits"):
            call(sparse(teacher(), 3))
    else:
        assert torch.isfinite(call(sparse(teacher(), 3))).all()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "supervised"])
def test_the_recipes_table_says_what_each_method_takes(method: str) -> None:
    q = torch.full((B, C), 1 / C, dtype=torch.float64)
    objective, weight = Objective(method=method), torch.ones(B)
    if LOGITS_NEEDED[method] == "dense":
        with pytest.raises(ConfigError, match="all of the teacher's logits"):
            teacher_term(objective, student(), [sparse(teacher(), 3)], q, weight)
    else:
        assert torch.isfinite(teacher_term(objective, student(), [sparse(teacher(), 3)], q, weight))
