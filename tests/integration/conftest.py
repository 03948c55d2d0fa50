"""One Ray head for the whole suite, one workspace in which the main job ran, and one folder of simulated videos."""

import contextlib
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
from tests.support.servers import S3, s3_server

DEBUG = RECIPES / "debug.yaml"
# As Ray counts it: less than precompute's actors would like to have, so that every run shows that it can be placed.
LITTLE_MEMORY = 1_000_000_000


@dataclass(frozen=True)
class StoreAddress:
    """Where the head's workers will look for an S3 store, if a test puts one there; actors have the address and the
    secret from their node's environment."""

    port: int
    key: str
    secret: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Head:
    """A running head: its address, what a driver's environment needs to join it, and where Prometheus reads metrics."""

    address: str
    env: dict[str, str]
    store: StoreAddress
    metrics: str


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port, metrics = free_port(), free_port()
    store = StoreAddress(_port_for_later(), "test", secrets.token_hex(16))
    env = store.env | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default workers give way to everything else on a busy machine
        "OMP_NUM_THREADS": "1",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    start += ["--include-dashboard=true", f"--dashboard-port={free_port()}", "--disable-usage-stats"]
    start += [f"--metrics-export-port={metrics}", f"--memory={LITTLE_MEMORY}"]
    # Workers import the tests' helpers from the checkout. Ended by its own process: `ray stop` stops every Ray.
    whole = os.environ | env | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    os.environ.update({name: value for name, value in env.items() if name not in store.env})
    process = start_ray(start, whole, token.with_name("head.log"))
    yield Head(f"127.0.0.1:{port}", env, store, f"http://127.0.0.1:{metrics}/metrics")
    # At once: a polite end takes half a minute. Ray's processes end when their parents are gone.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_ray(command: list[str], env: dict[str, str], log: Path, attempts: int = 3) -> "subprocess.Popen[bytes]":
    """Ray gives its processes a fixed time to start, which a machine busy with other things may exceed: tried again."""
    for _ in range(attempts):
        with log.open("wb") as said:
            process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
        while process.poll() is None and b"Ray runtime started" not in log.read_bytes():
            time.sleep(0.2)
        if process.poll() is None:
            return process
        with contextlib.suppress(ProcessLookupError):  # what it left behind
            os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"the Ray head did not start: {log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_for_later() -> int:
    """A free port that no process gets by chance: below those that the system hands out."""
    while True:
        with socket.socket() as probe:
            port = secrets.randbelow(10_000) + 20_000
            if probe.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 store on loopback."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


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
