"""Sizes of assistants, wiring, and which sources count at a step."""

import math

import pytest

from pipeline.distill.cascade import kept_sources, plan_assistants, sources_of, target_sizes
from pipeline.errors import ConfigError
from pipeline.models.registry import count_parameters, widen_spec
from pipeline.models.spec import NetworkSpec
from tests.unit.distill.toys import network_spec


def widen(factor: float) -> tuple[NetworkSpec, int]:
    spec = widen_spec(network_spec(widths=[4, 8, 16, 16]), factor)
    return spec, count_parameters(spec)


def test_sizes_are_geometric() -> None:
    assert target_sizes(80_000, 10_000, 2) == [40_000, 20_000]
    assert target_sizes(450_000, 12_000, 1) == [73_485]


def test_assistants_are_the_realised_networks_nearest_to_the_sizes() -> None:
    student = widen(1.0)[1]
    found = plan_assistants(450_000, student, 2, widen)
    counts = [count for _, count in found]
    assert [spec.options["widths"][0] for spec, _ in found] == sorted([s.options["widths"][0] for s, _ in found])[::-1]
    for count, wanted in zip(counts, target_sizes(450_000, student, 2), strict=True):
        assert 0.8 < count / wanted < 1.25
        nearest = min(abs(math.log(widen(factor / 100)[1] / wanted)) for factor in range(100, 700, 5))
        assert abs(math.log(count / wanted)) <= nearest + 1e-9
    assert counts == [count_parameters(spec) for spec, _ in found]
    assert plan_assistants(450_000, student, 0, widen) == []


def test_a_step_under_1_3_is_refused_with_the_arithmetic() -> None:
    student = widen(1.0)[1]
    with pytest.raises(ConfigError, match=r"cascade\.K = 3.*fall by.*at least 1\.3"):
        plan_assistants(2 * student, student, 3, widen)
    with pytest.raises(ConfigError, match="one per assistant"):
        plan_assistants(450_000, student, 2, widen, sizes=[100_000])


def test_given_sizes_take_the_place_of_geometric_ones() -> None:
    ((_, count),) = plan_assistants(450_000, widen(1.0)[1], 1, widen, sizes=[150_000])
    assert 130_000 < count < 170_000


def test_wiring_names_the_earlier_networks_newest_last() -> None:
    assert [sources_of(k, "chain") for k in (1, 2, 3)] == [(0,), (1,), (2,)]
    assert [sources_of(k, "dense") for k in (1, 2, 3)] == [(0,), (0, 1), (0, 1, 2)]


def test_older_sources_drop_out_a_quarter_of_the_time_and_the_newest_never() -> None:
    draws = [kept_sources(3, dropout=0.25, seed=5, step=step) for step in range(4000)]
    assert all(kept[-1] == 2 for kept in draws)
    for older in (0, 1):
        assert 0.72 < sum(older in kept for kept in draws) / len(draws) < 0.78
    both = sum(kept == (0, 1, 2) for kept in draws) / len(draws)
    assert 0.53 < both < 0.595, "sources drop out independently"
    assert draws == [kept_sources(3, dropout=0.25, seed=5, step=step) for step in range(4000)]
    assert draws != [kept_sources(3, dropout=0.25, seed=6, step=step) for step in range(4000)]
    assert kept_sources(1, dropout=0.9, seed=0, step=0) == (0,)
