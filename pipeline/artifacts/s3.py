"""Objects in an S3-compatible store, by address (`s3://bucket/key`): the only module that speaks to one.

Address and secrets of the store come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …) and stand in no
message. A request whose failure can pass (no answer, 5xx, throttling, a body cut short) is tried again with growing
waits; what cannot pass (refused, no bucket) fails at once. Nothing is cached. Each object that
is written here carries its sha256, which every whole read compares: what lies between may change bytes in silence.
"""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.artifacts import s3_parts
from pipeline.artifacts.identity import file_digest
from pipeline.artifacts.s3_retry import retried, status_of
from pipeline.errors import InputError, StorageError

LOG = logging.getLogger(__name__)
T = TypeVar("T")
SCHEME = "s3://"
FETCHES = 3  # of an object that arrives other than it was written
THREADS = 32  # requests in flight where many small objects are read


@dataclass(frozen=True)
class Found:
    """One object of a listing: its address, bytes, what changes with its content, and when it was written."""

    url: str
    size: int
    etag: str
    modified: float  # seconds since 1970, by the store's clock


def get(url: str) -> bytes | None:
    """The whole object as it was written, None where there is none."""
    for _ in range(FETCHES):
        found = _absent_is_none("read", url, lambda: _body(url))
        if found is None:
            return None
        data, facts = found
        if facts.get("sha256") in (None, hashlib.sha256(data).hexdigest()):
            return data
        LOG.warning("%s has other bytes than were written (sha256): fetching it again", url)
    raise StorageError(
        f"{url} has other bytes than were written (sha256), {FETCHES} times: damaged, or on the way here"
    )


def get_range(url: str, start: int, stop: int) -> bytes | None:
    """Bytes start .. stop - 1 of the object, None where there is none."""
    return _absent_is_none("read", url, lambda: _client().cat_file(url, start=start, end=stop))


def get_many(urls: Sequence[str]) -> list[bytes | None]:
    """As `get`, many at a time; results in the order asked for."""
    if not urls:
        return []
    with ThreadPoolExecutor(min(THREADS, len(urls)), "s3") as threads:
        return list(threads.map(get, urls))


def put(url: str, data: bytes) -> None:
    """Write the object, whether or not there was one."""
    retried("written", url, lambda: _client().pipe_file(url, data, Metadata=_signed(data)))


def create(url: str, data: bytes | Path) -> bool:
    """Write the object, from bytes or a local file, unless there is one. True: this call wrote it.

    Of any number of racers exactly one gets True, unless the file is so large that it goes in parts: some stores look
    whether there is an object and end the upload in two steps, and let two win. Such a file needs a name that nobody
    else writes, as `commit.py` gives to tables. A request that was carried out but whose answer was lost counts as
    carried out: each call signs its object.
    """
    if size(url) is not None:
        return False
    writer = uuid.uuid4().hex
    return retried("written", url, lambda: _create(url, data, writer))


def honours_conditions(folder: str) -> bool:
    """Whether the store refuses to create what exists, tried on an object below `folder` that is removed again."""
    url = f"{folder.rstrip('/')}/probe-{uuid.uuid4().hex}"
    try:
        won = [retried("written", url, partial(_create, url, b"probe", writer)) for writer in ("first", "second")]
        return won == [True, False]
    finally:
        delete(url)


def size(url: str) -> int | None:
    """Bytes of the object, None where there is none."""
    head = _absent_is_none("looked up", url, partial(_head, url))
    return None if head is None else int(head["ContentLength"])


def found(url: str, *, deep: bool) -> Iterator[Found]:
    """Objects whose address begins with `url`, sorted; without `deep` only those with no further '/' in it."""
    home = f"{SCHEME}{_split(url)[0]}/"
    for page in _pages(url, {} if deep else {"Delimiter": "/"}):
        for item in page.get("Contents", ()):
            etag = str(item["ETag"]).strip('"')
            yield Found(home + item["Key"], int(item["Size"]), etag, item["LastModified"].timestamp())


def folders(url: str) -> Iterator[str]:
    """What stands before the next '/' in the addresses that begin with `url`, without that '/'."""
    home = f"{SCHEME}{_split(url)[0]}/"
    for page in _pages(url, {"Delimiter": "/"}):
        yield from (home + item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", ()))


def delete(url: str) -> None:
    """Remove the object if there is one."""
    bucket, key = _split(url)
    retried("removed", url, lambda: _client().call_s3("delete_object", Bucket=bucket, Key=key))


def download(url: str, path: Path) -> None:
    """Copy the object into a local file. FileNotFoundError where there is none."""
    copied = _absent_is_none("read", url, lambda: _client().get_file(url, str(path)) or True)
    if copied is None:
        raise FileNotFoundError(f"{url} does not exist")


def open_for_reading(url: str) -> BinaryIO:
    """A seekable file that reads what is asked for in blocks of 1 MiB."""
    return retried("read", url, lambda: _client().open(url, "rb", block_size=1 << 20))


def _create(url: str, data: bytes | Path, writer: str) -> bool:
    try:
        return _put_new(url, data, writer)
    except OSError as error:
        if status_of(error) != 501:
            raise
        # A store that knows no conditions: allowed for a single writer only, and we looked before.
        _send(url, data, _signed(data), new=False)
        return True


def _put_new(url: str, data: bytes | Path, writer: str) -> bool:
    try:
        _send(url, data, _signed(data) | {"writer": writer}, new=True)
        return True
    except OSError as error:
        if status_of(error) != 412 and not isinstance(error, FileExistsError):
            raise
        return _writer(url) == writer


def _send(url: str, data: bytes | Path, facts: dict[str, str], *, new: bool) -> None:
    if isinstance(data, Path) and data.stat().st_size > s3_parts.PART:
        upload = s3_parts.Upload(_client().call_s3, url, *_split(url))
        upload.send(data, facts, {"IfNoneMatch": "*"} if new else {})
        return
    content = data if isinstance(data, bytes) else data.read_bytes()
    _client().pipe_file(url, content, mode="create" if new else "overwrite", Metadata=facts)


def _signed(data: bytes | Path) -> dict[str, str]:
    return {"sha256": hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else file_digest(data)}


def _body(url: str) -> tuple[bytes, dict[str, str]]:
    """The object's bytes and what was written with them."""
    from fsspec.asyn import sync

    client = _client()

    async def read() -> tuple[bytes, dict[str, str]]:
        bucket, key = _split(url)
        answer = await client._call_s3("get_object", Bucket=bucket, Key=key)
        try:
            return await answer["Body"].read(), dict(answer["Metadata"])
        finally:
            answer["Body"].close()

    return sync(client.loop, read)


def _writer(url: str) -> str | None:
    try:
        return str(_head(url)["Metadata"].get("writer"))
    except FileNotFoundError:
        return None  # written by somebody, and removed since


def _pages(url: str, how: dict[str, str]) -> Iterator[dict[str, Any]]:
    bucket, prefix = _split(url)
    wanted = {"Bucket": bucket, "Prefix": prefix, **how}
    while True:
        page = retried("listed", url, lambda: _client().call_s3("list_objects_v2", **wanted))
        yield page
        if not page.get("IsTruncated"):
            return
        wanted["ContinuationToken"] = page["NextContinuationToken"]


def _head(url: str) -> dict[str, Any]:
    bucket, key = _split(url)
    return dict(_client().call_s3("head_object", Bucket=bucket, Key=key))


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    return bucket, key


def _client() -> Any:
    """The file system for the present environment: one per process, shared by its threads, none inherited by fork."""
    return _connected(os.getpid(), tuple(sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_"))))


@lru_cache(maxsize=4)
def _connected(process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise InputError("s3:// addresses need the extra: pip install 'stagedkd[s3]'") from error
    for library in ("aiobotocore", "botocore", "s3fs"):  # they tell where they found address and credentials
        logging.getLogger(library).setLevel(logging.WARNING)
    client = s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        max_concurrency=1,  # more costs one look-up for each read
        config_kwargs={"retries": {"total_max_attempts": 1}, "max_pool_connections": 2 * THREADS},
    )
    client.retries = 1  # trying again is ours alone: one policy, one place
    return client


def _absent_is_none(what: str, url: str, call: Callable[[], T]) -> T | None:
    try:
        return retried(what, url, call)
    except FileNotFoundError:
        return None
