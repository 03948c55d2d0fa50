import os
from pathlib import Path

import pytest

from pipeline.artifacts.files import create_if_absent, read_if_present, replace
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
