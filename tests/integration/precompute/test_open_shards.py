"""How many shards the graph has under way, on a real Ray head: what a driver buffers must not grow with the plan."""

import json
import subprocess
import sys
from typing import Any

import pytest

from pipeline.on_ray.precompute import PREFETCHED
from tests.integration.conftest import Head
from tests.support.driver import ROOT, environment

SHARDS, ROWS, LIMIT = 18, 3, 4
MANY = 10  # rows of a shard, where one shard alone keeps the decoder busy

# One decoder that hands its rows through and notes their shards. It takes its time to start, as actors do that wait for
# a node, and the driver rests at the first row until all that may be started was, and for a while after it: twice, the
# graph could run far ahead.
DRIVER = f"""
import json, sys, time
import pyarrow as pa, ray
from pipeline.on_ray.capacity import Demand
from pipeline.on_ray.precompute import Pools, stream

class Through:
    def __init__(self):
        time.sleep(5)

    def __call__(self, row):
        with open(noted, "a") as stream:
            print(row["shard_id"], file=stream)
        return dict(row)

def shard(number, rows):
    return pa.Table.from_pylist(
        [{{"plan": "train", "shard_id": f"s{{number:02d}}", "micro_batch": row}} for row in range(rows)]
    )

noted = sys.argv[1]
ray.init(address="auto", log_to_driver=False)
pools = Pools(Demand("decoders", 1, 0.5))
def run(shards, rows, open_shards):
    tables = [shard(number, rows) for number in range(shards)]
    for row in stream(tables, Through, None, pools, open_shards=open_shards):
        print(json.dumps([row["shard_id"], row["micro_batch"], row["in_flight"]]), flush=True)
        yield row["shard_id"], row["micro_batch"]

def started():
    return open(noted).read().split()

for key in run({SHARDS}, {ROWS}, {LIMIT}):
    if key == ("s00", 0):
        deadline = time.monotonic() + 120
        while len(set(started())) < {LIMIT} and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(5)
        print(json.dumps({{"meanwhile": started()}}), flush=True)
print("one at a time", flush=True)
for key in run(3, {MANY}, 1):
    pass
"""


@pytest.fixture(scope="module")
def told(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    """Of each run: [shard, micro-batch, in flight] of every row as it came back; {meanwhile: shards} after the rest."""
    noted = tmp_path_factory.mktemp("open") / "noted"
    env = environment(head.env | {"RAY_ADDRESS": head.address, "PYTHONPATH": str(ROOT)})
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(noted)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    many, _, one = done.stdout.partition("one at a time")
    return _parsed(many), _parsed(one)


def _parsed(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line[:1] in ("[", "{")]


@pytest.fixture(scope="module")
def rows(told: tuple[list[Any], list[Any]]) -> list[list[Any]]:
    return [each for each in told[0] if isinstance(each, list)]


def test_every_row_comes_back_once(rows: list[list[Any]]) -> None:
    assert sorted(row[:2] for row in rows) == [[f"s{shard:02d}", row] for shard in range(SHARDS) for row in range(ROWS)]


def test_while_the_driver_rests_as_many_as_the_limit_are_started(told: tuple[list[Any], list[Any]]) -> None:
    (meanwhile,) = [each["meanwhile"] for each in told[0] if isinstance(each, dict)]
    assert len(set(meanwhile)) == LIMIT


def test_what_is_in_flight_is_bounded_and_counts_down(rows: list[list[Any]]) -> None:
    numbers = [in_flight for _, _, in_flight in rows]
    assert all(1 <= number <= LIMIT * ROWS for number in numbers)
    assert max(numbers) > ROWS  # the next shard was under way before the first was finished
    assert numbers[-1] == 1


def test_one_shard_at_a_time_ends_though_its_last_rows_are_given_out_late(told: tuple[list[Any], list[Any]]) -> None:
    assert sorted(row[:2] for row in told[1]) == [[f"s{shard:02d}", row] for shard in range(3) for row in range(MANY)]
    assert max(row[2] for row in told[1]) <= MANY + PREFETCHED
