"""How many shards the graph has under way, on a real Ray head: what a driver buffers must not grow with the plan."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.conftest import Head
from tests.support.driver import ROOT, environment

SHARDS, ROWS, LIMIT = 18, 3, 4
MOST = LIMIT + LIMIT // 2  # Ray Data starts one task whatever we say where all is done and the driver rests

# One decoder that hands its rows through and notes their shards; the driver rests at the first row, so that the graph
# could run far ahead.
DRIVER = f"""
import json, sys, time
import pyarrow as pa, ray
from pipeline.on_ray.capacity import Demand
from pipeline.on_ray.precompute import Pools, stream

class Through:
    def __call__(self, row):
        with open(noted, "a") as stream:
            print(row["shard_id"], file=stream)
        return dict(row)

def shard(number):
    rows = [{{"plan": "train", "shard_id": f"s{{number:02d}}", "micro_batch": row}} for row in range({ROWS})]
    return pa.Table.from_pylist(rows)

noted = sys.argv[1]
ray.init(address="auto", log_to_driver=False)
pools = Pools(Demand("decoders", 1, 0.5))
for row in stream([shard(number) for number in range({SHARDS})], Through, None, pools, open_shards={LIMIT}):
    print(json.dumps([row["shard_id"], row["micro_batch"], row["in_flight"]]), flush=True)
    if (row["shard_id"], row["micro_batch"]) == ("s00", 0):
        time.sleep(5)
        print(json.dumps({{"meanwhile": open(noted).read().split()}}), flush=True)
"""


@pytest.fixture(scope="module")
def told(head: Head, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """[shard, micro-batch, in flight] of every row as it came back; {meanwhile: shards} after the driver's rest."""
    noted = tmp_path_factory.mktemp("open") / "noted"
    env = environment(head.env | {"RAY_ADDRESS": head.address, "PYTHONPATH": str(ROOT)})
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(noted)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]


@pytest.fixture(scope="module")
def rows(told: list[Any]) -> list[list[Any]]:
    return [each for each in told if isinstance(each, list)]


def test_every_row_comes_back_once(rows: list[list[Any]]) -> None:
    assert sorted(row[:2] for row in rows) == [[f"s{shard:02d}", row] for shard in range(SHARDS) for row in range(ROWS)]


def test_while_the_driver_rests_no_more_than_the_limit_and_one_task_are_started(told: list[Any]) -> None:
    (meanwhile,) = [each["meanwhile"] for each in told if isinstance(each, dict)]
    assert LIMIT <= len(set(meanwhile)) <= MOST


def test_what_is_in_flight_is_bounded_and_counts_down(rows: list[list[Any]]) -> None:
    numbers = [in_flight for _, _, in_flight in rows]
    assert all(1 <= number <= MOST * ROWS for number in numbers)
    assert max(numbers) > ROWS  # the next shard was under way before the first was finished
    assert numbers[-1] == 1
