"""A node of a joined cluster dies under a job: the job goes on with the nodes that are left, and loses nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import free_port, start_ray
from tests.integration.precompute.conftest import Artefacts, Stage
from tests.support.driver import ROOT
from tests.support.outcome import assert_same, outcome
from tests.support.processes import command, descendants, parent, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Nodes:
    """A cluster of a head without CPUs and two nodes with two each; `raylets`: of these two."""

    address: str
    raylets: tuple[int, int]


@pytest.fixture
def nodes(stage: Stage, tmp_path: Path) -> Iterator[Nodes]:
    port = free_port()
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    whole = os.environ | stage.head.env | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}
    address, started = f"127.0.0.1:{port}", list["subprocess.Popen[bytes]"]()
    head = ["--head", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    for name, words in (("head", head), *((each, [f"--address={address}", "--num-cpus=2"]) for each in "ab")):
        started.append(start_ray([*ray, *words, "--object-store-memory=200000000"], whole, tmp_path / f"{name}.log"))
    yield Nodes(address, (_raylet(started[1].pid), _raylet(started[2].pid)))
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _raylet(node: int) -> int:
    (found,) = [pid for pid in descendants(node) if "/raylet/raylet" in command(pid).split(" ")[0]]
    return found


def test_a_job_goes_on_when_a_node_with_decoders_is_lost(stage: Stage, nodes: Nodes, wanted: Artefacts) -> None:
    workspace = stage.workspace("lost-node")
    wide = {"precompute.decoders": 2, "precompute.min_decoders": 1, "precompute.decode_cpus": 1.5}
    run = stage.start(workspace, **{"cluster.address": nodes.address}, **wide)
    run.until(lambda sight: sight.parts > 0, "a first part of the frames")

    def decoders() -> dict[int, int]:
        """Raylet by decode actor."""
        return {actor: parent(actor) for actor in run.cast.decode_actors()}

    wait_for(lambda: set(decoders().values()) == set(nodes.raylets), "a decode actor on each node")
    lost = nodes.raylets[1]
    os.kill(lost, signal.SIGKILL)
    done = run.end()
    assert done.code == 0, done.err[-3000:]
    assert_same(outcome(workspace / "store"), wanted)
