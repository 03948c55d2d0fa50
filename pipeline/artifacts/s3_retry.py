"""Trying again: which failures of an object store can pass, for how long they are waited out, and what is said then."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from pipeline.artifacts.patience import Retries
from pipeline.errors import StagedKDError, StorageError

LOG = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE = 90.0  # seconds of trying again
# The same for refused credentials: they may be on their way (a role that is renewed, rights that spread), but whoever
# mistyped a key should not wait for long.
REFUSAL_PATIENCE = 15.0
_REFUSING_CODES = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed"}
_PASSING_STATUS = {408, 409, 425, 429}
# Bodies that did not arrive whole or unchanged; an upload that is gone because its lost answer was "done".
_PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "NoSuchUpload",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_REFUSED = (
    "the store refuses the credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights on the bucket"
)


def retried(what: str, url: str, call: Callable[[], T]) -> T:
    """The call's result. FileNotFoundError for an object that is not there, StorageError for all else."""
    tries = Retrying(
        stop=_waited_enough,
        wait=wait_random_exponential(multiplier=0.25, max=15),
        retry=retry_if_exception(lambda error: _passes(error) or _is_refusal(error)),
        before_sleep=partial(_log, what, url),
        reraise=True,
    )
    try:
        return tries(call)
    except StagedKDError:
        raise
    except FileNotFoundError as error:
        if _code(error) not in ("NoSuchBucket", "NoSuchUpload"):
            raise FileNotFoundError(f"{url} does not exist") from None
        reason = f"there is no bucket {url.removeprefix('s3://').partition('/')[0]!r}; make it, or mend the address"
    except Exception as error:
        if not _known(error):
            raise
        reason = _reason(error)
    # No cause is chained: the messages of the libraries below tell the store's address and the key's name.
    raise StorageError(f"{url} cannot be {what}: {reason}")


def _waited_enough(state: RetryCallState) -> bool:
    assert state.outcome is not None
    error, waited = state.outcome.exception(), state.seconds_since_start or 0.0
    assert error is not None
    return waited >= (REFUSAL_PATIENCE if _is_refusal(error) else PATIENCE)


def _log(what: str, url: str, state: RetryCallState) -> None:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    Retries.count += 1
    LOG.warning("%s cannot be %s yet (%s), attempt %d", url, what, _name(error), state.attempt_number)


def _reason(error: BaseException) -> str:
    if _is_refusal(error) or "Credentials" in type(error).__name__:
        return f"{_REFUSED} ({_name(error)})"
    if _passes(error):
        return f"{_name(error)}, again and again for {PATIENCE:.0f} s; start the same command when the store is back"
    return f"{_name(error)} (a permanent error)"


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return (status >= 500 and status != 501) or status in _PASSING_STATUS or _code(error) in _PASSING_CODES
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError | StagedKDError):
        return False
    return isinstance(error, OSError | TimeoutError) or _from_below(error)


def _is_refusal(error: BaseException) -> bool:
    """Whether the store does not accept who asks, or what he may do."""
    if isinstance(error, StagedKDError):
        return False
    return isinstance(error, PermissionError) or status_of(error) in (401, 403) or _code(error) in _REFUSING_CODES


def _from_below(error: BaseException) -> bool:
    """Connections that failed and bodies that came damaged, in the words of the HTTP and AWS libraries."""
    import aiohttp
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    passing = (aws.ConnectionError, aws.HTTPClientError, aws.FlexibleChecksumError, aws.IncompleteReadError)
    return isinstance(error, (*passing, aws.CredentialRetrievalError, ResponseParserError, aiohttp.ClientError))


def _known(error: BaseException) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, OSError | BotoCoreError | ClientError) or _from_below(error)


def _response(error: BaseException) -> dict[str, Any]:
    """What the store answered, {} where it did not answer."""
    for link in (error, error.__cause__):
        if isinstance(getattr(link, "response", None), dict):
            return dict(link.response)  # type: ignore[union-attr]
    return {}


def status_of(error: BaseException) -> int | None:
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _name(error: BaseException) -> str:
    """What happened, without the library's text."""
    status, code = status_of(error), _code(error)
    return type(error).__name__ if status is None else f"HTTP {status} {code if code != str(status) else ''}".strip()
