"""compact by an artefact's folder or by a recipe: what it says, and its exit codes."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipeline.artifacts import compact
from pipeline.artifacts.collect import COMPACTION
from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.layout import REFERENCES, Workspace
from pipeline.artifacts.lease import Lease
from pipeline.config.load import recipe_yaml
from pipeline.flow import compact as command_module
from pipeline.flow.context import run_name
from tests.unit.artifacts.tables import frames_table, put, targets_table
from tests.unit.flow.small import recipe

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
FRAMES, TARGETS, OTHERS, PLAN = (letter * 64 for letter in "abcd")
SHARDS = 3


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace.open(tmp_path / "workspace")
    for number in range(SHARDS):
        put(found.store("frames", FRAMES), number, frames_table([f"v{number}"]), quarantined=[])
        put(found.store("targets", TARGETS), number, targets_table([f"v{number}"]))
        put(found.store("targets", OTHERS), number, targets_table([f"v{number}"]))
        put(found.store("plan", PLAN), number, targets_table([f"v{number}"]))
    return found


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    monkeypatch.setattr(sys, "argv", ["stagedkd", "compact", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def records(workspace: Workspace) -> dict[str, list[str]]:
    """Names of the compaction records per artefact that has some."""
    found = {
        key: read_markers(folder, "compacted-")
        for folder in (workspace.root / "store").glob("*/*")
        for key in [folder.name]
    }
    return {key: list(names) for key, names in found.items() if names}


def test_a_folder_is_compacted_and_then_there_is_nothing_to_do(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = workspace.store("frames", FRAMES)
    table = open_dataset(folder).table()
    sizes = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    with caplog.at_level(logging.INFO):
        assert command(monkeypatch, folder) == 0
        large = sum(path.stat().st_size for path in folder.glob("compacted-*.parquet"))
        assert f"{2 * SHARDS} files ({sizes:,} bytes) into 2 ({large:,} bytes), compacted-00000000" in caplog.text
        assert command(monkeypatch, folder) == 0
    assert "nothing to compact" in caplog.text
    assert capsys.readouterr().out.splitlines() == [str(folder)] * 2
    assert records(workspace) == {FRAMES: ["compacted-00000000"]}
    assert open_dataset(folder, check=True).table().equals(table)


def test_a_recipe_names_the_frames_and_targets_that_its_run_refers_to(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, written = recipe(tmp_path, workspace.root), tmp_path / "small.yaml"
    written.write_text(recipe_yaml(found))
    assert command(monkeypatch, written) == 2
    assert "refers to no frames and no targets" in capsys.readouterr().err
    run = workspace.run(run_name(found, "small"))
    run.mkdir(parents=True)
    (run / REFERENCES).write_text(json.dumps({"keys": [FRAMES, TARGETS, PLAN]}))
    assert command(monkeypatch, written) == 0
    assert capsys.readouterr().out.splitlines() == [str(workspace.store_root)]
    assert records(workspace) == {FRAMES: ["compacted-00000000"], TARGETS: ["compacted-00000000"]}


def test_sizes_are_megabytes_and_must_fit_each_other(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.store("frames", FRAMES)
    assert command(monkeypatch, folder, "--small", 0.00001) == 0
    assert records(workspace) == {}, "no file is that small"
    assert command(monkeypatch, folder, "--small", 600) == 2
    assert "--small 600" in capsys.readouterr().err
    assert command(monkeypatch, folder, "--small", -1) == 2


def test_what_is_no_artefact_ends_with_2_and_is_not_made_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path / "nothing") == 2
    assert f"{tmp_path / 'nothing'} holds no committed shard" in capsys.readouterr().err
    written = tmp_path / "small.yaml"
    written.write_text(recipe_yaml(recipe(tmp_path, tmp_path / "none")))
    assert command(monkeypatch, written) == 2
    assert "is no workspace" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [written]


def test_beside_another_compaction_it_ends_with_1(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.store("frames", FRAMES)
    with Lease(folder / COMPACTION, "host:7", renew=0.1):
        assert command(monkeypatch, folder) == 1
    assert "is being written by host:7" in capsys.readouterr().err
    assert records(workspace) == {}


def test_a_compaction_that_was_overtaken_commits_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.store("frames", FRAMES)
    monkeypatch.setattr(compact, "commit", lambda *_: pytest.fail("it looked at its lease too late"))

    def overtaken(*arguments: Any, **options: Any) -> Any:
        (folder / COMPACTION / "lease.00000002.claim").write_text("heir")
        return compact.compact(*arguments, **options)

    monkeypatch.setattr(command_module, "compact", overtaken)
    assert command(monkeypatch, folder) == 1
    assert "heir took over" in capsys.readouterr().err
    assert records(workspace) == {}
