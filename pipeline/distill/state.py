"""What a training needs to go on: its state as bytes, and where the bytes are kept.

A checkpoint is plain tensors and numbers, read with weights_only=True. `FolderCheckpoints` commits as every artefact
does: an object under an attempt name, then a marker created if absent; the last two are kept, so that a damaged
newest one costs a few steps and no training.
"""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_bytes, read_markers, write_bytes
from pipeline.artifacts.files import remove
from pipeline.errors import JobError, StorageError

log = logging.getLogger(__name__)
KEPT = 2


class CheckpointStore(Protocol):
    """Keeps checkpoints of one job; only rank 0 calls it."""

    def save(self, step: int, payload: bytes) -> None:
        """Make the state after `step` steps durable; when this returns, a kill loses nothing before `step`."""

    def latest(self) -> bytes | None:
        """The newest undamaged checkpoint, None where there is none."""


class NoCheckpoints:
    """Keeps nothing: for short jobs that are cheaper to redo."""

    def save(self, step: int, payload: bytes) -> None:
        """Forget it."""

    def latest(self) -> bytes | None:
        return None


class MemoryCheckpoints:
    """Keeps the newest checkpoint in this process."""

    def __init__(self) -> None:
        self._newest: bytes | None = None

    def save(self, step: int, payload: bytes) -> None:
        self._newest = payload

    def latest(self) -> bytes | None:
        return self._newest


class FolderCheckpoints:
    """Checkpoints in a folder (store/models/<key>/checkpoints), marker `step-<n>.json` each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, step: int, payload: bytes) -> None:
        name, attempt = f"step-{step:08d}", new_attempt()
        data = write_bytes(self._folder, f"{name}.{attempt}.pt", payload)
        if not commit(self._folder, Marker(name, attempt, (data,), None, {"step": step})):
            remove(self._folder / data.name)
        for marker in self._markers()[:-KEPT]:
            self._drop(marker)

    def latest(self) -> bytes | None:
        """The newest checkpoint whose bytes are those its marker names; a damaged one is dropped with a warning."""
        for marker in reversed(self._markers()):
            try:
                return read_bytes(self._folder, marker.objects[0], check=True)
            except StorageError:
                raise  # the checkpoint is as good as it was
            except JobError as damage:
                log.warning("checkpoint %s is dropped, an earlier one is used: %s", marker.shard_id, damage)
                self._drop(marker)
        return None

    def clear(self) -> None:
        """Drop all checkpoints, once the job's result is committed elsewhere."""
        for marker in self._markers():
            self._drop(marker)

    def _markers(self) -> list[Marker]:
        return list(read_markers(self._folder, prefix="step-").values())

    def _drop(self, marker: Marker) -> None:
        """Marker first: an object that no marker names does not exist, a marker without its object is damage."""
        remove(self._folder / f"{marker.shard_id}.json")
        remove(self._folder / marker.objects[0].name)


def pack(state: Mapping[str, Any]) -> bytes:
    """A state of tensors, numbers, strings, lists and dicts as bytes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(payload: bytes, key: str) -> dict[str, Any]:
    """The state in `payload`. JobError where it belongs to another job than `key`."""
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if state["key"] != key:
        raise JobError(f"the checkpoint belongs to job key {state['key']}, this is {key}; use another folder")
    return state
