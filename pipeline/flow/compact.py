"""compact: one artefact by its folder, or the frames and targets that a recipe's run refers to."""

import logging
from pathlib import Path

from pipeline.artifacts.collect import COMPACTION
from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.compact import Compaction, compact
from pipeline.artifacts.files import folders
from pipeline.artifacts.layout import Workspace
from pipeline.artifacts.lease import Lease
from pipeline.errors import InputError
from pipeline.flow.collect import referenced_names
from pipeline.flow.step import owner

LOG = logging.getLogger(__name__)
GROWING = ("frames", "targets")


def compact_run(workspace: Workspace, run: str, *, small: int, large: int) -> Path:
    """Compact the frames and targets that a run refers to. InputError where there are none."""
    names = referenced_names(workspace.run(run))
    found = [folder for kind in GROWING for folder in folders(workspace.store_root / kind) if folder.name in names]
    if not found:
        raise InputError(f"run {run} refers to no frames and no targets: run it first, or name an artefact's folder")
    for folder in found:
        compact_folder(folder, small=small, large=large)
    return workspace.store_root


def compact_folder(folder: Path, *, small: int, large: int) -> Path:
    """Compact one artefact under the lease of compaction. InputError where it holds no committed shard."""
    if not read_markers(folder, "shard-"):
        raise InputError(f"{folder} holds no committed shard: name the folder of an artefact (store/<kind>/<key>)")
    with Lease(folder / COMPACTION, owner()) as lease:
        done = compact(folder, small=small, large=large, check=lease.check)
    LOG.info("%s: %s", folder, _said(done))
    return folder


def _said(done: Compaction) -> str:
    if done.record is None:
        return "nothing to compact"
    before, after = f"{done.files_before} files ({done.bytes_before:,} bytes)", f"{done.bytes_after:,} bytes"
    return f"{before} into {done.files_after} ({after}), {done.record}; gc --delete removes the small ones a day later"
