from pathlib import Path

import pytest

from pipeline.artifacts import s3
from pipeline.artifacts.places import fetch, is_remote, place
from pipeline.errors import ConfigError
from tests.support.objects import fake_store


def test_a_folder_becomes_absolute_and_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a/b") == tmp_path / "a" / "b"
    assert place(tmp_path) == tmp_path
    assert not is_remote(place("a"))


@pytest.mark.parametrize("text", ["s3://bkt/a b/c#?.x", "s3://bkt/store/"])
def test_an_address_crosses_a_border_as_text(text: str) -> None:
    path = place(text)
    assert is_remote(path)
    assert str(path) == text.rstrip("/")
    assert place(str(path)) == path
    assert place(path) == path
    assert str(path / "d" / "e.json") == f"{text.rstrip('/')}/d/e.json"
    assert ((path / "e.json").name, (path / "e.json").stem, (path / "e.json").parent) == ("e.json", "e", path)
    assert (path / "x" / "y.mp4").relative_to(path).as_posix() == "x/y.mp4"


def test_an_address_is_no_local_path() -> None:
    with pytest.raises(TypeError):
        Path(place("s3://bkt/a"))


@pytest.mark.parametrize("text", ["gs://bkt/a", "http://host/a", "s3://", "s3:///"])
def test_other_addresses_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        place(text)


def test_fetch_gives_local_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"here")
    with fetch(tmp_path / "a") as path:
        assert path == tmp_path / "a"
    fake_store(monkeypatch)
    s3.put("s3://b/in/a.mp4", b"there")
    with fetch("s3://b/in/a.mp4") as path:
        assert (path.name, path.read_bytes()) == ("a.mp4", b"there")
    assert not path.exists(), "the copy was left behind"
    with pytest.raises(FileNotFoundError, match="s3://b/gone"), fetch("s3://b/gone"):
        pass
