"""The arithmetic of the benches on rates that were made up, so that every figure can be worked out by hand."""

import pytest

from jobs.bench.isolation import cost
from jobs.bench.rates import (
    Measured,
    best_split,
    clips_for,
    crew_rate,
    decoders_beside,
    growth,
    least,
    ratios,
    separate_bound,
    shared_bound,
    slots_for,
)


def run(arm: str, rate: float) -> Measured:
    return Measured(arm, clips=100, seconds=100 / rate, rate=rate, cpu_seconds=50.0, processes=2)


def test_bounds_of_shared_cores_and_of_a_device_of_its_own() -> None:
    assert shared_bound(12.0, 6.0) == pytest.approx(4.0)  # 1/12 + 1/6 = 1/4 of a second of all cores
    assert separate_bound(12.0, 6.0) == 6.0


def test_each_worker_counts_until_its_own_last_micro_batch() -> None:
    workers = [[(1.0, 10), (2.0, 10)], [(4.0, 16)], []]
    assert crew_rate(workers) == pytest.approx(20 / 2.0 + 16 / 4.0)


def test_each_run_is_held_against_the_rates_before_and_behind_it() -> None:
    slow, fast = [run("decode", 8.0), run("teacher", 8.0)], [run("decode", 12.0), run("teacher", 12.0)]
    runs = [*slow, run("naive", 3.2), *slow, run("pipeline", 4.5), *fast]
    runs += [run("naive", 5.4), *fast, run("pipeline", 6.0), *fast]
    first, second = ratios(runs, shared=True)
    assert first.bound == pytest.approx(5.0)  # a = b = 10, in between
    assert second.bound == pytest.approx(6.0)
    assert (first.pipeline_by_bound, first.naive_by_bound) == pytest.approx((0.9, 0.8))
    assert first.pipeline_by_naive == pytest.approx(0.9 / 0.8)
    assert second.pipeline_by_naive == pytest.approx(6.0 / 5.4)
    assert second.reached == pytest.approx(1.0)


def test_a_device_of_its_own_is_bounded_by_the_slower_side() -> None:
    decode = run("decode", 10.0)
    runs = [decode, run("naive", 4.0), decode, run("pipeline", 7.0), decode]
    assert ratios(runs, shared=False, device_rate=8.0)[0].bound == 8.0
    assert ratios(runs, shared=False, device_rate=20.0)[0].bound == 10.0
    teachers = [run("teacher", rate) for rate in (5.0, 5.0, 7.0)]
    measured = [decode, teachers[0], run("naive", 4.0), decode, teachers[1], run("pipeline", 7.0), decode, teachers[2]]
    assert ratios(measured, shared=False)[0].bound == pytest.approx(6.0)


def test_the_smaller_split_wins_where_a_larger_one_is_hardly_better() -> None:
    assert best_split({1: 5.0, 2: 9.0, 3: 9.05, 4: 8.0}) == 2
    assert best_split({1: 5.0, 2: 9.0, 3: 9.5}) == 3


def test_whole_shards_that_last_long_enough() -> None:
    assert clips_for(300, 7.0, 128) == 17 * 128  # 2,100 clips
    assert clips_for(0.1, 1.0, 128) == 256


def test_micro_batches_of_two_seconds() -> None:
    assert slots_for(2.0, 7.5, 16) == 16
    assert slots_for(2.0, 12.0, 16) == 24
    assert slots_for(2.0, 12.1, 16) == 32


def test_growth_leaves_out_what_only_one_side_has() -> None:
    assert growth({"driver": 200.0, "ray": 0.0}, {"driver": 220.0, "ray": 5.0, "other": 1.0}) == {
        "driver": pytest.approx(10.0)
    }


def test_isolation_is_the_median_of_paired_quotients() -> None:
    found = cost([0.11, 0.24, 0.9], [0.10, 0.20, 0.3], views=2)
    assert (found.videos, found.child_ms, found.in_process_ms) == (3, pytest.approx(120.0), pytest.approx(100.0))
    assert found.overhead == pytest.approx(0.2)


def test_processor_time_is_told_per_clip() -> None:
    assert run("naive", 4.0).to_json()["cpu_per_clip"] == 0.5


def test_decoders_beside_teachers_are_the_share_of_the_cores_that_decoding_needs() -> None:
    assert decoders_beside(a=14.0, b=5.6, cores=2) == 1  # 29 % of two
    assert decoders_beside(a=10.0, b=10.0, cores=2) == 1
    assert decoders_beside(a=10.0, b=10.0, cores=16) == 8
    assert decoders_beside(a=4.0, b=12.0, cores=16) == 12
    assert decoders_beside(a=1000.0, b=1.0, cores=2) == 1


def test_the_least_of_several_runs_is_of_kinds_that_all_have() -> None:
    assert least([{"driver": 3.0, "ray": 1.0}, {"driver": 2.0}, {"ray": 2.0, "driver": 4.0}]) == {"driver": 2.0}
