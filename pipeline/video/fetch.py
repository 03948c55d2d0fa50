"""Videos in an object store become local files before they are decoded: decoders seek, and hide errors of reading.

The parent of a decode child fetches; the child reads a local file and never meets a network.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.artifacts.files import size_of
from pipeline.artifacts.places import fetch, is_remote, place
from pipeline.video.handle import Limits

MISSING = "no such file, though the plan names it: the next run scans the videos again and buries what is gone"


@contextmanager
def local_copy(where: str | Path, limits: Limits) -> Iterator[Path]:
    """The video as a local file for the time of the block: itself, or a temporary copy of an s3:// object.

    OSError where storage fails (after retries), where the object is gone or did not come whole, and where the local
    disk is full; DecodeError `too_large`, before anything is fetched, for an object of too many bytes.
    """
    if not is_remote(where):
        yield Path(where)
        return
    size = size_of(place(where))
    if size is None:
        raise FileNotFoundError(errno.ENOENT, MISSING, str(where))
    limits.check_bytes(size)
    with fetch(where) as local:
        fetched = local.stat().st_size
        if fetched != size:
            raise OSError(errno.EIO, f"{fetched} bytes came of an object of {size} bytes", str(where))
        yield local
