"""What a precompute job says of itself: sums over rows and commits, shares of time, the table at the end."""

from typing import Any

import pytest

from pipeline.flow.estimate import Estimate
from pipeline.flow.meter import Meter, table
from pipeline.on_ray.capacity import Demand
from pipeline.on_ray.precompute import Pools
from pipeline.targets.committer import Tally


def played(monkeypatch: pytest.MonkeyPatch, **more: Any) -> Meter:
    """Two micro-batches of 4 and 2 clips, 10 s after each other, by two decode actors."""
    clock = iter((100.0, 110.0, 120.0, 120.0))
    monkeypatch.setattr("pipeline.flow.meter.time.monotonic", lambda: next(clock))
    first = Tally(shards=1, videos=3, views=4, frames_bytes=50, targets_bytes=7, quarantined={"a": "deadline"})
    again = {"a": "deadline", "b": "deadline", "c": "codec", "d": "codec"}  # "a" stands in both plans
    second = Tally(shards=1, videos=1, views=1, targets_bytes=1, halved=1, quarantined=again)
    meter = Meter("precompute", 6, [first, second], metered=False, **more)
    meter.begin(Pools(Demand("decode actors", 2, 1.0), Demand("teacher actors", 1, 1.0)))
    row = {"decode_s": 8.0, "teacher_s": 3.0, "idle_s": 1.0, "retries": 1, "in_flight": 5}
    meter.note(row, 4, 2)
    meter.note(row | {"in_flight": 1}, 2, 0)
    return meter


def test_numbers_are_sums_over_rows_and_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    told = played(monkeypatch).finish()
    assert (told["shards"], told["videos"], told["views"], told["micro_batches"]) == (2, 4, 5, 2)
    assert told["quarantined"] == {"deadline": 2, "codec": 2}
    assert told["bytes"] == {"frames": 50, "targets": 8}
    assert (told["seconds"], told["clips_per_second"]) == (20.0, 0.3)
    assert (told["decode_seconds"], told["teacher_seconds"], told["retries"], told["halved_shards"]) == (16, 6, 2, 1)
    assert told["teacher_waited_share"] == 0.25
    assert told["decode_busy_share"] == 0.4
    assert told["max_open_shards"] == 2
    assert "estimate" not in told


def test_actors_that_do_both_are_busy_with_both_and_wait_beside_both(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 110.0, 120.0))
    monkeypatch.setattr("pipeline.flow.meter.time.monotonic", lambda: next(clock))
    meter = Meter("precompute", 4, [], metered=False)
    meter.begin(Pools(Demand("precompute actors", 2, 1.0), together=True))
    meter.note({"decode_s": 20.0, "teacher_s": 12.0, "idle_s": 8.0}, 4, 0)
    told = meter.finish()
    assert (told["teacher_waited_share"], told["decode_busy_share"]) == (0.2, 0.8)


def test_the_queue_is_what_is_on_the_way_beside_the_row_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = played(monkeypatch)
    assert meter.in_flight == 0
    assert meter.finish()["max_in_flight"] == 4


def test_what_is_left_is_told_from_the_pace_since_the_first_micro_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Actors that took 100 s to start, then a clip a second: 90 of 120 are left after 20 more."""
    clock = iter((0.0, 100.0, 120.0, 120.0))
    monkeypatch.setattr("pipeline.flow.meter.time.monotonic", lambda: next(clock))
    meter = Meter("precompute", 120, [], metered=False)
    meter.begin(Pools(Demand("decode actors", 1, 1.0)))
    with caplog.at_level("INFO"):
        meter.note({}, 10, 1)
        meter.note({}, 20, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "precompute: 10 of 120 views, 0 clips/s, some time left",
        "precompute: 30 of 120 views, 1 clips/s, 90 s left",
    ]
    assert meter.finish()["clips_per_second"] == 0.25


def test_in_the_end_nothing_is_left_even_of_a_single_micro_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter((0.0, 40.0, 40.0))
    monkeypatch.setattr("pipeline.flow.meter.time.monotonic", lambda: next(clock))
    meter = Meter("precompute", 10, [], metered=False)
    meter.begin(Pools(Demand("decode actors", 1, 1.0)))
    with caplog.at_level("INFO"):
        meter.note({}, 10, 1)
        meter.finish()
    assert caplog.records[-1].getMessage() == "precompute: 10 of 10 views, 0.25 clips/s, 0 s left"


def test_the_table_shows_the_estimate_beside_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    guessed = Estimate(6, 60.0, 9.0, 30.0, 0.01, 0.01, 1)
    said = " ".join(table(played(monkeypatch, estimate=guessed).finish()).split())
    assert "time 20 s, 0.3 clips/s decoding 16 s, actors busy 40% teachers 6 s, waited 25%" in said
    assert "on the way at most 4 micro-batches" in said
    assert "quarantine 2 deadline, 2 codec" in said
    assert f"estimated {guessed.words()}" in said
