"""One Ray session per driver: started when the first step needs it, token-authenticated, on the loopback address.

`address: null` starts a session of our own. Otherwise the driver joins the cluster at `address` ("auto" for this
machine's) and leaves its authentication as the environment says.
"""

import functools
import logging
import os
import secrets
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.on_ray.capacity import Capacity, Demand, check
from pipeline.on_ray.node_watch import NodeWatch

LOG = logging.getLogger(__name__)
RESOURCE_POLL = 5.0
SAY_EVERY = 60.0
# What a session of our own goes without where no dashboard shows it: a record of every task each second, statistics of
# Ray's event loops, metrics more often than once a minute, and a look for new log files ten times a second. One and a
# half percent of a core, with five idle actors.
QUIET = {
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",  # from so many files on, it looks only every so many seconds:
    "LOG_NAME_UPDATE_INTERVAL_S": "1",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_metrics_report_interval_ms": "60000",
}
# Idle processes that stay. Ray otherwise keeps as many as CPUs are free, so none while precompute holds them all, and
# each of its read tasks would start a new one: two seconds of a processor.
KEPT_IDLE = "1"


@dataclass
class Session:
    """Lazy owner of the Ray connection; `startup_seconds` is what starting cost."""

    address: str | None
    dashboard: bool = True
    max_cpus: float | None = None
    max_gpus: float | None = None
    expect_cpus: float | None = None
    expect_gpus: float | None = None
    startup_timeout: float = 600.0
    startup_seconds: float = field(default=0.0, init=False)
    _ours: bool = field(default=False, init=False)
    _token: Path | None = field(default=None, init=False)
    _watch: NodeWatch = field(init=False)

    def start(self) -> None:
        """Start or join Ray; a second call does nothing."""
        if self._ours:
            return
        began = time.monotonic()
        # Ray reads both when it is imported.
        self._authenticate()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is None:
            self._start_local()
        else:
            _join(self.address)
        self._ours = True
        self._watch = _watched_node()
        self.startup_seconds += time.monotonic() - began

    def _start_local(self) -> None:
        if not self.dashboard:
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_num_workers_soft_limit", KEPT_IDLE)
        import ray

        # Workers inherit this environment: one thread each unless a recipe says otherwise (sums depend on it).
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        start = functools.partial(
            ray.init,
            address="local",
            num_cpus=int(self.max_cpus) if self.max_cpus else None,
            include_dashboard=self.dashboard,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
        )
        try:
            start()
        except Exception as error:  # a plain one, where the node is not up within Ray's fixed 30 s: a loaded machine
            LOG.warning("Ray did not start (%s): trying once more", error)
            ray.shutdown()
            start()

    def _authenticate(self) -> None:
        if self.address is not None:
            os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
            return
        handle, path = tempfile.mkstemp(prefix="stagedkd-ray-token-")  # mode 600
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
        self._token = Path(path)
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=path)

    def capacity(self) -> Capacity:
        """What the cluster can become: declared growth if any, else its total, both under the job's own cap."""
        import ray

        self.start()
        total = ray.cluster_resources()
        expected = self.expect_cpus is not None or self.expect_gpus is not None
        cpus = max(total.get("CPU", 0.0), self.expect_cpus or 0.0)
        gpus = max(total.get("GPU", 0.0), self.expect_gpus or 0.0)
        source = "cluster.expect" if expected else "its present total"
        if self.max_cpus is not None or self.max_gpus is not None:
            source += ", capped by cluster.max_cpus / max_gpus"
        return Capacity(_cap(cpus, self.max_cpus), _cap(gpus, self.max_gpus), source, _memory_per_cpu(ray.nodes()))

    def require(self, step: str, demands: list[Demand]) -> None:
        """Refuse what can never be placed; wait (saying each minute for what) for what is not free yet."""
        check(step, demands, self.capacity())
        self._wait(step, sum(d.smallest * d.cpus for d in demands), sum(d.smallest * d.gpus for d in demands))

    def _wait(self, step: str, cpus: float, gpus: float) -> None:
        import ray

        began, said = time.monotonic(), 0.0
        while not _free(cpus, gpus):
            waited = time.monotonic() - began
            if waited > self.startup_timeout:
                raise JobError(
                    f"{step}: {cpus:g} CPU, {gpus:g} GPU did not become free within {self.startup_timeout:g} s "
                    "(cluster.startup_timeout); the same command goes on from what is done"
                )
            if waited >= said:
                _ask_autoscaler(cpus)
                LOG.warning("%s waits for %g CPU, %g GPU; free now: %s", step, cpus, gpus, ray.available_resources())
                said += SAY_EVERY
            time.sleep(RESOURCE_POLL if waited > RESOURCE_POLL else 0.2)

    def close(self) -> None:
        """Leave Ray (and stop it, where it was ours)."""
        if not self._ours:
            return
        self._ours = False
        if self._watch.dead:
            return  # there is nothing left to leave, and Ray would wait for it
        self._watch.stop()
        import ray

        ray.shutdown()
        if self._token is not None:
            self._token.unlink(missing_ok=True)


def _memory_per_cpu(nodes: list[dict[str, Any]]) -> float:
    """Bytes beside each CPU on the living node that has least of them; nodes without CPUs run nothing of ours."""
    found = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    return min((each.get("memory", 0.0) / each["CPU"] for each in found), default=0.0)


def _watched_node() -> NodeWatch:
    """A watch over the node that this driver is connected to."""
    import ray

    node: Any = ray._private.worker.global_worker.node
    watch = NodeWatch(node.raylet_socket_name)
    watch.start()
    return watch


def _has_token() -> bool:
    """Whether this user has a token for a cluster: the places where Ray looks. An open cluster takes one, too."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().is_file()


def _join(address: str) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # not "auto"; Ray itself would knock at a closed door for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, AuthenticationError) as error:
        raise JobError(f"no Ray cluster lets us in at cluster.address = {address}: {error}") from error


def _cap(value: float, limit: float | None) -> float:
    return value if limit is None else min(value, limit)


def _free(cpus: float, gpus: float) -> bool:
    import ray

    free = ray.available_resources()
    return free.get("CPU", 0.0) + 1e-9 >= cpus and free.get("GPU", 0.0) + 1e-9 >= gpus


def _ask_autoscaler(cpus: float) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=int(-(-cpus // 1)))
