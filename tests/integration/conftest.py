"""One Ray head for the whole suite, one workspace in which the main job ran, and one folder of simulated videos."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.driver import RECIPES, ROOT, Finished, arguments, drive

DEBUG = RECIPES / "debug.yaml"


@dataclass(frozen=True)
class Head:
    """A running head: its address and what a driver's environment needs to join it."""

    address: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port = _free_port()
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    start += ["--include-dashboard=true", f"--dashboard-port={_free_port()}", "--disable-usage-stats"]
    # Workers import the tests' helpers from the checkout. Ended by its own process: `ray stop` stops every Ray.
    whole = os.environ | env | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(start, env=whole, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        os.environ.update(env)
        _wait_for(port, process)
        yield Head(f"127.0.0.1:{port}", env)
        # At once: a polite end takes half a minute. Ray's processes end when their parents are gone.
        os.killpg(process.pid, signal.SIGKILL)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(3)  # the node's own processes follow its store
                return
        assert process.poll() is None, "the Ray head ended while starting"
        time.sleep(0.2)
    raise AssertionError("the Ray head did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Main:
    """The main job of the debug recipe after its first run."""

    workspace: Path
    root: Path
    head: Head
    first: Finished

    def sets(self, **more: Any) -> dict[str, Any]:
        base = {"workspace": self.workspace, "manifest.root": self.root, "cluster.address": self.head.address}
        return base | {name.replace("__", "."): value for name, value in more.items()}

    def run(self, command: str = "run", **more: Any) -> Finished:
        return drive(arguments(command, DEBUG, self.sets(**more)), env=self.head.env)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug recipe's simulated videos, and three files that are none."""
    workspace = tmp_path_factory.mktemp("videos")
    done = drive(arguments("simulate", DEBUG, {"workspace": workspace}))
    assert done.code == 0, done.err
    root = Path(done.last)
    some = next(root.glob("*/train-00000.mp4"))
    broken = {"empty.mp4": b"", "text.mp4": b"<html>not a video</html>", "cut.mp4": some.read_bytes()[:600]}
    with (root / "manifest.csv").open("a") as listing:
        for name, data in broken.items():
            path = some.parent / name
            path.write_bytes(data)
            split = "test" if name == "cut.mp4" else "train"
            listing.write(f"{some.parent.name}/{name},{some.parent.name},{name},{split},{name}\n")
    return root


@pytest.fixture(scope="session")
def main(head: Head, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Main:
    workspace = tmp_path_factory.mktemp("main")
    started = Main(workspace, videos, head, Finished(0, "", ""))
    first = started.run()
    assert first.code == 0, first.err[-4000:]
    return Main(workspace, videos, head, first)
