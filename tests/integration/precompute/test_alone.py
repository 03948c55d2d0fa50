"""A graph in a session of our own, without the actors that Ray Data otherwise starts beside it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Head
from tests.support.driver import ROOT, environment

SHARDS, ROWS = 3, 4

# Two actors hand rows through; the one that gets the first row dies of it, once, and is started anew.
DRIVER = f"""
import json, os, sys
import pyarrow as pa
from pathlib import Path
from pipeline.on_ray.session import Session

died = Path(sys.argv[1])

class Through:
    def __call__(self, row):
        if (row["shard_id"], row["micro_batch"]) == ("s0", 0) and not died.exists():
            died.touch()
            os._exit(1)
        return dict(row)

session = Session(sys.argv[3] if len(sys.argv) > 3 else None, dashboard=sys.argv[2] == "dashboard")
session.start()
import ray
from ray.data._internal import stats
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.operators import actor_pool_map_operator
from pipeline.on_ray.capacity import Demand
from pipeline.on_ray.precompute import Pools, stream

mine = lambda: [
    streaming_executor.create_cluster_autoscaler,
    actor_pool_map_operator.get_or_create_actor_location_tracker,
    actor_pool_map_operator.get_actor_locations,
    stats.get_or_create_stats_actor,
]
before = mine()
rows = lambda shard: [{{"plan": "train", "shard_id": f"s{{shard}}", "micro_batch": row}} for row in range({ROWS})]
tables = [pa.Table.from_pylist(rows(shard)) for shard in range({SHARDS})]
done, changed = [], []
for row in stream(tables, Through, None, Pools(Demand("two", 2, 0.5))):
    done.append([row["shard_id"], row["micro_batch"]])
    changed.append(sum(one != other for one, other in zip(mine(), before)))
named = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
print(json.dumps({{"rows": sorted(done), "named": named, "changed": max(changed), "undone": mine() == before}}))
session.close()
"""


@pytest.mark.parametrize(("dashboard", "named"), [("none", []), ("dashboard", ["datasets_stats_actor"])])
def test_rows_come_back_once_and_nothing_runs_beside_the_graph(
    tmp_path: Path, dashboard: str, named: list[str]
) -> None:
    told = run(tmp_path / "died", dashboard)
    assert told["named"] == named
    assert told["undone"]


def test_in_a_cluster_that_was_joined_ray_data_is_left_as_it_is(tmp_path: Path, head: Head) -> None:
    told = run(tmp_path / "died", "none", head.address, env=head.env)
    assert told["changed"] == 0
    assert {"AutoscalingCoordinator", "ActorLocationTracker", "datasets_stats_actor"} <= set(told["named"])


def run(died: Path, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What the driver told, once each row came back once though an actor died."""
    command = [sys.executable, "-c", DRIVER, str(died), *words]
    paths = environment((env or {}) | {"PYTHONPATH": str(ROOT)})
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (told,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rows"')]
    assert told["rows"] == [[f"s{shard}", row] for shard in range(SHARDS) for row in range(ROWS)]
    assert died.exists()
    return dict(told)
