"""gc over a workspace: garbage inside each artefact, and whole artefacts that no run refers to.

A run notes the keys of all that it stands on in its folder (references.json, step by step), and refers through them to
all that about.json of these artefacts names: keys, and digests of pinned snapshots. Artefacts that were written lately,
and what these name, stay too: a running job may stand on them. References are read again right before an artefact is
removed. Whole artefacts all stay where it cannot be known who refers to them: in a store that other workspaces may
share (storage.root), and where a run of an earlier version noted nothing.
"""

import logging
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts.collect import SNAPSHOTS, collect, garbage, remove_artefact
from pipeline.artifacts.files import folders, listing, read_if_present, size_of, walk
from pipeline.artifacts.layout import KINDS, REFERENCES, Workspace
from pipeline.errors import InputError, JobError, StorageError
from pipeline.flow.step import owner

LOG = logging.getLogger(__name__)
UNREFERENCED = "whole artefacts that no run refers to"
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass
class Collected:
    """Files and bytes per kind of garbage, what was left alone, with the reason, and what is damaged."""

    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, kind: str, files: int, size: int) -> None:
        self.files[kind] += files
        self.bytes[kind] += size

    def lines(self, *, deleted: bool) -> list[str]:
        verb = "deleted" if deleted else "found"
        rows = [f"{self.files[kind]:>8} {self.bytes[kind]:>16,} bytes  {kind}" for kind in sorted(self.files)]
        total = f"{sum(self.files.values()):>8} {sum(self.bytes.values()):>16,} bytes  {verb} in all"
        left = [f"left alone: {reason}" for reason in self.left] + [f"damaged: {what}" for what in self.damaged]
        return [*rows, total, *left]


def existing(root: Path, store: str | None = None) -> Workspace:
    """The workspace in a folder. InputError where there is none: looking for garbage makes no new one."""
    if size_of(root / "workspace.json") is None:
        raise InputError(f"{root} is no workspace (it has no workspace.json): name the folder that a run wrote to")
    return Workspace.open(root, store)


def collect_workspace(workspace: Workspace, *, delete: bool, hours: float) -> Collected:
    """List the garbage that is older than `hours`, or delete it. What a living job writes to is left alone, and so is
    what is damaged. StorageError where the store fails."""
    before = time.time() - 3600 * hours
    artefacts = [folder for kind in KINDS for folder in folders(workspace.store_root / kind)]
    kept, done, unknown = referenced(workspace, artefacts, before), Collected(), _unknown(workspace)
    for folder in artefacts:
        try:
            if folder in kept or unknown:
                _inside(folder, before, delete, done)
            else:
                _whole(workspace, artefacts, folder, before, delete, done)
        except StorageError:
            raise
        except JobError as error:
            done.left.append(str(error))
        except InputError as error:
            done.damaged.append(str(error))
    unreferenced = len(set(artefacts) - kept)
    if unknown and unreferenced:
        done.left.append(f"{unreferenced} whole artefacts that no run of this workspace refers to: {unknown}")
    return done


def _unknown(workspace: Workspace) -> str | None:
    """Why it cannot be known which whole artefacts are referred to, None where it can."""
    if workspace.elsewhere is not None:
        return f"runs of other workspaces may, {workspace.elsewhere} (storage.root) is no workspace's own"
    for run in folders(workspace.root / "runs"):
        if size_of(run / REFERENCES) is None:
            return f"{run} does not say what it refers to: run it again, or delete that folder"
    return None


def referenced(workspace: Workspace, artefacts: list[Path], before: float) -> set[Path]:
    """Artefacts that a run refers to or that were written lately, and all that these stand on."""
    by_name = {folder.name: folder for folder in artefacts}
    for folder in artefacts:
        by_name |= {path.stem: folder for path in listing(folder / SNAPSHOTS, "*.json")}
    runs = folders(workspace.root / "runs")
    open_ = {by_name[name] for run in runs for name in referenced_names(run) if name in by_name}
    open_ |= {folder for folder in artefacts if any(stored.modified >= before for stored in walk(folder))}
    kept: set[Path] = set()
    while open_:
        folder = open_.pop()
        kept.add(folder)
        open_ |= {by_name[name] for name in _names(folder / "about.json") if name in by_name} - kept
    return kept


def referenced_names(run: Path) -> set[str]:
    """Keys (and other digests) that the JSON files of a run's folder name."""
    return {name for path in listing(run, "*.json") for name in _names(path)}


def _names(path: Path) -> set[str]:
    return set(HEX.findall((read_if_present(path) or b"").decode()))


def _inside(folder: Path, before: float, delete: bool, done: Collected) -> None:
    for waste in collect(folder, before, f"gc {owner()}") if delete else garbage(folder, before):
        done.add(waste.kind, 1, waste.size)


def _whole(
    workspace: Workspace, artefacts: list[Path], folder: Path, before: float, delete: bool, done: Collected
) -> None:
    stored = list(walk(folder))
    if delete and folder in referenced(workspace, artefacts, before):
        return
    if delete:
        remove_artefact(folder, f"gc {owner()}")
    LOG.info("%s: no run refers to it", folder)
    done.add(UNREFERENCED, len(stored), sum(one.size for one in stored))
