"""An object store in a dictionary, in the place of s3fs: for tests of what becomes of its answers and failures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.artifacts import s3

CODES = {404: "NoSuchKey", 412: "PreconditionFailed", 403: "AccessDenied", 503: "SlowDown", 501: "NotImplemented"}


def refusal(status: int, code: str = "") -> OSError:
    """What s3fs raises for an answer of the store: an OSError with the answer as its cause."""
    answer = {"Error": {"Code": code or CODES[status]}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = FileNotFoundError() if status == 404 else PermissionError() if status == 403 else OSError(5, "secret text")
    error.__cause__ = ClientError(answer, "call")
    return error


@dataclass
class FakeStore:
    """`before` and `after` are called with (operation, key) around each request and may raise; `asked` lists them."""

    conditions: bool = True
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], None] = lambda operation, key: None
    after: Callable[[str, str], None] = lambda operation, key: None
    uploads: dict[str, tuple[dict[str, str], dict[int, bytes]]] = field(default_factory=dict)

    def pipe_file(self, url: str, data: bytes, mode: str = "overwrite", Metadata: Any = None) -> None:
        operation = "create" if mode == "create" else "put"
        self._request(operation, url, lambda key: self._write(key, data, Metadata or {}, new=mode == "create"))

    def _write(self, key: str, data: bytes, facts: dict[str, str], *, new: bool) -> None:
        if new and self.conditions and key in self.objects:
            raise refusal(412)
        self.objects[key] = (data, facts)

    def cat_file(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        return self._request("get", url, lambda key: self._stored(key)[0][start:end])

    def body(self, url: str) -> tuple[bytes, dict[str, str]]:
        return self._request("get", url, self._stored)

    def get_file(self, url: str, path: str) -> None:
        self._request("get", url, lambda key: Path(path).write_bytes(self._stored(key)[0]))

    def call_s3(self, operation: str, Bucket: str, Key: str = "", **options: Any) -> Any:
        url = f"s3://{Bucket}/{Key}"
        if operation == "head_object":
            data, facts = self._request("head", url, self._stored)
            return {"ContentLength": len(data), "Metadata": facts}
        if "multipart" in operation or operation == "upload_part":
            return self._request(operation.removesuffix("_multipart_upload"), url, lambda key: self._part(key, options))
        if operation == "delete_object":
            return self._request("delete", url, lambda key: self.objects.pop(key, None))
        assert operation == "list_objects_v2", operation
        return self._request("list", f"s3://{Bucket}/{options['Prefix']}", lambda key: self._listed(key, options))

    def _part(self, key: str, options: dict[str, Any]) -> Any:
        """One step of an upload in parts, told by what comes with it."""
        if "Metadata" in options:
            self.uploads[f"upload {len(self.uploads)}"] = options["Metadata"], {}
            return {"UploadId": f"upload {len(self.uploads) - 1}"}
        facts, parts = self.uploads[options["UploadId"]]
        if "Body" in options:
            parts[options["PartNumber"]] = options["Body"]
            return {"ETag": str(options["PartNumber"])}
        if "MultipartUpload" in options:
            data = b"".join(parts[part["PartNumber"]] for part in options["MultipartUpload"]["Parts"])
            self._write(key, data, facts, new="IfNoneMatch" in options)
        del self.uploads[options["UploadId"]]
        return {}

    def _listed(self, prefix: str, options: dict[str, Any]) -> dict[str, Any]:
        """Two names a page, so that every listing needs its second page."""
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        deep = "Delimiter" not in options
        own = [key for key in keys if deep or "/" not in key[len(prefix) :]]
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in keys if key not in own}
        start = int(options.get("ContinuationToken", 0))
        shown = [{"Key": key.partition("/")[2], **self._facts(key)} for key in own[start : start + 2]]
        page: dict[str, Any] = {"Contents": shown, "IsTruncated": start + 2 < len(own)}
        if not start:
            page["CommonPrefixes"] = [{"Prefix": name.partition("/")[2]} for name in sorted(folders)]
        return page | {"NextContinuationToken": str(start + 2)}

    def _facts(self, key: str) -> dict[str, Any]:
        return {"Size": len(self.objects[key][0]), "ETag": f'"{key}"', "LastModified": datetime.fromtimestamp(7, UTC)}

    def _stored(self, key: str) -> tuple[bytes, dict[str, str]]:
        if key not in self.objects:
            raise refusal(404)
        return self.objects[key]

    def _request(self, operation: str, url: str, work: Callable[[str], Any]) -> Any:
        key = url.removeprefix("s3://")
        self.asked.append((operation, key))
        self.before(operation, key)
        found = work(key)
        self.after(operation, key)
        return found


def fake_store(monkeypatch: pytest.MonkeyPatch, *, conditions: bool = True) -> FakeStore:
    """A store behind every s3:// address of this test; waits between attempts take no time."""
    store = FakeStore(conditions)
    monkeypatch.setattr(s3, "_client", lambda: store)
    monkeypatch.setattr(s3, "_body", store.body)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    return store
