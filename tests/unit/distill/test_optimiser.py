"""The learning-rate schedule and the groups of AdamW."""

import math

import pytest
import torch
from torch import nn

from pipeline.distill.optimiser import build_optimiser, rate, set_rate
from pipeline.distill.spec import Optimiser


def test_the_rate_rises_for_a_twentieth_and_falls_as_a_cosine_to_zero() -> None:
    spec = Optimiser(warmup=0.05)
    values = [rate(spec, step, 200) for step in range(201)]
    assert values[0] == pytest.approx(0.1)
    assert values[4] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 4 / 200)))
    assert max(values) == values[9]
    assert values[100] == pytest.approx(0.5)
    assert values[200] == pytest.approx(0, abs=1e-12)
    assert 0 < values[199] < 1e-3
    assert rate(Optimiser(warmup=0), 0, 200) == 1


def test_frozen_parameters_get_no_decay_and_keep_their_moments() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimiser = build_optimiser(Optimiser(lr=0.1, weight_decay=0.5), network, [])
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    moments = optimiser.state[network[0].weight]["exp_avg"].clone()
    before, other = network[0].weight.detach().clone(), network[1].weight.detach().clone()
    network[0].requires_grad_(False)
    optimiser.zero_grad(set_to_none=True)
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert torch.equal(network[0].weight, before)
    assert torch.equal(optimiser.state[network[0].weight]["exp_avg"], moments)
    assert not torch.equal(network[1].weight, other)


def test_extra_parameters_have_their_own_group_without_decay() -> None:
    network, extra, learnt = nn.Linear(2, 2), nn.Linear(2, 1), nn.Parameter(torch.zeros(1))
    groups = [{"params": list(extra.parameters())}, {"params": [learnt], "lr": 1e-2}]
    optimiser = build_optimiser(Optimiser(lr=0.4, weight_decay=0.3), network, groups)
    assert [(group["weight_decay"], group["peak"]) for group in optimiser.param_groups] == [
        (0.3, 0.4),
        (0, 0.4),
        (0, 0.01),
    ]
    set_rate(optimiser, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.2, 0.2, 0.005]
    assert all(group["fused"] for group in optimiser.param_groups)


def test_what_never_learns_is_not_given_to_the_optimiser() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    (group,) = build_optimiser(Optimiser(), network, []).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in network[1].parameters()]
