"""The cascade: how large the assistants are, and which earlier networks each one learns from.

Wiring: `chain` is TAKD (Mirzadeh 2020), `dense` is DGKD (Son 2021).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pipeline.artifacts.identity import unit_draw
from pipeline.errors import ConfigError
from pipeline.models.spec import NetworkSpec

SMALLEST_RATIO = 1.3
LARGEST_FACTOR = 4096.0

Widen = Callable[[float], tuple[NetworkSpec, int]]


def target_sizes(teacher: int, student: int, assistants: int) -> list[int]:
    """Parameter counts of the assistants, largest first: geometric between the teacher's and the student's."""
    ratio = (student / teacher) ** (1 / (assistants + 1))
    return [round(teacher * ratio**k) for k in range(1, assistants + 1)]


def plan_assistants(
    teacher: int, student: int, assistants: int, widen: Widen, sizes: Sequence[int] | None = None
) -> list[tuple[NetworkSpec, int]]:
    """The K assistants between `teacher` and `student` (parameter counts), largest first.

    `widen(factor)` gives the student's family widened and its realised parameter count; it must not fall as the factor
    grows. Each assistant is the realised network nearest, on a log scale, to its size (`sizes`: wanted parameter counts
    in place of geometric ones). ConfigError if a step of the chain has a realised ratio under 1.3.
    """
    if assistants == 0:
        return []
    wanted = list(sizes) if sizes is not None else target_sizes(teacher, student, assistants)
    if len(wanted) != assistants:
        raise ConfigError(f"cascade.sizes has {len(wanted)} sizes for cascade.K = {assistants}; give one per assistant")
    found = [_nearest(size, widen) for size in wanted]
    _check_ratios([teacher, *(count for _, count in found), student])
    return found


def _nearest(size: int, widen: Widen) -> tuple[NetworkSpec, int]:
    """Bisection on the factor: counts move in jumps, so the best of all that were tried is kept."""
    low, high = 1.0, 2.0
    tried = [widen(low), widen(high)]
    while tried[-1][1] < size and high < LARGEST_FACTOR:
        low, high = high, 2 * high
        tried.append(widen(high))
    for _ in range(12):
        middle = math.sqrt(low * high)
        tried.append(widen(middle))
        low, high = (middle, high) if tried[-1][1] < size else (low, middle)
    return min(tried, key=lambda found: abs(math.log(found[1] / size)))


def _check_ratios(counts: Sequence[int]) -> None:
    ratios = [larger / smaller for larger, smaller in pairwise(counts)]
    if min(ratios) >= SMALLEST_RATIO:
        return
    chain = " → ".join(f"{count:,}" for count in counts)
    steps = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    raise ConfigError(
        f"cascade.K = {len(counts) - 2}: the parameter counts {chain} (teacher, assistants, student) fall by {steps}; "
        f"each step must be at least {SMALLEST_RATIO}. Lower cascade.K, or choose a larger teacher or smaller student"
    )


def sources_of(position: int, wiring: str) -> tuple[int, ...]:
    """Networks that network `position` (0 is the teacher, K + 1 the student) learns from, oldest first, newest last."""
    assert position >= 1
    return tuple(range(position)) if wiring == "dense" else (position - 1,)


def kept_sources(count: int, *, dropout: float, seed: int, step: int) -> tuple[int, ...]:
    """Positions of the sources whose KL counts at `step` (DGKD): each older one is left out with probability `dropout`,
    drawn from (seed, step) alone; the newest, which is last, always stays."""
    older = range(count - 1)
    return (*(n for n in older if unit_draw("source", seed, step, n) >= dropout), count - 1)
