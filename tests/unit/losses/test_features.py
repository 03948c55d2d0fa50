"""Baseline feature losses: zero at equality, no gradient to the teacher, finite at degenerate input, float32."""

import pytest
import torch

from pipeline.losses import (
    HintRegressor,
    attention_transfer,
    fitnet_hint,
    neuron_selectivity,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)

POOLED = [similarity_preserving, relational_distance, relational_angle, probabilistic_transfer, fitnet_hint]
MAPS = [attention_transfer, neuron_selectivity, fitnet_hint]
CASES = [(loss, (8, 5)) for loss in POOLED] + [(loss, (2, 5, 2, 3, 3)) for loss in MAPS]


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_equal_inputs_give_zero(loss, shape: tuple[int, ...]) -> None:
    z = draw(shape, 0)
    assert loss(z, z.clone()).shape == ()
    assert abs(loss(z, z.clone()).item()) < 1e-6
    assert loss(z, draw(shape, 1)).item() > 1e-4


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_no_gradient_reaches_the_teacher(loss, shape: tuple[int, ...]) -> None:
    student, teacher = draw(shape, 0).requires_grad_(), draw(shape, 1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_a_student_of_zeros_stays_finite(loss, shape: tuple[int, ...]) -> None:
    student = torch.zeros(shape, requires_grad=True)
    value = loss(student, draw(shape, 1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_half_precision_and_autocast_compute_in_float32(loss, shape: tuple[int, ...]) -> None:
    student, teacher = draw(shape, 0).half(), draw(shape, 1).half()
    expected = loss(student.float(), teacher.float())
    assert torch.equal(loss(student, teacher), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student.float(), teacher.float()), expected)


def test_relational_losses_take_any_channel_counts() -> None:
    for loss in POOLED[:4]:
        assert torch.isfinite(loss(draw((8, 3), 0), draw((8, 30), 1)))
    for loss in MAPS[:2]:
        assert torch.isfinite(loss(draw((2, 3, 4, 6, 6), 0), draw((2, 9, 2, 4, 7), 1)))


def test_a_regressor_draws_from_its_own_generator_only() -> None:
    before = torch.random.get_rng_state()
    weights = [HintRegressor(3, 4, torch.Generator().manual_seed(1)).weight for _ in range(2)]
    assert torch.equal(*weights)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_hint_learns_a_linear_map() -> None:
    regressor = HintRegressor(5, 4, torch.Generator().manual_seed(1))
    student = draw((32, 5), 0)
    teacher = student @ draw((5, 4), 1) + 1
    optimiser = torch.optim.Adam(regressor.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        loss = regressor(student, teacher)
        loss.backward()
        optimiser.step()
    assert loss.item() < 1e-3
