import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pipeline.artifacts.lease as module
from pipeline.artifacts.lease import Lease
from pipeline.errors import JobError
from tests.unit.artifacts.tables import line_of, run_python, tell

DURATION, RENEW = 1.5, 0.2
HOLDER = """
import sys
from pathlib import Path
from pipeline.artifacts.lease import Lease
from pipeline.errors import JobError
try:
    with Lease(Path(sys.argv[1]), sys.argv[2], duration=float(sys.argv[3]), renew=float(sys.argv[4])) as lease:
        print("holds", lease.epoch, flush=True)
        for line in sys.stdin:
            if line.strip() == "end":
                break
            lease.check()
            print("still", lease.epoch, flush=True)
except JobError as error:
    print("lost:", error, flush=True)
"""


def lease(folder: Path, owner: str) -> Lease:
    return Lease(folder, owner, duration=DURATION, renew=RENEW)


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "lease.json").read_text())


def test_a_free_and_a_released_lease_are_taken_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for epoch in (1, 2, 3):
        with lease(tmp_path / "new", f"owner {epoch}") as held:
            held.check()
            assert held.epoch == epoch
            assert record(tmp_path / "new")["owner"] == f"owner {epoch}"
            assert record(tmp_path / "new")["released"] is False
        assert record(tmp_path / "new")["released"] is True
    assert time.monotonic() - began < DURATION
    assert [path.name for path in (tmp_path / "new").glob("*.claim")] == ["lease.00000003.claim"]


def test_a_living_owner_is_named_and_keeps_its_lease(tmp_path: Path) -> None:
    with lease(tmp_path, "host-a:17") as first:
        began = time.monotonic()
        with pytest.raises(JobError, match=r"host-a:17 \(lease epoch 1\)") as caught, lease(tmp_path, "host-b:18"):
            raise AssertionError("two owners")
        assert time.monotonic() - began < DURATION
        assert caught.value.exit_code == 1
        assert str(tmp_path) in str(caught.value)
        first.check()


def test_the_lease_is_given_back_when_the_job_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease(tmp_path, "a"):
        _ = 1 / 0
    with lease(tmp_path, "b") as held:
        assert held.epoch == 2


def test_a_killed_owner_is_followed_with_the_next_epoch(tmp_path: Path) -> None:
    holder = run_python(HOLDER, tmp_path, "host-a:17", DURATION, RENEW)
    assert line_of(holder) == "holds 1"
    holder.kill()
    holder.wait(10)
    began = time.monotonic()
    with lease(tmp_path, "host-b:18") as held:
        waited = time.monotonic() - began
        assert held.epoch == 2
        assert DURATION <= waited < 4 * DURATION
        held.check()
        assert record(tmp_path)["owner"] == "host-b:18"


def test_dead_owners_that_were_looked_at_side_by_side_are_followed_at_once(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    holders = [run_python(HOLDER, folder, "host-a:17", DURATION, RENEW) for folder in folders]
    for holder in holders:
        assert line_of(holder) == "holds 1"
        holder.kill()
        holder.wait(10)
    leases = [lease(folder, "host-b:18") for folder in folders]
    with ThreadPoolExecutor() as threads:
        list(threads.map(Lease.look, leases))
    began = time.monotonic()
    with leases[0] as first, leases[1] as second:
        assert time.monotonic() - began < DURATION
        assert (first.epoch, second.epoch) == (2, 2)


def test_an_owner_that_came_after_the_look_is_watched_again(tmp_path: Path) -> None:
    late = lease(tmp_path, "late")
    late.look()
    with lease(tmp_path, "host-a:17"), pytest.raises(JobError, match="host-a:17"), late:
        raise AssertionError("two owners")


def test_a_stopped_owner_that_wakes_up_finds_that_it_lost(tmp_path: Path) -> None:
    holder = run_python(HOLDER, tmp_path, "host-a:17", DURATION, RENEW)
    assert line_of(holder) == "holds 1"
    tell(holder, "check")
    assert line_of(holder) == "still 1"
    holder.send_signal(signal.SIGSTOP)
    with lease(tmp_path, "host-b:18") as held:
        assert held.epoch == 2
        holder.send_signal(signal.SIGCONT)
        tell(holder, "check")
        answer = line_of(holder)
        assert answer.startswith("lost:")
        assert "host-a:17" in answer
        assert "host-b:18" in answer
        assert holder.wait(10) == 0
        held.check()
        time.sleep(2 * RENEW)
        held.check()
    assert record(tmp_path) == {"owner": "host-b:18", "epoch": 2, "beat": record(tmp_path)["beat"], "released": True}


def test_of_several_that_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    holder = run_python(HOLDER, tmp_path, "dead", DURATION, RENEW)
    assert line_of(holder) == "holds 1"
    holder.kill()
    holder.wait(10)
    heirs = [run_python(HOLDER, tmp_path, f"heir-{n}", DURATION, RENEW) for n in range(4)]
    answers = [line_of(heir) for heir in heirs]
    winners = [n for n, answer in enumerate(answers) if answer == "holds 2"]
    assert len(winners) == 1, answers
    assert all(f"heir-{winners[0]}" in answer for n, answer in enumerate(answers) if n not in winners), answers
    tell(heirs[winners[0]], "end")
    assert [heir.wait(10) for heir in heirs] == [0] * 4


def test_an_owner_that_ends_while_it_is_watched_is_followed(tmp_path: Path) -> None:
    first = lease(tmp_path, "a")
    first.renew = 10.0  # so that the watcher sees no heartbeat, only the release
    first.__enter__()
    ending = threading.Timer(DURATION / 4, first.__exit__, (None, None, None))
    ending.start()
    began = time.monotonic()
    with lease(tmp_path, "b") as held:
        assert time.monotonic() - began < DURATION
        assert held.epoch == 2
    ending.join()


def test_a_next_claim_or_a_missing_own_claim_means_lost(tmp_path: Path) -> None:
    with lease(tmp_path, "a") as held:
        following = tmp_path / "lease.00000002.claim"
        following.write_text("heir")
        with pytest.raises(JobError, match="heir took over"):
            held.check()
        following.unlink()
        held.check()
        (tmp_path / "lease.00000001.claim").unlink()
        with pytest.raises(JobError, match="took over"):
            held.check()


def test_a_store_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(tmp_path, "a") as held:
        failures: list[int] = []
        write = held._write

        def fails_twice(released: bool) -> None:
            if len(failures) < 2:
                failures.append(1)
                raise OSError("no route to the store")
            write(released)

        monkeypatch.setattr(held, "_write", fails_twice)
        before, end = record(tmp_path)["beat"], time.monotonic() + 20
        while record(tmp_path)["beat"] == before and time.monotonic() < end:
            time.sleep(RENEW / 4)
        held.check()
        assert len(failures) == 2
        assert record(tmp_path)["beat"] != before


def test_a_store_that_hangs_does_not_hold_up_a_job_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away, back = threading.Event(), threading.Event()
    before = module.size_of

    def hangs(path: Path) -> int | None:
        away.set()
        back.wait(60)
        return before(path)

    held = lease(tmp_path, "a").__enter__()
    monkeypatch.setattr(module, "size_of", hangs)
    assert away.wait(10)
    began = time.monotonic()
    held.__exit__(None, None, None)
    assert time.monotonic() - began < 20
    assert record(tmp_path)["released"] is False
    back.set()


def test_an_owner_that_is_stopped_between_its_two_looks_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two others follow and tidy up while it looks: whichever claim it looks at first, the other one tells."""
    held = Lease(tmp_path, "a", duration=3600, renew=1800)
    with held:
        looks: list[str] = []

        def stopped_after_the_first(path: Path) -> int | None:
            looks.append(path.name)
            found = path.stat().st_size if path.is_file() else None
            if len(looks) == 1:
                for epoch in (2, 3):
                    (tmp_path / f"lease.{epoch:08d}.claim").write_text("heir")
                    (tmp_path / f"lease.{epoch - 1:08d}.claim").unlink()
            return found

        monkeypatch.setattr(module, "size_of", stopped_after_the_first)
        with pytest.raises(JobError, match="took over"):
            held.check()
        assert len(looks) == 2


def test_claims_go_in_ascending_order_so_that_a_kill_leaves_no_owner_without_its_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in range(1, 12):
        (tmp_path / f"lease.{epoch:08d}.claim").write_text(f"dead {epoch}")
    (tmp_path / "lease.json").write_text(json.dumps({"owner": "dead", "epoch": 11, "beat": 1, "released": True}))
    gone: list[str] = []
    monkeypatch.setattr(module, "remove", lambda path: gone.append(path.name))
    with lease(tmp_path, "b") as held:
        assert held.epoch == 12
    assert gone == [f"lease.{epoch:08d}.claim" for epoch in range(1, 12)]
