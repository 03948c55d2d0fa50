"""Trouble of a disk, a mount or memory that may pass: waited out with growing pauses, then a StorageError.

What an object store says is judged in s3_retry.
"""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from pipeline.errors import StorageError

LOG = logging.getLogger(__name__)
T = TypeVar("T")
TRIES = 5  # with pauses of 0.5, 1, 2 and 4 s: shorter than a lease
_DISK = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBUSY, errno.EAGAIN}
_MOUNT = {errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED}
_NETWORK = {errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPIPE}
_MACHINE = {errno.ENOMEM, errno.ENOBUFS, errno.ENFILE, errno.EMFILE}
_PASSING = _DISK | _MOUNT | _NETWORK | _MACHINE


class Retries:
    """How often this process tried again so far, for disks and for object stores."""

    count = 0


def patiently(what: str, path: Path, call: Callable[..., T], *arguments: Any) -> T:
    """The call's result; it must bear being repeated. `what` is done to `path`, in the past: read, written.

    StorageError where the trouble lasts or the right is lacking; what else cannot pass (no such file) goes on as it is.
    """

    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        error, Retries.count = state.outcome.exception(), Retries.count + 1
        LOG.warning("%s cannot be %s yet (%s), attempt %d", path, what, _reason(error), state.attempt_number)

    tries = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(0.5, max=8),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return tries(call, *arguments)
    except PermissionError as error:
        raise StorageError(
            f"{path} cannot be {what}: {_reason(error)}; give the user who runs this the right"
        ) from error
    except OSError as error:
        if not _may_pass(error):
            raise
        again = "again and again; start the same command when this is mended"
        raise StorageError(f"{path} cannot be {what}: {_reason(error)}, {again}") from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, StorageError) and error.errno in _PASSING


def _reason(error: BaseException | None) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
