"""How long the driver pauses between two looks for finished work; the clock is made up."""

import threading
import time
from types import SimpleNamespace

import pytest
from ray.data import DataContext
from ray.data._internal.execution import streaming_executor_state

from pipeline.on_ray.unhurried import LONGEST, LOOK, Unhurried, do_not_hurry, unhurried_reader


def after(every: float, tasks: int = 100) -> float:
    """The pause once so many tasks were finished, one each `every` seconds."""
    pacer = Unhurried()
    for number in range(1, tasks + 1):
        pause = pacer.pause(number, number * every)
    return pause


def test_nothing_is_waited_for_before_two_tasks_are_finished() -> None:
    pacer = Unhurried()
    assert pacer.pause(0, 5.0) == 0.0
    assert pacer.pause(1, 50.0) == 0.0


def test_the_pause_is_a_part_of_the_time_between_tasks_and_never_long() -> None:
    assert after(0.4) == pytest.approx(0.3, rel=1e-3)
    assert after(0.001) == pytest.approx(0.00075, rel=1e-3)
    assert after(60.0) == LONGEST


def test_a_look_at_which_nothing_is_new_changes_nothing_and_several_tasks_share_their_time() -> None:
    pacer = Unhurried()
    pacer.pause(1, 0.0)
    first = pacer.pause(5, 2.0)  # 0.5 s each, weight 0.1
    assert first == pytest.approx(0.75 * 0.05)
    assert pacer.pause(5, 9.0) == first


def test_after_a_slow_start_fast_tasks_are_not_kept_waiting() -> None:
    pacer = Unhurried()
    pacer.pause(1, 0.0)
    assert pacer.pause(2, 60.0) == LONGEST
    assert pacer.pause(3, 60.01) == pytest.approx(0.0075)


def test_a_step_sleeps_for_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("pipeline.on_ray.unhurried.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("pipeline.on_ray.unhurried.time.sleep", slept.append)
    pacer, state = Unhurried(), SimpleNamespace(num_completed_tasks=1)
    for finished in (1, 11):
        state.num_completed_tasks = finished
        pacer.on_execution_step(SimpleNamespace(_topology={"map": state}))
    assert slept == [0.0, pytest.approx(0.75 * 0.1)]


def test_it_is_registered_once() -> None:
    context = DataContext()
    do_not_hurry(context)
    do_not_hurry(context)
    assert context.custom_execution_callback_classes.count(Unhurried) == 1


class Empty:
    """In the place of an operator's state whose queue stays empty for three looks."""

    _exception, _finished, _num_waiting_consumers = None, False, 0

    def __init__(self) -> None:
        self._waiting_consumers_lock = threading.Lock()
        self.looks = 0
        self.output_queue = self

    def pop(self, _: object) -> None:
        self.looks += 1
        self._finished = self.looks == 3

    def has_next(self, _: object) -> bool:
        return False


def test_who_reads_looks_ten_times_a_second_as_long_as_a_graph_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own loop, which looks a hundred times."""
    slept: list[float] = []
    monkeypatch.setattr("pipeline.on_ray.unhurried.time.sleep", slept.append)
    read = streaming_executor_state.OpState.get_output_blocking
    with unhurried_reader():
        assert streaming_executor_state.time.monotonic() <= time.monotonic()  # anything else is as it was
        with pytest.raises(StopIteration):
            read(Empty(), None)  # type: ignore[arg-type]
    assert slept == [LOOK] * 3
    with pytest.raises(StopIteration):
        read(Empty(), None)  # type: ignore[arg-type]
    assert max(slept[3:]) < LOOK
