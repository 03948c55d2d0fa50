"""Does without three actors that Ray Data 2.60 starts beside every graph, in a session of our own.

One gathers statistics for the dashboard's page, one knows on which node each actor is, and one asks the cluster for
more nodes. Our own session is one node that does not grow. Each of them is a process: a second of the processor to
start, and half a percent of a core as long as the session lasts.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ExecutionResources
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.operators import actor_pool_map_operator


class OneNode(ClusterAutoscaler):
    """A cluster that is what it is."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._total = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        """Nothing to ask for."""

    def on_executor_shutdown(self) -> None:
        """Nothing was asked for."""

    def get_total_resources(self) -> ExecutionResources:
        """All of the node; Ray Data takes the limits of the execution into account."""
        return self._total


class Nowhere:
    """In the place of an actor handle: a message to it is dropped."""

    def __getattr__(self, name: str) -> "Nowhere":
        if name.startswith("__"):  # what pickle asks for
            raise AttributeError(name)
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        """Nobody is told."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """For the graphs that are built and run meanwhile. In a cluster that was joined nothing is changed; where our own
    session has a dashboard, its statistics stay."""
    node: Any = ray._private.worker.global_worker.node
    with contextlib.ExitStack() as undo:
        if node is not None and node.head:
            _replace(undo, streaming_executor, "create_cluster_autoscaler", OneNode)
            _replace(undo, actor_pool_map_operator, "get_or_create_actor_location_tracker", Nowhere)
            # Without an answer Ray takes the node where an actor first came up; there is no other.
            _replace(undo, actor_pool_map_operator, "get_actor_locations", lambda _: {})
            if not node.webui_url:
                _replace(undo, stats, "get_or_create_stats_actor", Nowhere)
        yield


def _replace(undo: contextlib.ExitStack, module: Any, name: str, value: Any) -> None:
    undo.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
