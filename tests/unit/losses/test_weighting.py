"""Weights among substages: values by hand, joining substages, bounds, checkpoints."""

import io
import math

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.losses import RunningMean, weight_policy
from pipeline.losses.weighting import POLICIES, DynamicAverage

R2 = torch.tensor([0.8, 0.5, 0.2, -1.0])


def losses(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_fixed_is_the_plain_mean() -> None:
    output = weight_policy("fixed", 4)(losses(1.0, 2.0, 3.0, 6.0))
    assert output.weights.tolist() == [1.0] * 4
    assert output.total.item() == pytest.approx(3.0)


def test_ema_weighs_by_the_inverse_running_loss() -> None:
    policy = weight_policy("ema", 3)
    policy(losses(1.0, 0.5, 0.01))
    output = policy(losses(2.0, 0.5, 0.01))
    inverse = [1 / 1.01, 2.0, 1 / 0.05]
    mean = sum(inverse) / 3
    assert output.weights.tolist() == pytest.approx([value / mean for value in inverse], rel=1e-5)
    expected = (inverse[0] * 2 + inverse[1] * 0.5 + inverse[2] * 0.01) / mean / 3
    assert output.total.item() == pytest.approx(expected, rel=1e-5)


def test_weights_carry_no_gradient_of_their_own() -> None:
    for name in ("fixed", "ema", "lagging", "dwa"):
        values = losses(1.0, 0.5, 0.3, 0.2).requires_grad_()
        output = weight_policy(name, 4)(values, R2)
        output.total.backward()
        torch.testing.assert_close(values.grad, output.weights / 4)


def test_substages_join_one_after_another() -> None:
    policy = weight_policy("ema", 3)
    for _ in range(3):
        assert policy(losses(0.5)).weights.tolist() == [1.0]
    joined = policy(losses(0.5, 0.25))
    assert joined.weights.tolist() == pytest.approx([2 / 3, 4 / 3])
    late = policy(losses(0.25, 0.1), first=2)
    assert late.weights.tolist() == pytest.approx([4 / 7, 10 / 7])


def test_a_substage_that_could_not_be_measured_draws_no_weight() -> None:
    policy = weight_policy("ema", 3)
    assert policy(losses(0.5, 0.25, 0.0)).weights.tolist() == pytest.approx([2 / 3, 4 / 3, 1.0])
    assert policy(losses(0.5, 0.0, 0.0)).weights.tolist() == pytest.approx([2 / 3, 4 / 3, 1.0])
    assert weight_policy("ema", 2)(losses(0.0, 0.0)).weights.tolist() == [1.0, 1.0]


def test_lagging_gives_weight_to_what_is_predicted_least() -> None:
    policy = weight_policy("lagging", 4)
    assert policy.needs_r2
    weights = policy(losses(1.0, 1.0, 1.0, 1.0), R2).weights
    assert weights.tolist() == pytest.approx([value / 0.875 for value in (0.2, 0.5, 0.8, 2.0)], rel=1e-5)
    with pytest.raises(AssertionError, match="distribution term"):
        policy(losses(1.0, 1.0, 1.0, 1.0))


def test_uncertainty_finds_the_closed_form_and_comes_back_from_its_bounds() -> None:
    policy = weight_policy("uncertainty", 3)
    (group,) = policy.optimiser_groups()
    assert group["lr"] == 1e-2
    assert group["weight_decay"] == 0
    with torch.no_grad():
        policy.s.copy_(torch.tensor([3.5, -40.0, 0.0]))
    policy.after_step()
    assert policy.s.tolist() == [3.0, -3.0, 0.0]
    optimiser = torch.optim.AdamW([group | {"lr": 5e-2}])
    values = losses(0.5, 1.0, 100.0)
    for _ in range(400):
        optimiser.zero_grad()
        policy(values).total.backward()
        optimiser.step()
        policy.after_step()
        assert policy.s.abs().max() <= 3
    assert policy.s.tolist() == pytest.approx([math.log(0.5), 0.0, 3.0], abs=0.05)


def test_uncertainty_passes_its_weights_to_the_losses() -> None:
    policy = weight_policy("uncertainty", 3)
    with torch.no_grad():
        policy.s.copy_(torch.tensor([1.0, -1.0, 0.5]))
    values = losses(2.0, 3.0).requires_grad_()
    output = policy(values)
    output.total.backward()
    assert output.total.item() == pytest.approx((2 * math.exp(-1) + 1 + 3 * math.exp(1) - 1) / 2, rel=1e-5)
    assert values.grad.tolist() == pytest.approx([math.exp(-1) / 2, math.exp(1) / 2], rel=1e-5)
    assert policy.s.grad[2] == 0


def test_dwa_weighs_by_the_ratio_of_the_last_two_spans() -> None:
    policy = DynamicAverage(3, period=2)
    for value in (1.0, 3.0, 1.0, 1.0):  # substage 1: spans of mean 2 and 1; the others stay at 1
        assert policy(losses(value, 1.0)).weights.tolist() == pytest.approx([1.0, 1.0])
    powers = [math.exp(0.5 / 2), math.exp(1 / 2), math.exp(1 / 2)]
    assert policy(losses(1.0, 1.0, 1.0)).weights.tolist() == pytest.approx([3 * p / sum(powers) for p in powers])


def test_only_learnt_weights_have_parameters() -> None:
    assert {name: len(list(weight_policy(name, 4).parameters())) for name in POLICIES} == {
        "fixed": 0, "ema": 0, "uncertainty": 1, "lagging": 0, "dwa": 0
    }  # fmt: skip
    assert [name for name in POLICIES if weight_policy(name, 4).optimiser_groups()] == ["uncertainty"]


@pytest.mark.parametrize("name", POLICIES)
def test_a_checkpoint_goes_on_where_it_stopped(name: str) -> None:
    policy, resumed = weight_policy(name, 4), weight_policy(name, 4)
    draws = torch.rand(130, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    for values in draws[:120]:
        policy(values, R2)
    if name == "uncertainty":
        policy.s.data += 0.5
    file = io.BytesIO()
    torch.save(policy.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for values in draws[120:]:
        assert torch.equal(policy(values, R2).total, resumed(values, R2).total)
    if name in ("ema", "dwa"):
        assert not torch.equal(weight_policy(name, 4)(draws[-1], R2).total, policy(draws[-1], R2).total)


def test_running_mean_starts_at_the_first_value() -> None:
    mean = RunningMean(2, decay=0.9)
    assert mean.update(losses(4.0)).tolist() == [4.0]
    assert mean.update(losses(2.0, 8.0)).tolist() == pytest.approx([3.8, 8.0])
    held = mean.update(losses(0.0, 0.0), measured=torch.tensor([False, True]))
    assert held.tolist() == pytest.approx([3.8, 7.2])


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="fixed, ema, uncertainty, lagging, dwa"):
        weight_policy("em", 4)
