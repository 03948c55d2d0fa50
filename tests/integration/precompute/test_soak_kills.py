"""A hundred kills at random victims and moments, several drivers side by side: every workspace ends with the same rows.

The draw of victims and moments is seeded; the scheduling is not, so that no two soaks meet quite the same states.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.precompute.conftest import Artefacts, Row, Run, Stage
from tests.support.outcome import assert_same, outcome
from tests.support.processes import send
from tests.support.progress import DONE, FRAMES, PARTS, WRITTEN

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("STAGEDKD_SOAK_KILLS", "100"))
LANES = 4
# A driver's death costs the next run 30 s of watching its lease, a worker's a few seconds.
VICTIMS = {"driver": 3, "decode child": 3, "decode actor": 3, "teacher actor": 3, "raylet": 0}
# The last lane has sessions of its own, whose node can be killed; the actors of the first decode and label.
OWN_VICTIMS = VICTIMS | {"raylet": 6}
BOTH_VICTIMS = VICTIMS | {"teacher actor": 0}
ENDS = {"driver": -signal.SIGKILL, "raylet": 1}


class Lane:
    """One workspace after the other: drivers that lose processes until they come to their end."""

    def __init__(self, stage: Stage, number: int, kills: list[Row], enough: threading.Event) -> None:
        self.stage, self.kills, self.enough = stage, kills, enough
        self.draw = random.Random(number)
        self.name = f"lane-{number}"
        self.finished: list[Path] = []
        self.own, self.together = number == LANES - 1, number == 0
        self.victims = OWN_VICTIMS if self.own else BOTH_VICTIMS if self.together else VICTIMS

    def play(self) -> None:
        while not self.enough.is_set():
            self._until_done(self.stage.workspace(f"{self.name}-{len(self.finished)}"))

    def _until_done(self, workspace: Path) -> None:
        """Run the command again and again on one workspace, until it comes to its end."""
        while True:
            run = self.stage.start(workspace, own_session=self.own, precompute__together=self.together)
            while (killed := self._kill_one(run)) and killed not in ENDS:
                pass
            done = run.end()
            assert done.code in (0, ENDS.get(killed, 0)), done.err[-3000:]
            if done.code == 0:
                self.finished.append(workspace)
                return

    def _kill_one(self, run: Run) -> str:
        """Wait until a few more files are there and kill somebody; '' where the run ends, or has had enough."""
        work, seconds = self.draw.randrange(1, 12), self.draw.random() * 0.2
        begun = _files(run)
        while _files(run) < begun + work and run.process.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        victim = self.draw.choices(list(self.victims), list(self.victims.values()))[0]
        found = _find(run, victim)
        if run.process.poll() is not None or self.enough.is_set():
            return ""
        if not found:
            return "nobody"
        sight = run.look()
        if send(found[0]):
            self.kills.append(Row(victim, f"{run.workspace.name}, {work} files later", sight))
            if len(self.kills) >= KILLS:
                self.enough.set()
        return victim


def _files(run: Run) -> int:
    sight = run.look()
    return sight.parts + 2 * sight.count(DONE) + sight.count(FRAMES)


def _find(run: Run, victim: str) -> list[int]:
    cast = run.cast
    finders = {
        "driver": lambda: [run.pid],
        "decode child": cast.decode_children,
        "decode actor": cast.decode_actors,
        "teacher actor": cast.teacher_actors,
        "raylet": cast.raylets,
    }
    return finders[victim]()


def test_a_hundred_kills_leave_no_trace(stage: Stage, wanted: Artefacts, capsys: pytest.CaptureFixture[str]) -> None:
    began, kills, enough = time.monotonic(), list[Row](), threading.Event()
    lanes = [Lane(stage, number, kills, enough) for number in range(LANES)]
    with ThreadPoolExecutor(LANES) as pool:
        for done in [pool.submit(lane.play) for lane in lanes]:
            done.result()
    finished = [workspace for lane in lanes for workspace in lane.finished]
    with capsys.disabled():
        print("\n" + "\n".join(map(str, kills)))
        print(f"{len(kills)} kills, {len(finished)} workspaces, {time.monotonic() - began:.0f} s")
    for workspace in finished:
        assert_same(outcome(workspace / "store"), wanted)
    victims = Counter(row.victim for row in kills)
    assert all(victims[name] >= KILLS / 20 for name, weight in VICTIMS.items() if weight), victims
    assert victims["raylet"], victims
    states = Counter(state for row in kills for state in (PARTS, FRAMES, WRITTEN, DONE) if row.sight.count(state))
    assert states[PARTS], states
    assert states[DONE], states
