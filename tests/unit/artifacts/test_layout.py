import json
from pathlib import Path

import pytest

from pipeline.artifacts.layout import SCHEMA, Workspace, check_version, read_about, read_json, write_about
from pipeline.errors import ConfigError, InputError
from tests.support.objects import fake_store


def test_open_makes_a_workspace_and_opens_it_again(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "space")
    assert json.loads((tmp_path / "space" / "workspace.json").read_text()) == {"schema": SCHEMA}
    assert Workspace.open(str(tmp_path / "space")) == workspace
    assert workspace.store("targets", "ab12") == tmp_path / "space" / "store" / "targets" / "ab12"
    assert workspace.run("demo-1a2b") == tmp_path / "space" / "runs" / "demo-1a2b"
    assert workspace.tracking_uri == f"sqlite:///{tmp_path}/space/mlflow.db"


def test_a_relative_root_stays_right_after_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.open("space")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert workspace.tracking_uri == f"sqlite:///{tmp_path}/space/mlflow.db"
    assert workspace.store("plan", "k").is_relative_to(tmp_path / "space")


def test_a_newer_major_is_refused_by_name_and_a_newer_minor_is_read(tmp_path: Path) -> None:
    (tmp_path / "workspace.json").write_text('{"schema": "2.3"}')
    with pytest.raises(InputError, match=r"schema 2\.3.*reads schema 1\.x") as caught:
        Workspace.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 2
    (tmp_path / "workspace.json").write_text('{"schema": "1.9"}')
    assert Workspace.open(tmp_path).root == tmp_path


@pytest.mark.parametrize("found", [None, 1.0, "1", "one.two", "10.0"])
def test_odd_versions_are_refused(found: object) -> None:
    with pytest.raises(InputError, match="a thing"):
        check_version(found, "a thing")


def test_a_file_is_no_workspace_and_a_path_is_no_run_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Workspace.open(tmp_path / "file")
    workspace = Workspace.open(tmp_path / "w")
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ConfigError, match=r"run\.name"):
            workspace.run(name)


def test_about_is_written_once(tmp_path: Path) -> None:
    assert read_about(tmp_path / "a") == {}
    assert write_about(tmp_path / "a", {"name": "demo", "videos": 3}) is True
    assert write_about(tmp_path / "a", {"name": "other"}) is False
    assert read_about(tmp_path / "a") == {"name": "demo", "videos": 3}


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")


def test_the_store_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.open("space", "shared/store")
    assert workspace.store("plan", "k") == tmp_path / "shared" / "store" / "plan" / "k"
    assert workspace.run("r") == tmp_path / "space" / "runs" / "r"
    assert json.loads((tmp_path / "shared" / "store" / "workspace.json").read_text()) == {"schema": SCHEMA}
    (tmp_path / "shared" / "store" / "workspace.json").write_text('{"schema": "2.0"}')
    with pytest.raises(InputError, match=r"shared/store has schema 2\.0"):
        Workspace.open("space", "shared/store")


def test_the_store_may_lie_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fake_store(monkeypatch)
    workspace = Workspace.open(tmp_path, "s3://bkt/x/")
    assert str(workspace.store("plan", "k")) == "s3://bkt/x/plan/k"
    assert write_about(workspace.store("plan", "k"), {"name": "a"}) is True
    assert write_about(workspace.store("plan", "k"), {"name": "b"}) is False
    assert read_about(workspace.store("plan", "k")) == {"name": "a"}
    assert sorted(store.objects) == ["bkt/x/plan/k/about.json", "bkt/x/workspace.json"]
