"""`ensure`: one step, its key, its marker; nothing with the same key is computed twice."""

import functools
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt, read_bytes, read_marker, shard_name
from pipeline.artifacts.files import create_if_absent, make_folder, size_of
from pipeline.artifacts.identity import artefact_key, file_digest
from pipeline.artifacts.layout import Workspace, write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.places import is_remote
from pipeline.errors import InputError

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
    return size_of(folder / f"{marker}.json") is not None


def finish(folder: Path, attempt: str, facts: Mapping[str, Any], staged_in: Path | None = None) -> None:
    """Mark an artefact whose files lie in `folder/attempt` (or were staged elsewhere) as done."""
    objects = files_of(staged_in or folder, attempt)
    upload(staged_in or folder, folder, objects)
    commit(folder, Marker(DONE, attempt, tuple(objects), None, dict(facts)))


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A local folder to make an artefact's files in: `folder` itself, or a temporary one where that is remote.

    What is made there exists in the artefact once `upload` has brought it there.
    """
    if is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="stagedkd-") as local:
            yield Path(local)
    else:
        make_folder(folder)
        yield folder


def upload(local: Path, folder: Path, objects: Sequence[DataObject]) -> None:
    """Bring staged files to where they belong; nothing to do where they were made in their place."""
    for obj in objects if local != folder else ():
        won = create_if_absent(folder / obj.name, (local / obj.name).read_bytes())
        assert won, f"{folder / obj.name}: an attempt's name that another attempt has"


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
    """A local folder with the files of a finished artefact: the attempt that its marker names, or `folder` without a
    marker. What is remote is copied (once per process) and its sha256 compared; it may also be named by its attempt."""
    found = read_marker(folder, DONE)
    if is_remote(folder):
        return _copied(folder, found)
    return folder if found is None else folder / found.attempt


def inside(folder: Path) -> Path:
    """Where the attempt of a finished artefact lies, remote or not: to show, not to read."""
    found = read_marker(folder, DONE)
    return folder if found is None else folder / found.attempt


def ensure(step: Step, workspace: Workspace, work: Callable[[Path, str], Made], timing: Timing) -> Path:
    """The folder of the step's artefact; `work(folder, attempt)` makes its data objects where it is not done yet.

    `work` returns the objects and facts for the marker; the folder that it is given is local.
    Another living owner of the same key is waited for or refused
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
            with staged(folder) as local:
                objects, facts = work(local, attempt)
                upload(local, folder, objects)
            lease.check()
            commit(folder, Marker(step.marker, attempt, tuple(objects), None, dict(facts)))
    timing.work_s += time.monotonic() - began - (timing.startup_s - startup)
    return folder


def describe(step: Step) -> dict[str, Any]:
    """What about.json says: every part of the key, in readable form."""
    parts = {"step": step.name, "version": step.version, "fields": dict(step.fields), "inputs": dict(step.inputs)}
    return {"key": step.key, **parts, **step.about}


def _copied(folder: Path, found: Marker | None) -> Path:
    above = read_marker(folder.parent, DONE) if found is None else None
    if above is not None and above.attempt == folder.name:
        folder, found = folder.parent, above
    if found is None:
        raise InputError(f"{folder} holds no finished artefact: name the folder of an export or of a trained network")
    with _COPYING:
        home = Path(_copies(os.getpid()).name) / folder.name
        for obj in found.objects:
            path = home / obj.name
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(read_bytes(folder, obj))
    return home / found.attempt


_COPYING = threading.Lock()


@functools.cache
def _copies(process: int) -> "tempfile.TemporaryDirectory[str]":
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="stagedkd-copies-")
