"""`ensure`: one step, its key, its marker; nothing with the same key is computed twice."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt, read_marker, shard_name
from pipeline.artifacts.identity import artefact_key, file_digest
from pipeline.artifacts.layout import Workspace, write_about
from pipeline.artifacts.lease import Lease

LOG = logging.getLogger(__name__)
DONE = "done"
TABLE = shard_name(0)
Made = tuple[list[DataObject], Mapping[str, Any]]


@dataclass(frozen=True)
class Step:
    """One artefact to be: `fields` and `inputs` make its key, `about` its readable names.

    `marker` is `done` for files in an attempt's folder (models, exports), TABLE for one table (labels, statistics).
    """

    name: str
    kind: str
    version: int
    fields: Mapping[str, Any]
    inputs: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    marker: str = DONE

    @property
    def key(self) -> str:
        return artefact_key(self.name, self.version, self.fields, self.inputs)

    def folder(self, workspace: Workspace) -> Path:
        return workspace.store(self.kind, self.key)


@dataclass
class Timing:
    """Seconds of one step, start-up of Ray and worker processes apart from work."""

    step: str
    startup_s: float = 0.0
    work_s: float = 0.0
    skipped: bool = False


def owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def is_done(folder: Path, marker: str = DONE) -> bool:
    return (folder / f"{marker}.json").is_file()


def finish(folder: Path, attempt: str, facts: Mapping[str, Any]) -> None:
    """Mark an artefact whose files lie in `folder/attempt` as done."""
    commit(folder, Marker(DONE, attempt, tuple(files_of(folder, attempt)), None, dict(facts)))


def files_of(folder: Path, attempt: str) -> list[DataObject]:
    """The files of an attempt's folder as data objects named attempt/file."""
    paths = sorted(path for path in (folder / attempt).iterdir() if path.is_file())
    return [DataObject(f"{attempt}/{path.name}", path.stat().st_size, 0, file_digest(path)) for path in paths]


def facts_of(folder: Path, marker: str = DONE) -> dict[str, Any]:
    """The facts that the marker of a finished artefact carries."""
    found = read_marker(folder, marker)
    assert found is not None, f"{folder} is not done"
    return dict(found.facts)


def content(folder: Path) -> Path:
    """Where the files of a finished artefact lie: the attempt that its marker names, or `folder` without a marker."""
    found = read_marker(folder, DONE)
    return folder if found is None else folder / found.attempt


def ensure(step: Step, workspace: Workspace, work: Callable[[Path, str], Made], timing: Timing) -> Path:
    """The folder of the step's artefact; `work(folder, attempt)` makes its data objects where it is not done yet.

    `work` returns the objects and facts for the marker. Another living owner of the same key is waited for or refused
    as the lease says.
    """
    folder = step.folder(workspace)
    if is_done(folder, step.marker):
        timing.skipped = True
        LOG.info("%s: done before (%s)", timing.step, step.key[:8])
        return folder
    began, startup = time.monotonic(), timing.startup_s
    write_about(folder, describe(step))
    with Lease(folder, owner()) as lease:
        if not is_done(folder, step.marker):
            attempt = new_attempt()
            objects, facts = work(folder, attempt)
            lease.check()
            commit(folder, Marker(step.marker, attempt, tuple(objects), None, dict(facts)))
    timing.work_s += time.monotonic() - began - (timing.startup_s - startup)
    return folder


def describe(step: Step) -> dict[str, Any]:
    """What about.json says: every part of the key, in readable form."""
    parts = {"step": step.name, "version": step.version, "fields": dict(step.fields), "inputs": dict(step.inputs)}
    return {"key": step.key, **parts, **step.about}
