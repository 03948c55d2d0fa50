"""A large local file as one object, sent in parts: each is tried again by itself, and one is in memory at a time."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.s3_retry import retried

LOG = logging.getLogger(__name__)
PART = 32 << 20  # bytes; stores take no fewer than 5 MiB, and 10,000 parts at most


@dataclass(frozen=True)
class Upload:
    """`call` makes one request by its name in the S3 protocol; `url` names the object in messages."""

    call: Callable[..., Any]
    url: str
    bucket: str
    key: str

    def send(self, path: Path, facts: dict[str, str], condition: dict[str, str]) -> None:
        """Errors of the last request, which makes the object, pass through as they are: only the caller can tell
        whether it was carried out. StorageError where an earlier one fails for good."""
        upload = self._retried("create_multipart_upload", Metadata=facts)["UploadId"]
        try:
            sent = [self._part(upload, number, data) for number, data in enumerate(_parts(path), start=1)]
            self._call("complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": sent}, **condition)
        except Exception:
            self._abort(upload)
            raise

    def _part(self, upload: str, number: int, data: bytes) -> dict[str, Any]:
        answer = self._retried("upload_part", UploadId=upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _abort(self, upload: str) -> None:
        try:
            self._call("abort_multipart_upload", UploadId=upload)
        except (
            Exception
        ) as error:  # what is raised is why we are here; parts without an object are the store's to expire
            LOG.warning("%s: an unfinished upload remains (%s)", self.url, type(error).__name__)

    def _retried(self, operation: str, **options: Any) -> Any:
        return retried("written", self.url, lambda: self._call(operation, **options))

    def _call(self, operation: str, **options: Any) -> Any:
        return self.call(operation, Bucket=self.bucket, Key=self.key, **options)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(PART):
            yield data
