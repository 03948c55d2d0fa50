"""The store is an S3 server that is not well: the same tables as in a local folder, or exit 1 and nothing lost."""

import time

import pytest

from tests.integration.precompute.conftest import Artefacts, Ended, Run, Stage, plays
from tests.support.driver import Finished
from tests.support.outcome import assert_same, outcome
from tests.support.processes import wait_for
from tests.support.servers import BUCKET, S3, faulty, s3_server


def ailing_store(stage: Stage) -> Ended:
    """A server behind a proxy that spoils every few requests. It is killed under a run and comes back."""
    folder, at = stage.workspace("ailing"), stage.head.store
    folder.mkdir()
    with s3_server(folder, key=at.key, secret=at.secret) as server:
        with faulty(server, folder, port=at.port, unavailable=7, lost=9, slow=12) as way:
            survived = _run(stage, server, "faults", away=2)
            faults = way.made()
        server.client().get(f"{BUCKET}/faults", str(folder / "faults" / "store"), recursive=True)
    assert min(faults[name] for name in ("unavailable", "lost", "slow")) > 0, faults
    return Ended(folder, drivers=[survived])


def lost_store(stage: Stage) -> Ended:
    """A server that dies under a run and stays away until that gives up; once it is back, the command runs again."""
    folder, at = stage.workspace("lost"), stage.head.store
    folder.mkdir()
    with s3_server(folder, key=at.key, secret=at.secret) as server:
        with faulty(server, folder, port=at.port):
            failed = _run(stage, server, "outage", away=None)
            server.start()
            completed = _start(stage, "outage").end()
        server.client().get(f"{BUCKET}/outage", str(folder / "outage" / "store"), recursive=True)
    return Ended(folder, drivers=[failed, completed])


def _run(stage: Stage, server: S3, name: str, away: float | None) -> Finished:
    """A run under which the server dies, and stays away for so many seconds or until the run has ended."""
    run = _start(stage, name)
    _wait_for_parts(run, server, name, 6)
    server.kill()
    if away is not None:
        time.sleep(away)
        server.start()
    return run.end()


def _start(stage: Stage, name: str) -> Run:
    return stage.start(stage.workspace(f"ailing-{name}"), storage__root=f"s3://{BUCKET}/{name}")


def _wait_for_parts(run: Run, server: S3, name: str, count: int) -> None:
    store = server.client()

    def written() -> bool:
        assert run.process.poll() is None, run.said()
        return sum(".part-" in path for path in store.find(f"{BUCKET}/{name}/frames")) >= count

    wait_for(written, "the first parts in the store")


@plays(ailing_store, waits=True)
def test_faults_and_a_restart_of_the_store_change_no_row(ended: Ended, wanted: Artefacts) -> None:
    survived = ended.drivers[0]
    assert survived.code == 0, survived.err[-3000:]
    assert_same(outcome(ended.workspace / "faults" / "store"), wanted)


@pytest.mark.soak  # each request is tried for 90 s before the job gives up
@plays(lost_store, waits=True)
def test_an_outage_of_the_store_fails_the_job_and_quarantines_nobody(ended: Ended, wanted: Artefacts) -> None:
    failed, completed = ended.drivers
    assert failed.code == 1, failed.err[-3000:]
    assert "stagedkd: " in failed.err.strip().splitlines()[-1]
    assert completed.code == 0, completed.err[-3000:]
    assert_same(outcome(ended.workspace / "outage" / "store"), wanted)
