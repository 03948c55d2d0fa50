"""Distribution terms: start, bounds, dead channels, statistics that do not fit, generators."""

import math

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, InputError
from pipeline.losses import GaussianPredictor, distribution_term

NAMES = ("gaussian", "moments", "mmd", "pkt")
MEAN, SD = np.array([1.0, -2.0, 0.5, 9.0]), np.array([0.5, 2.0, 1.0, 1e-3])  # the last one is dead


def features(seed: int, channels: int) -> torch.Tensor:
    return torch.randn(16, channels, generator=torch.Generator().manual_seed(seed))


def teacher(seed: int = 1) -> torch.Tensor:
    return features(seed, 4) * torch.tensor(SD).float() + torch.tensor(MEAN).float()


def built(name: str = "gaussian", seed: int = 0) -> torch.nn.Module:
    return distribution_term(name, 3, 4, MEAN, SD, generator=torch.Generator().manual_seed(seed))


def test_variance_is_one_at_the_start() -> None:
    term = built()
    torch.testing.assert_close(term.variance, torch.ones(3))
    output = term(features(0, 3), teacher())
    assert output.loss.item() == pytest.approx((1 - output.r2.item()) / 2, rel=1e-5)


def test_the_density_is_bounded_below() -> None:
    term = built()
    with torch.no_grad():
        term.weight.zero_()
        term.rho.fill_(-50.0)
    exact = torch.tensor(MEAN).float().repeat(16, 1)
    output = term(features(0, 3), exact)
    assert output.loss.item() == pytest.approx(0.5 * math.log(1e-3), abs=1e-4)
    assert output.loss.item() >= -3.46
    assert output.r2.item() == pytest.approx(1.0)


def test_no_knowledge_of_a_standardised_teacher_is_an_r2_of_zero() -> None:
    term = built()
    with torch.no_grad():
        term.weight.zero_()
    z = teacher()
    mean, sd = z.double().mean(dim=0), z.double().std(dim=0, correction=0)
    term = GaussianPredictor(3, 4, mean, sd)
    with torch.no_grad():
        term.weight.zero_()
    assert term(features(0, 3), z).r2.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_dead_channels_leave_the_loss_and_r2(name: str) -> None:
    term = built(name)
    assert term.live.tolist() == [0, 1, 2]
    z = teacher()
    wild = z.clone()
    wild[:, 3] = 1e6
    assert torch.equal(term(features(0, 3), wild).loss, term(features(0, 3), z).loss)
    assert torch.equal(term(features(0, 3), wild).r2, term(features(0, 3), z).r2)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    term, student, target = built(name), features(0, 3).requires_grad_(), teacher().requires_grad_()
    output = term(student, target)
    output.loss.backward()
    assert student.grad.abs().max() > 0
    assert term.weight.grad.abs().max() > 0
    assert target.grad is None
    assert not output.r2.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_each_term_learns_to_follow_the_teacher(name: str) -> None:
    term, z = built(name), teacher()
    student = (z[:, :3] - torch.tensor(MEAN[:3]).float()) / torch.tensor(SD[:3]).float() @ features(5, 3)[:3]
    optimiser = torch.optim.Adam(term.parameters(), lr=0.05)
    first = term(student, z).loss.item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = term(student, z).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < min(0.5 * first, first - 1e-5)


def test_parameters_come_from_the_given_generator_only() -> None:
    before = torch.random.get_rng_state()
    one, same, other = built(seed=1), built(seed=1), built(seed=2)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_state_travels_by_state_dict() -> None:
    one, other = built(seed=1), built(seed=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(features(0, 3), teacher()).loss, one(features(0, 3), teacher()).loss)


def test_half_precision_and_autocast_compute_in_float32() -> None:
    term, student, target = built(), features(0, 3).half(), teacher().half()
    expected = term(student.float(), target.float()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term(student, target).loss, expected)


def test_statistics_of_another_teacher_are_refused() -> None:
    with pytest.raises(InputError, match="statistics of 4 channels for a substage of 5"):
        GaussianPredictor(3, 5, MEAN, SD)


@pytest.mark.parametrize("sd", [np.zeros(4), np.full(4, np.nan)])
def test_a_constant_substage_is_refused(sd: np.ndarray) -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        GaussianPredictor(3, 4, MEAN, sd)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="gaussian, moments, mmd, pkt"):
        distribution_term("normal", 3, 4, MEAN, SD)
