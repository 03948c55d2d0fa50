"""A reader in a process of its own, while others write new shards, compact, and delete what compaction replaced.

The grace period of gc is zero here: files vanish under the reader, which is more than it has to bear in life.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.snapshot import pin
from tests.support.driver import ROOT

READER = """
import hashlib, sys
from pipeline.artifacts.dataset import open_dataset
folder, snapshot = sys.argv[1:]
def digest(artefact):
    found = hashlib.sha256()
    for epoch in range(2):
        for batch in artefact.training_rows(0, 1, seed=1, epoch=epoch, batch=4, window=1):
            found.update(repr([(name, batch[name].tolist()) for name in sorted(batch)]).encode())
    return found.hexdigest()
pinned = open_dataset(folder, snapshot)
while True:
    print(digest(pinned), digest(open_dataset(folder, snapshot, check=True)), flush=True)
"""
KEEPER = """
import sys
from pathlib import Path
from pipeline.artifacts.collect import COMPACTION, collect
from pipeline.artifacts.compact import compact
from pipeline.artifacts.lease import Lease
folder = Path(sys.argv[1])
for line in sys.stdin:
    if line.strip() == "compact":
        with Lease(folder / COMPACTION, "keeper") as lease:
            print(compact(folder, check=lease.check).record, flush=True)
    else:
        print(len(collect(folder, 4e9, "keeper")), flush=True)
"""
Process = subprocess.Popen[str]
FIRST, ROUNDS, MORE = 6, 2, 2


@contextmanager
def python(*arguments: object) -> Iterator[Process]:
    command = [sys.executable, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def writer(folder: Path, shards: int) -> list[object]:
    return ["-m", "tests.support.writer", folder, "writer", "yes", 30, 10, shards]


def said(process: Process) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "it ended"
    return line


def asked(process: Process, what: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()


@contextmanager
def reading(folder: Path, snapshot: str) -> Iterator[tuple[list[str], Callable[[], None]]]:
    """What a reader says, line by line, and a wait for one pass that begins after now."""
    lines: list[str] = []
    with python("-c", READER, folder, snapshot) as process:
        assert process.stdout is not None
        listening = threading.Thread(target=lines.extend, args=(process.stdout,))
        listening.start()

        def passes() -> None:
            end = len(lines) + 2  # the one under way, and the next
            while len(lines) < end:
                assert process.poll() is None, "the reader failed"
                time.sleep(0.02)

        yield lines, passes
    listening.join()


def write(folder: Path, shards: int, keeper: Process | None = None) -> list[str]:
    """Commit up to `shards` shards; the keeper compacts while the data of the first new one lies there without a
    marker. Returns what the keeper said."""
    answers = []
    with python(*writer(folder, shards)) as process:
        said(process)
        if keeper is not None:
            asked(keeper, "compact")
            answers.append(said(keeper))
        for _ in range(shards):
            asked(process)
        assert process.wait() == 0
    return answers


def test_its_rows_are_always_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write(folder, FIRST)
    snapshot = pin(folder).digest
    shards = FIRST
    with reading(folder, snapshot) as (lines, passes), python("-c", KEEPER, folder) as keeper:
        passes()
        for number in range(ROUNDS):
            shards += MORE
            assert write(folder, shards, keeper) == [f"compacted-{number:08d}"]
            asked(keeper, "gc")
            assert int(said(keeper)) >= (FIRST if number == 0 else MORE)
            passes()
    assert len(lines) > 2 * ROUNDS
    assert len({digest for line in lines for digest in line.split()}) == 1
    assert len(read_markers(folder, "shard-")) == shards
    assert len(list(folder.glob("shard-*.parquet"))) == MORE, "all but the last round's were compacted and deleted"
    assert open_dataset(folder, snapshot).table().num_rows == open_dataset(folder).table().num_rows * FIRST / shards
