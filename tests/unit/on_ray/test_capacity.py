"""What fits and what does not, as arithmetic."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import CapacityError
from pipeline.on_ray.capacity import Capacity, Demand, check, fit_decoders
from pipeline.on_ray.session import _memory_per_cpu

TWO = Capacity(2.0, 0.0, "its present total")


def test_what_fits_exactly_is_taken() -> None:
    check("precompute", [Demand("reading", 1, 0.1), Demand("decode", 1, 0.9), Demand("teacher", 1, 1.0)], TWO)


def test_the_refusal_shows_the_sum_and_what_the_cluster_can_become() -> None:
    with pytest.raises(CapacityError) as refused:
        check("distill", [Demand("train workers", 3, 1.0), Demand("reading", 1, 0.5)], TWO)
    text = str(refused.value)
    assert "train workers 3 × 1 CPU + reading 1 × 0.5 CPU = 3.5 CPU, 0 GPU" in text
    assert "at most 2 CPU, 0 GPU (its present total)" in text
    assert refused.value.exit_code == 2


def test_a_gpu_that_is_not_there_is_refused_even_where_cpus_are_free() -> None:
    with pytest.raises(CapacityError, match="1 × 1 GPU"):
        check("fit-teacher", [Demand("train workers", 1, 1.0, 1.0)], TWO)


@pytest.mark.parametrize(
    ("asked", "cpus", "free", "given"), [(8, 0.9, 1.9, 2), (1, 0.9, 1.9, 1), (2, 0.9, 0.5, 1), (3, 0.5, 1.5, 3)]
)
def test_decoders_are_as_many_as_fit_and_at_least_one(asked: int, cpus: float, free: float, given: int) -> None:
    assert fit_decoders(asked, cpus, free) == given


def test_an_actor_asks_for_the_memory_that_it_needs_where_its_cpus_bring_that_along() -> None:
    assert replace(TWO, memory_per_cpu=4e9).memory(1.5e9, 0.5) == 1.5e9
    assert replace(TWO, memory_per_cpu=1e9).memory(1.5e9, 0.5) == 0.5e9
    assert TWO.memory(1.5e9, 0.5) == 0.0


def test_the_node_with_least_memory_beside_a_cpu_decides() -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=4.0, memory=16e9), node(CPU=2.0, memory=6e9), node(memory=1e9), node(False, CPU=8.0, memory=1e9)]
    assert _memory_per_cpu(nodes) == 3e9
    assert _memory_per_cpu([]) == 0.0
