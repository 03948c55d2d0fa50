"""Layer (a) of exactly once: a process is killed at its n-th operation, for every n, over the whole commit protocol.

After each kill the same work is done again by another process: same keys, same values bit for bit, the same snapshot
digests, every file that a marker names whole, and after gc no file that nothing names (tests/support/kill_points.py).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.driver import ROOT
from tests.support.servers import S3, s3_server

WORKERS = 3  # the second run of each waits for a dead owner's leases: more than cores
STRIDE = 17
SLACK = 10  # renewals come by the clock: some runs make more operations


def protocol(
    base: object, numbers: list[int], *, looks: bool, lease: float, env: dict[str, str]
) -> list[dict[str, Any]]:
    """Lines of tests.support.kill_points: the undisturbed run, then one per kill."""
    order = {"base": str(base), "numbers": numbers, "looks": looks, "lease": lease}
    command = [sys.executable, "-m", "tests.support.kill_points", json.dumps(order)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def kill_all(
    base: object, numbers: list[int], *, looks: bool, lease: float, env: dict[str, str]
) -> list[dict[str, Any]]:
    """All kills, by several processes side by side; each also makes an undisturbed run of its own."""
    with ThreadPoolExecutor(WORKERS) as threads:
        parts = threads.map(
            lambda worker: protocol(base, numbers[worker::WORKERS], looks=looks, lease=lease, env=env), range(WORKERS)
        )
        found = [line for part in parts for line in part]
    wholes = [line["state"] for line in found if "state" in line]
    assert all(whole == wholes[0] for whole in wholes)
    return [line for line in found if "n" in line]


def check(kills: list[dict[str, Any]], least: float) -> None:
    wrong = [line for line in kills if line["wrong"] or line["status"]]
    assert not wrong, f"{len(wrong)} of {len(kills)}: {json.dumps(wrong[0])[:2000]}"
    killed = sum(line["killed"] for line in kills)
    assert killed >= least, f"only {killed} of {len(kills)} were killed"
    print(f"\n{killed} kills: {dict(Counter(line['where'].split()[0] for line in kills if line['killed']))}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the machine has such a file system: fsync is not what is tested, and takes most of the time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="stagedkd-protocol-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("protocol")) as running:
        yield running


def operations(base: object, *, looks: bool, env: dict[str, str]) -> int:
    whole = protocol(base, [], looks=looks, lease=1, env=env)[0]
    assert not whole["state"]["garbage"]
    for name in ("frames", "targets"):
        keys = whole["state"][name]["keys"]
        assert len(keys) == len(set(keys)) == (4 if env else 8)
    return int(whole["operations"])


def test_in_a_folder_at_every_change(folder: Path) -> None:
    count = operations(folder, looks=False, env={})
    kills = kill_all(folder, list(range(1, count + SLACK)), looks=False, lease=0.05, env={})
    check(kills, least=count - SLACK)
    assert {line["where"].split()[0] for line in kills if line["killed"]} >= {
        "open",
        "os.link",
        "os.remove",
        "os.rename",
    }


def test_in_an_object_store_at_a_stride_of_requests(tmp_path: Path, server: S3) -> None:
    base = f"{server.url}/{tmp_path.name}"
    count = operations(base, looks=True, env=server.env)
    first = time.time_ns() % STRIDE + 1  # other requests each time; failures name theirs
    kills = kill_all(base, list(range(first, count, STRIDE)), looks=True, lease=0.3, env=server.env)
    check(kills, least=count // STRIDE - 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_in_a_folder_at_every_operation(folder: Path) -> None:
    count = operations(folder, looks=True, env={})
    check(kill_all(folder, list(range(1, count + SLACK)), looks=True, lease=0.05, env={}), least=count - SLACK)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_in_an_object_store_before_and_after_every_request(tmp_path: Path, server: S3) -> None:
    base = f"{server.url}/{tmp_path.name}"
    count = operations(base, looks=True, env=server.env)
    check(kill_all(base, list(range(1, count + SLACK)), looks=True, lease=0.3, env=server.env), least=count - SLACK)
