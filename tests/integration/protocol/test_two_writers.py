"""Two jobs on one output, as real processes: the second is refused while the first lives and takes over where it died;
a first one that was stopped, overtaken and woken corrupts nothing. And gc beside them."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.collect import collect, garbage
from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.dataset import open_dataset
from tests.support.driver import ROOT
from tests.support.protocol import LATER
from tests.support.writer import SHARDS

DURATION, RENEW = 3.0, 0.5  # of the leases: long enough for a busy machine


@contextmanager
def writer(folder: Path, owner: str, ask: str = "no") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.support.writer", str(folder), owner, ask, str(DURATION), str(RENEW)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: "subprocess.Popen[str]", line: str) -> None:
    """Read what it says up to a line."""
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"it ended without {line!r}: {process.stderr and process.stderr.read()}")


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def whole(folder: Path) -> dict[str, Any]:
    """Everything that stands: values, the snapshot's digest, rows per marker; who committed what left out."""
    artefact = open_dataset(folder, check=True)
    markers = {name: marker.rows for name, marker in read_markers(folder, "shard-").items()}
    return {"table": artefact.table(), "digest": artefact.snapshot.digest, "markers": markers}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What stands after a writer that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with writer(folder, "alone") as process:
        assert process.wait() == 0
    return whole(folder)


def owners(folder: Path) -> list[str]:
    return [str(marker.facts["owner"]) for marker in read_markers(folder, "shard-").values()]


def test_the_second_is_refused_while_the_first_lives_and_takes_over_after_it_was_killed(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    folder = tmp_path / "both"
    with writer(folder, "first:1", ask="yes") as first:
        until(first, "wrote 0")
        with writer(folder, "second:2") as second:
            _, said = second.communicate()
        assert second.returncode == 1
        assert re.search(r"is being written by first:1 .* which is alive", said), said
        assert not read_markers(folder)
        go_on(first)
        until(first, "wrote 1")
        first.send_signal(signal.SIGKILL)
        first.wait()
    with writer(folder, "third:3") as third:
        _, said = third.communicate()
    assert third.returncode == 0, said
    assert owners(folder) == ["first:1", *["third:3"] * (SHARDS - 1)]
    assert_same(folder, expected)


def test_a_first_one_that_is_stopped_overtaken_and_woken_corrupts_nothing(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    folder = tmp_path / "both"
    with writer(folder, "first:1", ask="yes") as first:
        until(first, "wrote 0")
        go_on(first)
        until(first, "wrote 1")
        first.send_signal(signal.SIGSTOP)
        with writer(folder, "second:2") as second:
            _, said = second.communicate()
        assert second.returncode == 0, said
        assert owners(folder) == ["first:1", *["second:2"] * (SHARDS - 1)]
        before = {path: path.read_bytes() for path in folder.glob("*.json")}
        first.send_signal(signal.SIGCONT)
        out, said = first.communicate("\n" * SHARDS)
        assert first.returncode == 1
        assert re.search(r"the lease \(epoch 1\) of first:1 was not renewed in time and second:2 took over", said), said
        assert not re.search("committed|lost|wrote", out.replace("committed 0", ""))
        assert {path: path.read_bytes() for path in folder.glob("*.json")} == before
    assert_same(folder, expected)


def test_gc_takes_nothing_from_a_living_job_and_what_a_stopped_one_left_goes_before_it_wakes(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    folder = tmp_path / "both"
    gc = [sys.executable, "-c", GC, str(folder), str(LATER), str(DURATION), str(RENEW)]
    with writer(folder, "first:1", ask="yes") as first:
        until(first, "wrote 0")
        refused = subprocess.run(gc, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "is being written by first:1" in refused.stderr
        go_on(first)
        until(first, "wrote 1")  # and shard 0 is committed: its data was still there
        first.send_signal(signal.SIGSTOP)
        taken = subprocess.run(gc, cwd=ROOT, capture_output=True, text=True, check=False)
        assert re.fullmatch(r"shard-00000001\.[0-9a-f]{12}\.parquet\n", taken.stdout), taken
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate("\n" * SHARDS)
        assert first.returncode == 1
        assert "gc took over" in said
    assert list(read_markers(folder)) == ["shard-00000000"]
    with writer(folder, "second:2") as second:
        assert second.wait() == 0
    assert_same(folder, expected)


GC = """
import sys
from pathlib import Path
from pipeline.artifacts.collect import collect
where, later, duration, renew = sys.argv[1:]
for waste in collect(Path(where), float(later), "gc", duration=float(duration), renew=float(renew)):
    print(waste.path.name)
"""


def assert_same(folder: Path, expected: dict[str, Any]) -> None:
    """As undisturbed, and after gc there is exactly what the markers name."""
    collect(folder, LATER, "gc", duration=DURATION, renew=RENEW)
    found = whole(folder)
    assert found["table"].equals(expected["table"])
    assert (found["digest"], found["markers"]) == (expected["digest"], expected["markers"])
    assert not garbage(folder, LATER)
    named = {obj.name for marker in read_markers(folder, "shard-").values() for obj in marker.objects}
    assert {path.name for path in folder.glob("*.parquet")} == named
