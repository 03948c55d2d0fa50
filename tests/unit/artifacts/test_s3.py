import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.artifacts import s3, s3_parts, s3_retry
from pipeline.artifacts.files import check_conditions
from pipeline.artifacts.places import place
from pipeline.errors import JobError, StorageError
from tests.support.objects import FakeStore, fake_store, refusal


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    return fake_store(monkeypatch)


class Once:
    """Raises the given errors, one at each request of `operation`, then nothing more."""

    def __init__(self, operation: str, *errors: Exception) -> None:
        self.operation, self.errors = operation, list(errors)

    def __call__(self, operation: str, key: str) -> None:
        if operation == self.operation and self.errors:
            raise self.errors.pop(0)


def test_of_many_creators_one_wins_even_with_equal_bytes(store: FakeStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: s3.create("s3://b/k", b"the same"), range(8)))
    assert sorted(won) == [False] * 7 + [True]
    assert s3.get("s3://b/k") == b"the same"


def test_a_creation_whose_answer_was_lost_counts_as_won(store: FakeStore) -> None:
    store.after = Once("create", ConnectionResetError(), refusal(503))
    assert s3.create("s3://b/k", b"mine") is True
    assert [operation for operation, _ in store.asked] == ["head", "create", "create", "head"]


def test_a_lost_answer_does_not_hide_that_somebody_else_won(store: FakeStore) -> None:
    def theirs(operation: str, key: str) -> None:
        if operation == "create":
            store.objects["b/k"] = (b"mine", {"writer": "another"})  # equal bytes, yet not ours

    store.before = theirs
    assert s3.create("s3://b/k", b"mine") is False


def test_what_exists_is_not_sent(store: FakeStore) -> None:
    s3.put("s3://b/k", b"old")
    store.asked.clear()
    assert s3.create("s3://b/k", b"new") is False
    assert store.asked == [("head", "b/k")]
    assert s3.get("s3://b/k") == b"old"


@pytest.mark.parametrize(
    "error", [refusal(500, "InternalError"), refusal(503), refusal(409, "Conflict"), TimeoutError()]
)
def test_what_can_pass_is_tried_again(store: FakeStore, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    store.before = Once("put", error, error)
    with caplog.at_level(logging.WARNING):
        s3.put("s3://b/k", b"x")
    assert store.objects["b/k"][0] == b"x"
    assert [operation for operation, _ in store.asked] == ["put"] * 3
    assert "s3://b/k cannot be written yet" in caplog.text
    assert "secret text" not in caplog.text


def test_what_lasts_fails_with_what_and_where(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_retry, "PATIENCE", 0.0)
    store.before = Once("get", *[refusal(503)] * 9)
    with pytest.raises(StorageError, match=r"s3://b/k cannot be read: HTTP 503 SlowDown, again and again") as caught:
        s3.get("s3://b/k")
    assert isinstance(caught.value, OSError)
    assert caught.value.exit_code == 1
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(404, "NoSuchBucket"), "there is no bucket 'b'"),
        (refusal(501), "HTTP 501 NotImplemented .a permanent error"),
    ],
)
def test_what_cannot_pass_fails_at_once(store: FakeStore, error: Exception, message: str) -> None:
    store.before = Once("get", error)
    with pytest.raises(StorageError, match=message):
        s3.get("s3://b/k")
    assert len(store.asked) == 1


REFUSALS = [refusal(403, "SignatureDoesNotMatch"), refusal(401, "Unauthorized"), refusal(400, "ExpiredToken")]


@pytest.mark.parametrize("error", REFUSALS)
def test_credentials_may_be_on_their_way(store: FakeStore, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    store.before = Once("put", error, error)
    s3.put("s3://b/k", b"x")
    assert store.objects["b/k"][0] == b"x"
    monkeypatch.setattr(s3_retry, "REFUSAL_PATIENCE", 0.0)
    store.before = Once("put", error)
    with pytest.raises(StorageError, match=r"refuses the credentials; check AWS_ACCESS_KEY_ID.*HTTP 40[013] \w+"):
        s3.put("s3://b/k", b"x")


def test_an_error_of_ours_is_not_taken_for_the_stores(store: FakeStore) -> None:
    store.before = Once("get", AssertionError("ours"))
    with pytest.raises(AssertionError, match="ours"):
        s3.get("s3://b/k")


def test_a_byte_that_changed_on_the_way_is_seen(store: FakeStore, caplog: pytest.LogCaptureFixture) -> None:
    s3.put("s3://b/k", b"whole")
    whole = store.objects["b/k"]
    store.objects["b/k"] = (b"whale", whole[1])
    with pytest.raises(StorageError, match="s3://b/k has other bytes than were written"):
        s3.get("s3://b/k")
    store.asked.clear()

    def mend(operation: str, key: str) -> None:
        if len(store.asked) == 2:
            store.objects["b/k"] = whole

    store.before = mend
    assert s3.get("s3://b/k") == b"whole"
    assert len(store.asked) == 2
    assert "fetching it again" in caplog.text


def test_what_others_wrote_is_read_as_it_is(store: FakeStore) -> None:
    store.objects["b/k"] = (b"theirs", {})
    assert s3.get("s3://b/k") == b"theirs"


def test_absent_objects(store: FakeStore, tmp_path: Path) -> None:
    assert s3.get("s3://b/k") is None
    assert s3.size("s3://b/k") is None
    assert s3.get_range("s3://b/k", 0, 5) is None
    s3.delete("s3://b/k")
    with pytest.raises(FileNotFoundError, match="s3://b/k does not exist"):
        s3.download("s3://b/k", tmp_path / "k")


def test_reading(store: FakeStore, tmp_path: Path) -> None:
    urls = [f"s3://b/{n}" for n in range(50)]
    for url in urls[::2]:
        s3.put(url, url.encode())
    assert s3.get_many(urls) == [url.encode() if n % 2 == 0 else None for n, url in enumerate(urls)]
    assert s3.get_many([]) == []
    assert s3.get_range("s3://b/0", 2, 5) == b"://"
    assert s3.size("s3://b/0") == 8
    s3.download("s3://b/0", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == b"s3://b/0"


def test_listing_over_all_pages(store: FakeStore) -> None:
    for key in ("f/1", "f/2", "f/3", "f/4", "f/5", "f/in/6", "f/other/7", "g/8"):
        s3.put(f"s3://b/{key}", key.encode())
    assert [item.url for item in s3.found("s3://b/f/", deep=False)] == [f"s3://b/f/{n}" for n in range(1, 6)]
    assert [item.url[-1] for item in s3.found("s3://b/f/", deep=True)] == list("1234567")
    assert list(s3.folders("s3://b/f/")) == ["s3://b/f/in", "s3://b/f/other"]
    item = next(s3.found("s3://b/g", deep=True))
    assert (item.size, item.etag, item.modified) == (3, "b/g/8", 7.0)


def test_a_store_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = fake_store(monkeypatch)
    check_conditions(place("s3://b/store"))
    assert good.objects == {}, "the probe was left behind"
    bad = fake_store(monkeypatch, conditions=False)
    with pytest.raises(JobError, match=r"s3://b/store: .*If-None-Match.*storage\.single_writer"):
        check_conditions(place("s3://b/store"))
    assert bad.objects == {}


def test_a_store_that_knows_no_conditions_serves_a_single_writer(store: FakeStore) -> None:
    def refuse(operation: str, key: str) -> None:
        if operation == "create":
            raise refusal(501)

    store.before = refuse
    assert not s3.honours_conditions("s3://b/store")
    assert s3.create("s3://b/k", b"x") is True
    assert s3.create("s3://b/k", b"y") is False
    assert s3.get("s3://b/k") == b"x"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts."""
    monkeypatch.setattr(s3_parts, "PART", 4)
    (tmp_path / "large").write_bytes(b"0123456789")
    return tmp_path / "large"


def steps(store: FakeStore) -> list[str]:
    return [operation for operation, _ in store.asked]


def test_a_small_file_is_sent_in_one_request_and_a_large_one_in_parts(store: FakeStore, large: Path) -> None:
    assert s3.create("s3://b/large", large) is True
    assert steps(store) == ["head", "create", "upload_part", "upload_part", "upload_part", "complete"]
    assert s3.get("s3://b/large") == b"0123456789", "its sha256 is compared"
    assert s3.create("s3://b/large", large) is False
    large.write_bytes(b"0123")
    store.asked.clear()
    assert s3.create("s3://b/small", large) is True
    assert steps(store) == ["head", "create"]
    assert store.objects["b/small"][1]["sha256"] == hashlib.sha256(b"0123").hexdigest()
    assert store.uploads == {}


def test_a_part_that_fails_is_sent_again_by_itself(store: FakeStore, large: Path) -> None:
    def third_part_fails(operation: str, key: str) -> None:
        if operation == "upload_part" and steps(store).count("upload_part") in (3, 4):
            raise refusal(503)

    store.before = third_part_fails
    assert s3.create("s3://b/large", large) is True
    assert steps(store) == ["head", "create", *["upload_part"] * 5, "complete"]
    assert s3.get("s3://b/large") == b"0123456789"


def test_a_large_file_whose_last_answer_was_lost_counts_as_created(store: FakeStore, large: Path) -> None:
    store.after = Once("complete", ConnectionResetError())
    assert s3.create("s3://b/large", large) is True
    assert s3.get("s3://b/large") == b"0123456789"


def test_of_two_that_send_a_large_file_one_wins_and_the_other_leaves_no_parts(store: FakeStore, large: Path) -> None:
    def theirs(operation: str, key: str) -> None:
        if operation == "complete":
            store.objects["b/large"] = (b"theirs", {"writer": "another"})

    store.before = theirs
    assert s3.create("s3://b/large", large) is False
    assert steps(store)[-2:] == ["abort", "head"]
    assert store.uploads == {}


def test_a_large_file_that_cannot_be_sent_leaves_no_parts(
    store: FakeStore, large: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retry, "REFUSAL_PATIENCE", 0.0)
    store.before = Once("upload_part", refusal(403))
    with pytest.raises(StorageError, match=r"s3://b/large cannot be written: the store refuses the credentials"):
        s3.create("s3://b/large", large)
    assert store.uploads == {}
    store.before = lambda operation, key: away() if operation in ("upload_part", "abort") else None
    with pytest.raises(StorageError, match="refuses the credentials"):
        s3.create("s3://b/large", large)
    assert "an unfinished upload remains (PermissionError)" in caplog.text


def away() -> None:
    raise refusal(403)
