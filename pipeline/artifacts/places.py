"""Where things lie: a folder of this machine (or of a file system that all machines mount), or an `s3://` address.

Paths cross the borders of processes as text and come back through `place`. An address is a universal_pathlib path: it
joins, names and compares as a pathlib path does, but `Path(address)` and `open(address)` fail; contents go through
`files` (whole, with retries) or `fetch`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pipeline.artifacts import s3
from pipeline.errors import ConfigError, InputError


def place(where: str | Path) -> Path:
    """`where` as a path: absolute for a folder, a universal_pathlib path (typed as Path) for an `s3://` address.

    ConfigError for another kind of address, InputError where the extra for S3 is not installed.
    """
    text = str(where)
    if is_remote(where):
        if not text.removeprefix(s3.SCHEME).strip("/"):
            raise ConfigError(f"{text} names no bucket; an address is s3://bucket/folder")
        return cast(Path, _addresses()(text.rstrip("/")))
    if "://" in text:
        raise ConfigError(f"{text} cannot be read: give a folder or an s3:// address")
    return Path(where).absolute()


def is_remote(where: str | Path) -> bool:
    """Whether `where` lies in an object store: no folders to make, nothing to open, each look a request."""
    return str(where).startswith(s3.SCHEME)


@contextmanager
def fetch(where: str | Path) -> Iterator[Path]:
    """A local path with the file's bytes for the time of the block: the file itself, or a copy of an object.

    FileNotFoundError where an object does not exist; StorageError where the store fails.
    """
    path = place(where)
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="stagedkd-") as folder:
        local = Path(folder) / path.name
        s3.download(str(path), local)
        yield local


def _addresses() -> type:
    try:
        from upath import UPath
    except ImportError as error:
        raise InputError("s3:// addresses need the extra: pip install 'stagedkd[s3]'") from error
    return UPath
