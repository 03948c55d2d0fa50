"""Artefacts in a real S3 store over HTTP: races, kills, wrong credentials, and a bad way to the store."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.artifacts import s3 as objects
from pipeline.artifacts import s3_parts, s3_retry
from pipeline.artifacts.commit import read_bytes, read_markers, read_object, write_bytes, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.files import check_conditions, create_if_absent, listing, publish, read_if_present, size_of
from pipeline.artifacts.layout import Workspace
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.places import fetch, place
from pipeline.artifacts.snapshot import pin
from pipeline.errors import JobError, StorageError
from pipeline.manifest.probe import probe, probe_many
from pipeline.manifest.scan import scan
from tests.support.driver import RECIPES, arguments, drive
from tests.support.servers import S3, faulty
from tests.support.videos import write_video
from tests.unit.artifacts.tables import frames_table, line_of, put, run_python, targets_table, tell

RACER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pipeline.artifacts.files import create_if_absent
from pipeline.artifacts.places import place
folder, rounds = place(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(16) as threads:
    for n in range(rounds):
        won = list(threads.map(lambda _: create_if_absent(folder / str(n), b"equal bytes"), range(16)))
        print(sum(won), flush=True)
"""
HOLDER = """
import sys
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.places import place
with Lease(place(sys.argv[1]), "host-a:17", duration=1.5, renew=0.2) as lease:
    print("holds", lease.epoch, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An address of this test's own, reachable from this process."""
    reach(s3.env, monkeypatch)
    return place(f"{s3.url}/{request.node.name}")


def reach(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_of_racing_threads_and_processes_one_creates_each_object(store: Path) -> None:
    rounds = 2
    racers = [run_python(RACER, store, rounds) for _ in range(4)]
    assert [line_of(racer) for racer in racers] == ["ready"] * 4
    for racer in racers:
        tell(racer, "go")
    won = [[int(line_of(racer)) for _ in range(rounds)] for racer in racers]
    assert [racer.wait(30) for racer in racers] == [0] * 4
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * rounds, won


def test_a_killed_owner_is_followed_and_a_living_one_is_named(store: Path) -> None:
    check_conditions(store)
    holder = run_python(HOLDER, store)
    assert line_of(holder) == "holds 1"
    with pytest.raises(JobError, match=r"host-a:17 \(lease epoch 1\)"), Lease(store, "b", duration=1.5, renew=0.2):
        raise AssertionError("two owners")
    holder.kill()
    holder.wait(10)
    with Lease(store, "host-b:18", duration=1.5, renew=0.2) as lease:
        lease.check()
        assert lease.epoch == 2
        assert [path.name for path in listing(store, "*.claim")] == ["lease.00000002.claim"]


def filled(folder: Path) -> Path:
    """Three shards of frames and targets, one with a quarantined video."""
    for number, videos in enumerate((["a", "b"], ["c"], ["d", "e"])):
        put(folder / "frames", number, frames_table(videos[:1]), frames_table(videos[1:]), quarantined=videos[1:])
        put(folder / "targets", number, targets_table(videos), quarantined=[])
    return folder


def sums(folder: Path) -> list[str]:
    return [obj.sha256 for marker in read_markers(folder).values() for obj in marker.objects]


def test_what_is_read_back_is_what_a_folder_gives(store: Path, tmp_path: Path) -> None:
    local = filled(tmp_path)
    filled(store)
    for kind in ("frames", "targets"):
        here, there = local / kind, store / kind
        sums = [
            [obj.sha256 for marker in read_markers(folder).values() for obj in marker.objects]
            for folder in (here, there)
        ]
        assert sums[0] == sums[1]
        pinned = pin(there)
        assert pinned.digest == pin(here).digest
        there_rows = open_dataset(str(there), pinned.digest, check=True)
        assert there_rows.table().equals(open_dataset(here).table())
        assert there_rows.arrow().to_table().equals(open_dataset(here).arrow().to_table())
    order = [list(open_dataset(folder / "targets").training_rows(0, 1, 3, 0, 2)) for folder in (local, store)]
    assert [step["logits"].tobytes() for step in order[0]] == [step["logits"].tobytes() for step in order[1]]


def test_an_address_that_cannot_serve_says_so_and_keeps_the_secret(
    s3: S3, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="there is no bucket 'elsewhere'"):
        Workspace.open(tmp_path, "s3://elsewhere/store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    sets = {"workspace": tmp_path / "w", "storage.root": store}
    done = drive(arguments("manifest", RECIPES / "debug.yaml", sets))
    assert done.code == 1, done.err
    told = done.err.strip().splitlines()[-1]
    assert told.startswith(f"stagedkd: {store}/workspace.json cannot be")
    assert "AWS_SECRET_ACCESS_KEY" in told
    for hidden in ("a-wrong-secret", s3.secret, str(s3.port), "Traceback"):
        assert hidden not in done.out + done.err


def test_a_store_that_is_killed_and_comes_back_costs_a_wait(s3: S3, store: Path) -> None:
    table = targets_table(["a", "b"])
    first = write_table(store, "first.parquet", table)
    s3.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_retry, "PATIENCE", 1.0)
        with pytest.raises(StorageError, match=r"second\.parquet cannot be .* again and again"):
            write_table(store, "second.parquet", table)
    back = threading.Timer(1.5, s3.start)
    back.start()
    began = time.monotonic()
    second = write_table(store, "second.parquet", table)
    back.join()
    assert time.monotonic() - began > 1
    assert first.sha256 == second.sha256
    assert read_object(store, second).equals(read_object(store, first))


@contextlib.contextmanager
def patient(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("ERROR"):  # each retry is a warning
        yield


def test_on_a_bad_way_the_same_table_arrives(
    s3: S3, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local = filled(tmp_path / "here")
    every = {"unavailable": 6, "slow": 15, "lost": 3, "cut": 8, "corrupt": 4}
    with faulty(s3, tmp_path, **every) as way, patient(caplog):
        reach(way.env, monkeypatch)
        filled(store)
        for kind in ("frames", "targets"):
            assert open_dataset(store / kind).table().equals(open_dataset(local / kind).table())
        made = way.made()
    assert all(made[name] > 0 for name in every), made
    reach(s3.env, monkeypatch)
    for kind in ("frames", "targets"):
        assert pin(store / kind).digest == pin(local / kind).digest
        for marker in read_markers(store / kind).values():
            for obj in (*marker.objects, marker.quarantine):
                assert obj is not None
                assert size_of(store / kind / obj.name) == obj.size


def test_a_byte_changed_on_the_way_is_seen_and_fetched_again(
    s3: S3, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    obj = write_bytes(store, "weights.bin", b"w" * 10_000)
    table = write_table(store, "rows.parquet", targets_table(["a"]))
    with faulty(s3, tmp_path, corrupt=2) as way:
        reach(way.env, monkeypatch)
        assert read_if_present(store / obj.name) == b"w" * 10_000  # the first is whole
        assert read_object(store, table).equals(targets_table(["a"]).select(read_object(store, table).column_names))
        assert way.made()["corrupt"] >= 1
        assert "has other bytes than were written (sha256): fetching it again" in caplog.text
    with faulty(s3, tmp_path, corrupt=1) as way:
        reach(way.env, monkeypatch)
        with pytest.raises(JobError, match=r"rows\.parquet has other bytes than were written"):
            read_object(store, table)


def test_a_large_file_in_parts_arrives_on_a_bad_way_and_is_whole_whoever_else_sends_it(
    s3: S3, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(s3_parts, "PART", 5 << 20)  # the least that a store takes
    data = random.Random(0).randbytes(12 << 20)
    with faulty(s3, tmp_path, lost=4, unavailable=5) as way, patient(caplog):
        reach(way.env, monkeypatch)
        written = [write_bytes(store, f"{number}.bin", data) for number in range(3)]
        assert way.made()["lost"] > 0
        assert way.made()["unavailable"] > 0
    reach(s3.env, monkeypatch)
    assert all(read_bytes(store, obj) == data for obj in written)
    monkeypatch.setattr(objects, "size", lambda url: None)  # nobody sees the other one before

    def sends(number: int) -> bool:
        return publish(store / "race", lambda path: path.write_bytes(data[number:]))

    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(sends, range(4)))
    # Not "exactly one": this server looks and ends the upload in two steps, and two at the same moment can both win.
    assert read_if_present(store / "race") in [data[number:] for number in range(4) if won[number]]
    assert not sends(4)


def test_videos_are_scanned_from_one_listing_and_probed_by_ranges(s3: S3, store: Path, tmp_path: Path) -> None:
    names = ["run/a.mp4", "run/b.mkv", "jump/c.mp4", "jump/broken.mp4"]
    for number, name in enumerate(names[:3]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, frames=10 + number, size=(32, 48))
    (tmp_path / names[3]).write_bytes(b"no video")
    for name in names:
        create_if_absent(store / name, (tmp_path / name).read_bytes())
    here, there = scan(tmp_path), scan(store)
    assert there == here
    assert [entry.size for entry in there] == [entry.size for entry in here]
    assert all(entry.etag for entry in there)
    videos = [(entry.uri, entry.size) for entry in there]
    assert probe_many(store, videos) == probe_many(tmp_path, videos)
    assert probe(store / names[0]) == probe(tmp_path / names[0])
    with fetch(store / names[0]) as copy:
        assert copy.read_bytes() == (tmp_path / names[0]).read_bytes()
    (tmp_path / "manifest.csv").write_text("path,label\nrun/a.mp4,run\njump/c.mp4,jump\n")
    create_if_absent(store / "manifest.csv", (tmp_path / "manifest.csv").read_bytes())
    assert scan(store) == scan(tmp_path)
    assert len(scan(store)) == 2
