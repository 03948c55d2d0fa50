import os
from pathlib import Path

import pytest

from pipeline.artifacts.files import (
    contents,
    create_if_absent,
    folders,
    listing,
    publish,
    read_if_present,
    read_many,
    remove,
    replace,
    size_of,
    walk,
)
from pipeline.artifacts.places import place
from tests.support.objects import fake_store
from tests.unit.artifacts.tables import line_of, run_python, tell

RACER = """
import sys
from pathlib import Path
from pipeline.artifacts.files import create_if_absent
folder, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print("".join(str(int(create_if_absent(folder / str(n), name.encode() * 5000))) for n in range(rounds)), flush=True)
"""


def test_of_racing_processes_exactly_one_creates_each_file(tmp_path: Path) -> None:
    rounds = 20
    racers = [run_python(RACER, tmp_path, name, rounds) for name in "abcdefgh"]
    assert [line_of(racer) for racer in racers] == ["ready"] * len(racers)
    for racer in racers:
        tell(racer, "go")
    results = {name: line_of(racer) for name, racer in zip("abcdefgh", racers, strict=True)}
    assert [racer.wait(30) for racer in racers] == [0] * len(racers)
    for n in range(rounds):
        winners = [name for name, won in results.items() if won[n] == "1"]
        assert len(winners) == 1, f"file {n} has the winners {winners}"
        assert (tmp_path / str(n)).read_text() == winners[0] * 5000
    assert len(list(tmp_path.iterdir())) == rounds, "temporary files were left behind"


def test_the_second_creation_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "made" / "deep" / "marker.json"
    assert create_if_absent(path, b"first") is True
    assert create_if_absent(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["marker.json"]


def test_a_repeated_link_that_reports_exists_counts_as_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def linked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", linked_twice)
    assert create_if_absent(tmp_path / "marker", b"mine") is True
    assert (tmp_path / "marker").read_bytes() == b"mine"


def test_replace_and_read(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    assert read_if_present(path) is None
    replace(path, b"1")
    replace(path, b"22")
    assert read_if_present(path) == b"22"
    assert os.listdir(tmp_path) == ["beat"]


@pytest.fixture(params=["folder", "object store"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place to write to; each store must look the same from outside."""
    if request.param == "folder":
        return tmp_path / "home"
    fake_store(monkeypatch)
    return place("s3://bkt/home")


def test_every_store_creates_replaces_reads_and_removes(home: Path) -> None:
    path = home / "in" / "marker.json"
    assert (read_if_present(path), size_of(path)) == (None, None)
    assert create_if_absent(path, b"first") is True
    assert create_if_absent(path, b"other") is False
    assert publish(path, lambda local: local.write_bytes(b"third")) is False
    assert (read_if_present(path), size_of(path), size_of(path.parent)) == (b"first", 5, None)
    replace(path, b"second")
    assert read_many([path, home / "none", path]) == [b"second", None, b"second"]
    remove(path)
    remove(path)
    assert read_if_present(path) is None
    assert publish(path, lambda local: local.write_bytes(b"fourth")) is True
    assert read_if_present(path) == b"fourth"


def test_every_store_lists_the_same(home: Path) -> None:
    assert (listing(home), folders(home), list(walk(home))) == ([], [], [])
    for name in ("b.json", "a.json", "a.parquet", "sub/c.json", "sub/deep/d.json", "two/e.json"):
        create_if_absent(home / name, name.encode())
    assert listing(home, "*.json") == [home / "a.json", home / "b.json"]
    assert listing(home, "a.*") == [home / "a.json", home / "a.parquet"]
    assert len(listing(home)) == 3
    assert folders(home) == [home / "sub", home / "two"]
    below = {name: size for name, size, _ in contents(home)}
    assert below == {
        name: len(name) for name in ("b.json", "a.json", "a.parquet", "sub/c.json", "sub/deep/d.json", "two/e.json")
    }
    assert {(str(item.path), item.size) for item in walk(home)} == {(f"{home}/{name}", n) for name, n in below.items()}


def test_what_a_listing_says_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", ns=(0, 123))
    [first] = contents(tmp_path)
    assert first == ("a", 1, "123")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"22")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "round").symlink_to(tmp_path)
    assert sorted(name for name, _, _ in contents(tmp_path)) == ["a", "linked/x", "real/x"]
