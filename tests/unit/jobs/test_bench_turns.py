"""Arms in turns: trees of real processes that note the time while they run."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.bench.turns import Turns

# A process and its child, each with a file into which it writes the time, a hundred times a second.
NOTES = """
import subprocess, sys, time
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1] + "-child"])
with open(sys.argv[1], "w", buffering=1) as stream:
    while True:
        print(time.time(), file=stream)
        time.sleep(0.01)
"""
LATE = 0.1  # seconds: between reading the clock and being stopped


@pytest.fixture
def arms(tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    started = {}
    for arm in ("first", "second"):
        started[arm] = subprocess.Popen([sys.executable, "-c", NOTES, str(tmp_path / arm), NOTES])
    while not all((tmp_path / f"{arm}-child").is_file() for arm in started):
        time.sleep(0.01)
    yield started
    for process in started.values():
        subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
        process.kill()
        process.wait()


def noted(path: Path, since: float) -> list[float]:
    """The last line may be half written."""
    return [moment for line in path.read_text().splitlines()[:-1] if (moment := float(line)) > since]


def test_each_tree_works_in_its_own_turns_alone(arms: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    turns = Turns(0.3)
    for arm, process in arms.items():
        turns.add(arm, process.pid)
    began = time.time() + LATE
    until = began + 2.0
    turns.run(lambda arm: time.time() < until, tuple(arms))
    ended = time.time() + LATE
    for name in ("first", "first-child", "second", "second-child"):
        moments = noted(tmp_path / name, began)
        assert moments, name
        arm = name.partition("-")[0]
        outside = [at for at in moments if turns.active(arm, at - LATE, at + LATE) == 0.0]
        assert outside == [], (name, outside)
        # both sides had turns, so nobody worked for the whole time
        assert max(later - one for one, later in itertools.pairwise(moments)) > 0.15
    shares = [turns.active(arm, began - LATE, ended) for arm in arms]
    assert sum(shares) <= ended - began + LATE
    assert min(shares) > 0.2 * sum(shares)


def test_time_counts_in_own_turns_only_the_one_under_way_too() -> None:
    turns = Turns(0.05)
    for arm in ("one", "other"):
        turns.add(arm)
    with turns.turn("one"):
        time.sleep(0.05)
        assert turns.active("one", 0.0, time.time()) >= 0.05
        assert turns.active("other", 0.0, time.time()) == 0.0
    one = turns.active("one", 0.0, float("inf"))
    with turns.turn("other"):
        time.sleep(0.05)
    assert turns.active("one", 0.0, float("inf")) == one
    assert turns.active("other", 0.0, time.time()) >= 0.05
    assert turns.active("one", time.time(), float("inf")) == 0.0


def test_an_arm_that_has_ended_gets_no_turn_and_only_the_awaited_keep_it_going() -> None:
    turns, had = Turns(0.02), {"short": 0, "long": 0, "background": 0}
    for arm in had:
        turns.add(arm)
    ends = {"short": 1, "long": 3, "background": 1000}
    real = turns.turn

    def counted(arm: str):  # type: ignore[no-untyped-def]
        had[arm] += 1
        return real(arm)

    turns.turn = counted  # type: ignore[method-assign]
    turns.run(lambda arm: had[arm] < ends[arm], ("short", "long"))
    assert had["short"] == 1
    assert had["long"] == 3
    assert had["background"] <= 3


def test_an_arm_may_have_a_part_of_each_turn() -> None:
    turns, until = Turns(0.2), time.time() + 2.0
    turns.add("whole")
    turns.add("half", part=0.5)
    turns.run(lambda arm: time.time() < until, ("whole", "half"))
    whole, half = (turns.active(arm, 0.0, float("inf")) for arm in ("whole", "half"))
    assert 0.35 < half / whole < 0.65
