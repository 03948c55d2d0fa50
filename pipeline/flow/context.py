"""What all steps of one driver share: the recipe, the workspace, one Ray session, MLflow, timings."""

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.files import check_conditions, replace
from pipeline.artifacts.identity import canonical_json, digest
from pipeline.artifacts.layout import REFERENCES, SCHEMA, Workspace, read_json
from pipeline.artifacts.places import place
from pipeline.config.base import identity_fields
from pipeline.config.recipe import Recipe
from pipeline.flow.demands import check_all
from pipeline.flow.step import Timing
from pipeline.tracking import Tracker, resolve_uri

if TYPE_CHECKING:
    from pipeline.on_ray.session import Session

LOG = logging.getLogger(__name__)


def run_name(recipe: Recipe, stem: str) -> str:
    """What a run is called: as run.name says, else the recipe's stem and key."""
    return recipe.run.name or f"{stem}-{digest(identity_fields(recipe))[:8]}"


@functools.cache
def _check_once(store: str) -> None:
    check_conditions(place(store))


@dataclass
class Context:
    """`name` is the run's. `local`: fit-teacher and distill run in this process, without Ray."""

    recipe: Recipe
    workspace: Workspace
    name: str
    local: bool = False
    tracker: Tracker = field(default_factory=lambda: Tracker(None))
    parent_run: str = ""
    timings: list[Timing] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    opened: bool = False
    _session: "Session | None" = None

    @classmethod
    def open(cls, recipe: Recipe, name: str, *, local: bool = False) -> "Context":
        """Open (create) the workspace; nothing of Ray or MLflow starts yet. `name` is the recipe's stem.

        JobError where the store cannot keep two jobs from writing the same thing, and the recipe does not say that
        there is only one (storage.single_writer).
        """
        storage = recipe.storage
        workspace = Workspace.open(Path(recipe.workspace), storage.root)
        if not storage.single_writer:
            _check_once(str(workspace.store_root))
        return cls(recipe, workspace, run_name(recipe, name), local=local, opened=True)

    def timing(self, step: str) -> Timing:
        """A timing that the summary shows."""
        self.remember()
        timing = Timing(step)
        self.timings.append(timing)
        return timing

    def remember(self) -> None:
        """Note in the run's folder which artefacts it stands on: gc keeps them. Only ever more; not in a dry run."""
        if not self.opened:
            return
        path = self.workspace.run(self.name) / REFERENCES
        before = set((read_json(path) or {}).get("keys", ()))
        if not self.workspace.touched <= before:
            content = {"schema": SCHEMA, "keys": sorted(before | self.workspace.touched)}
            replace(path, canonical_json(content).encode())

    def ray(self) -> "Session":
        """The session, started when first asked for."""
        if self._session is None:
            from pipeline.on_ray.session import Session

            cluster = self.recipe.cluster
            self._session = Session(
                cluster.address,
                dashboard=cluster.dashboard,
                max_cpus=cluster.max_cpus,
                max_gpus=cluster.max_gpus,
                expect_cpus=cluster.expect.CPU,
                expect_gpus=cluster.expect.GPU,
                startup_timeout=cluster.startup_timeout,
            )
            self._session.start()
            check_all(self.recipe, self._session.capacity())
        return self._session

    def track(self) -> Tracker:
        """The MLflow store, created when first asked for and before any worker writes to it."""
        tracking = self.recipe.tracking
        if tracking.enabled and self.tracker.uri is None:
            uri = resolve_uri(tracking.uri, self.workspace.tracking_uri)
            self.tracker = Tracker.open(uri, tracking.experiment, self.workspace.root / "mlartifacts")
            self.parent_run = self.tracker.start_run(self.name, self.recipe.model_dump(mode="json"))
        return self.tracker

    def close(self, *, failed: bool = False) -> None:
        """Stop Ray and close the MLflow run."""
        self.remember()
        if self._session is not None:
            self._session.close()
        if self.parent_run:
            self.tracker.finish(self.parent_run, failed=failed)
