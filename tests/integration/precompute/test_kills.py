"""Real SIGKILLs at moments that are seen in the files: the same command then ends with the same rows, bit for bit."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.integration.precompute.conftest import Artefacts, Ended, Row, Run, Scene, Stage, plays
from tests.support.outcome import assert_same, outcome
from tests.support.processes import alive, send, wait_for
from tests.support.progress import DONE, FRAMES, PARTS, WRITTEN, Sight, strobe

PLANNED_PARTS = 53


def killed_at_the_first_part(stage: Stage) -> Ended:
    run = stage.start(stage.workspace("first-part"))
    sight = run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    return _killed(stage, run, "first part in", sight)


def killed_at_a_marker(stage: Stage) -> Ended:
    run = stage.start(stage.workspace("marker"))
    run.until(lambda sight: sight.count(DONE) > 0, "a first shard committed")
    sight = strobe(run.pid, run.look, lambda sight: sight.count(DONE) >= 5 and sight.count(WRITTEN) > 0)
    return _killed(stage, run, "five shards committed, another written", sight)


def killed_between_the_markers(stage: Stage) -> Ended:
    run = stage.start(stage.workspace("between"))
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    sight = strobe(run.pid, run.look, lambda sight: sight.count(FRAMES) > 0 and not sight.hidden_targets)
    return _killed(stage, run, "frames committed, targets not begun", sight)


def killed_while_the_committer_writes(stage: Stage) -> Ended:
    run = stage.start(stage.workspace("writing"))
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    sight = strobe(run.pid, run.look, lambda sight: sight.hidden_targets > 0)
    return _killed(stage, run, "a targets file half written", sight)


def killed_during_back_pressure(stage: Stage) -> Ended:
    """The teacher stands still, so the decoders come to rest; a second job is refused meanwhile."""
    run = stage.start(stage.workspace("pressure"))
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    teacher = _hold_teacher(run)
    second = stage.start(run.workspace)
    sight = _rest(run)
    refused = second.end()
    ended = _killed(stage, run, "back-pressure, a second job refused", sight, release=teacher)
    return Ended(ended.workspace, ended.kills, [refused, *ended.drivers])


def workers_killed(stage: Stage) -> Ended:
    """Child, decode actor and teacher actor of one run, which goes on by itself."""
    run = stage.start(stage.workspace("workers"))
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    teacher = _hold_teacher(run)
    kills = [_kill_worker(run, "decode child", run.cast.decode_children)]
    wait_for(lambda: run.cast.decode_children(), "a new decode child")
    kills.append(_kill_worker(run, "decode actor", run.cast.decode_actors))
    kills.append(Row("teacher actor", "while micro-batches wait for it", run.look()))
    send(teacher, signal.SIGKILL)
    return Ended(run.workspace, kills, [run.end()])


def worker_that_does_both_killed(stage: Stage) -> Ended:
    """An actor that decodes and labels in turn, of two."""
    run = stage.start(stage.workspace("together"), precompute__together=True)
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    kill = _kill_worker(run, "actor that does both", run.cast.decode_actors)
    return Ended(run.workspace, [kill], [run.end()])


def raylet_killed(stage: Stage) -> Ended:
    """The node of a session of its own dies under the driver."""
    run = stage.start(stage.workspace("raylet"), own_session=True)
    sight = run.until(lambda sight: sight.parts > 0, "a first part of the frames")
    (raylet,) = run.cast.raylets()
    send(raylet, signal.SIGKILL)
    died = run.end()
    return Ended(run.workspace, [Row("raylet", "first part in", sight)], [died, stage.finish(run.workspace)])


def _killed(stage: Stage, run: Run, moment: str, sight: Sight, *, release: int | None = None) -> Ended:
    """Kill the driver and run the same command to its end."""
    died = run.kill()
    if release is not None:
        send(release, signal.SIGKILL)
    assert died.code == -signal.SIGKILL, f"ended by itself with {died.code}: {died.err[-2000:]}"
    return Ended(run.workspace, [Row("driver", moment, sight)], [died, stage.finish(run.workspace)])


def _hold_teacher(run: Run) -> int:
    """Stop the teacher's actor; its process id."""
    teachers = wait_for(run.cast.teacher_actors, "the teacher's actor")
    send(teachers[0], signal.SIGSTOP)
    return teachers[0]


def _rest(run: Run, seconds: float = 2.0) -> Sight:
    """The sight once no part was added for `seconds`, though more are planned."""
    seen, since = run.look(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.05)
        now = run.look()
        if now.parts != seen.parts:
            seen, since = now, time.monotonic()
    return run.look()


def _kill_worker(run: Run, victim: str, find: Callable[[], list[int]]) -> Row:
    pid = wait_for(find, victim)[0]
    sight = run.look()
    send(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), f"the end of the {victim}")
    return Row(victim, "while it decodes", sight)


SCENES: tuple[Scene, ...] = (
    raylet_killed,
    killed_during_back_pressure,
    killed_at_the_first_part,
    killed_at_a_marker,
    killed_between_the_markers,
    killed_while_the_committer_writes,
    workers_killed,
    worker_that_does_both_killed,
)

# What a kill must have met at least once in a run of this file, by what was seen at that moment.
STATES: dict[str, Callable[[Row], bool]] = {
    "parts without a marker": lambda row: row.sight.count(PARTS) > 0,
    "frames committed, targets not begun": lambda row: row.victim == "driver" and row.sight.count(FRAMES) > 0,
    "a hidden targets file, half written": lambda row: row.victim == "driver" and row.sight.hidden_targets > 0,
    "a targets file without its marker": lambda row: row.victim == "driver" and row.sight.count(WRITTEN) > 0,
    "some shards committed": lambda row: row.victim == "driver" and row.sight.count(DONE) >= 5,
    "the lease held": lambda row: bool(row.sight.owners),
    "back-pressure": lambda row: row.moment.startswith("back-pressure"),
    "the decode child": lambda row: row.victim == "decode child",
    "the decode actor": lambda row: row.victim == "decode actor",
    "the teacher actor": lambda row: row.victim == "teacher actor",
    "the actor that does both": lambda row: row.victim == "actor that does both",
    "the raylet": lambda row: row.victim == "raylet",
}


@pytest.mark.parametrize("scene", [pytest.param(scene, marks=plays(scene)) for scene in SCENES])
def test_the_same_command_ends_with_the_same_rows(scene: Scene, ended: Ended, wanted: Artefacts) -> None:
    assert ended.last.code == 0, ended.last.err[-3000:]
    assert_same(outcome(ended.workspace / "store"), wanted)


@plays(killed_during_back_pressure)
def test_under_back_pressure_decoding_rests_before_the_plan_is_through(ended: Ended, stage: Stage) -> None:
    (row,) = ended.kills
    assert 0 < row.sight.parts < PLANNED_PARTS


@plays(killed_during_back_pressure)
def test_a_second_job_is_refused_while_the_first_lives_and_takes_over_once_it_is_dead(ended: Ended) -> None:
    refused, first, took_over = ended.drivers
    (owner,) = ended.kills[0].sight.owners
    assert refused.code == 1
    assert "is being written by" in refused.err
    assert owner in refused.err
    assert first.code == -signal.SIGKILL
    assert took_over.code == 0


@plays(workers_killed)
def test_a_run_that_loses_its_workers_goes_on_by_itself(ended: Ended) -> None:
    assert [row.victim for row in ended.kills] == ["decode child", "decode actor", "teacher actor"]
    assert len(ended.drivers) == 1


@plays(worker_that_does_both_killed)
def test_a_run_that_loses_an_actor_that_does_both_goes_on_by_itself(ended: Ended) -> None:
    assert [row.victim for row in ended.kills] == ["actor that does both"]
    assert len(ended.drivers) == 1


@plays(raylet_killed)
def test_a_run_whose_node_dies_ends_with_a_message(ended: Ended) -> None:
    died = ended.drivers[0]
    assert died.code == 1
    assert "goes on from what is committed" in died.err


@plays(*SCENES)
def test_every_state_of_the_protocol_was_met(
    played: dict[Scene, "Future[Ended]"], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for scene in SCENES for row in played[scene].result(timeout=560).kills]
    with capsys.disabled():
        print("\n" + "\n".join(str(row) for row in rows))
    assert [state for state, met in STATES.items() if not any(map(met, rows))] == []
