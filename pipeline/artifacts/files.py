"""Files that appear whole or not at all: the only place that names temporary files, links and syncs.

A reader never sees half a file: every file is written under a hidden temporary name in its own folder, flushed to the
disk, and then linked (create if absent) or renamed (replace) to its name.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def create_if_absent(path: Path, data: bytes) -> bool:
    """Create `path` with `data`, unless it exists. True: this call created it; False: it was there, and is untouched.

    Of any number of processes that race for one path exactly one gets True.
    """
    return publish(path, lambda temporary: temporary.write_bytes(data))


def publish(path: Path, write: Callable[[Path], object]) -> bool:
    """Let `write` fill a temporary file, then name it `path` unless that exists. Returns as create_if_absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        write(temporary)
        _sync(temporary)
        won = _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)
    return won


def replace(path: Path, data: bytes) -> None:
    """Write `path` anew in one step; readers see the old or the new content. Not flushed: for facts that expire."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_if_present(path: Path) -> bytes | None:
    """The bytes of `path`, or None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A network file system may repeat a link that already succeeded and then report that the name exists.
        return temporary.stat().st_nlink > 1
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
