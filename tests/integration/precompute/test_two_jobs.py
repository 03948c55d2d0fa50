"""A driver that sleeps through the loss of its lease: the next job completes, and the sleeper spoils nothing."""

import signal

from tests.integration.precompute.conftest import Artefacts, Ended, Row, Stage, plays
from tests.support.outcome import assert_same, outcome
from tests.support.processes import send
from tests.support.progress import DONE, WRITTEN, strobe


def overtaken(stage: Stage) -> Ended:
    """Stopped between a targets file and its marker; another job overtakes; then the first goes on."""
    first = stage.start(stage.workspace("overtaken"))
    first.until(lambda sight: sight.parts > 0, "a first part of the frames")
    sight = strobe(first.pid, first.look, lambda sight: sight.count(WRITTEN) > 0 and sight.count(DONE) < 10)
    second = stage.finish(first.workspace)
    send(first.pid, signal.SIGCONT)
    return Ended(first.workspace, [Row("driver", "stopped, not killed", sight)], [second, first.end()])


@plays(overtaken)
def test_a_job_that_slept_through_its_lease_ends_with_a_message_and_spoils_nothing(
    ended: Ended, wanted: Artefacts
) -> None:
    second, first = ended.drivers
    assert second.code == 0, second.err[-3000:]
    assert first.code == 1, first.err[-3000:]
    assert "took over" in first.err
    assert_same(outcome(ended.workspace / "store"), wanted)
