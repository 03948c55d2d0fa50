"""gc over a workspace: what it lists, what it deletes, what it leaves alone, and its command line."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.artifacts import s3_retry
from pipeline.artifacts.collect import LOST, REPLACED, TEMPORARY
from pipeline.artifacts.commit import new_attempt, read_markers, shard_name, write_table
from pipeline.artifacts.compact import compact
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.layout import REFERENCES, Workspace, write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.snapshot import pin
from pipeline.config.load import recipe_yaml
from pipeline.errors import StorageError
from pipeline.flow.collect import UNREFERENCED, Collected, collect_workspace
from tests.support.objects import fake_store, refusal
from tests.unit.artifacts.tables import frames_table, put
from tests.unit.flow.small import recipe, tree

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
PLAN, FRAMES, TARGETS, MODEL, OTHER = (letter * 64 for letter in "abcde")
HOURS = 24.0


def artefact(workspace: Workspace, kind: str, key: str, **inputs: str) -> Path:
    """Two committed shards and an about.json that names `inputs`."""
    folder = workspace.store_root / kind / key
    write_about(folder, {"key": key, "inputs": inputs})
    for number in range(2):
        put(folder, number, frames_table([f"v{number}"]), quarantined=[])
    return folder


def refer(workspace: Workspace, run: str, *keys: str) -> None:
    folder = workspace.run(run)
    folder.mkdir(parents=True)
    (folder / REFERENCES).write_text(json.dumps({"schema": "1.0", "keys": keys}))


def age(folder: Path, hours: float = 48) -> None:
    """As if everything below had been written some hours ago."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 3600 * hours,) * 2)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A run that refers to targets; these name frames, and those the plan. A model that nobody refers to. All old."""
    found = Workspace.open(tmp_path / "workspace")
    artefact(found, "plan", PLAN)
    artefact(found, "frames", FRAMES, plan=PLAN)
    artefact(found, "targets", TARGETS, frames=FRAMES)
    artefact(found, "models", MODEL)
    refer(found, "mine", TARGETS)
    age(found.root)
    return found


def litter(workspace: Workspace, key: str = FRAMES) -> list[Path]:
    """A lost attempt and a temporary file, both old."""
    folder = workspace.store_root / "frames" / key
    name = f"{shard_name(1)}.{new_attempt()}.parquet"
    write_table(folder, name, frames_table(["lost"]))
    (folder / ".shard-00000001.json.0123456789ab.tmp").write_bytes(b"{")
    age(folder)
    return [folder / name, folder / ".shard-00000001.json.0123456789ab.tmp"]


def collected(workspace: Workspace, *, delete: bool = True) -> Collected:
    return collect_workspace(workspace, delete=delete, hours=HOURS)


def test_a_listing_changes_nothing_and_says_what_deleting_then_does(workspace: Workspace) -> None:
    lost, temporary = litter(workspace)
    sizes = {LOST: lost.stat().st_size, TEMPORARY: 1}
    model = workspace.store_root / "models" / MODEL
    sizes[UNREFERENCED] = sum(path.stat().st_size for path in model.rglob("*"))
    files = {LOST: 1, TEMPORARY: 1, UNREFERENCED: len(list(model.rglob("*")))}
    before = tree(workspace.root, folders=True)
    listed = collected(workspace, delete=False)
    assert tree(workspace.root, folders=True) == before
    deleted = collected(workspace)
    for found in (listed, deleted):
        assert (dict(found.files), dict(found.bytes), found.left, found.damaged) == (files, sizes, [], [])
    assert not lost.exists()
    assert not temporary.exists()
    assert not model.exists()
    assert collected(workspace).lines(deleted=True) == [f"{0:>8} {0:>16,} bytes  deleted in all"]


def test_what_a_run_refers_to_stays_with_all_that_it_stands_on(workspace: Workspace) -> None:
    collected(workspace)
    for kind, key in (("plan", PLAN), ("frames", FRAMES), ("targets", TARGETS)):
        assert open_dataset(workspace.store_root / kind / key, check=True).table().num_rows == 6
    (workspace.run("mine") / REFERENCES).write_text(json.dumps({"schema": "1.0", "keys": [PLAN]}))
    assert collected(workspace).files[UNREFERENCED] > 0
    assert [path.name for path in (workspace.root / "store").glob("*/*")] == [PLAN]


def test_an_artefact_that_names_a_pinned_snapshot_stands_on_the_one_it_was_pinned_of(workspace: Workspace) -> None:
    folder = artefact(workspace, "frames", OTHER)
    labels = workspace.store_root / "labels" / ("f" * 64)
    write_about(labels, {"key": "f" * 64, "inputs": {"frames": pin(folder).digest}})
    refer(workspace, "second", "f" * 64)
    age(workspace.root)
    collected(workspace)
    assert len(read_markers(folder, "shard-")) == 2


def test_nothing_young_goes_and_nothing_that_it_stands_on(workspace: Workspace) -> None:
    artefact(workspace, "targets", OTHER, model=MODEL)  # written just now: a job may be about to note it
    found = collected(workspace)
    assert not found.files
    assert len(read_markers(workspace.store_root / "models" / MODEL, "shard-")) == 2


def test_a_store_that_other_workspaces_may_share_keeps_whole_artefacts_and_says_so(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace", tmp_path / "shared")
    artefact(workspace, "frames", FRAMES)
    refer(workspace, "mine", PLAN)
    lost = litter(workspace)
    found = collected(workspace)
    assert not any(path.exists() for path in lost), "garbage in an artefact is garbage whoever refers to that"
    assert found.lines(deleted=True)[-1] == (
        "left alone: 1 whole artefacts that no run of this workspace refers to: runs of other workspaces may, "
        f"{tmp_path / 'shared'} (storage.root) is no workspace's own"
    )
    assert len(read_markers(workspace.store_root / "frames" / FRAMES, "shard-")) == 2


def test_beside_a_run_that_noted_nothing_whole_artefacts_stay(workspace: Workspace) -> None:
    old = workspace.run("old")
    old.mkdir()
    (old / "summary.json").write_text("{}")
    found = collected(workspace)
    assert not found.files
    assert len(found.left) == 1
    assert f"{old} does not say what it refers to: run it again" in found.left[0]
    assert (workspace.store_root / "models" / MODEL).is_dir()


def test_what_a_living_job_writes_to_is_left_alone_and_the_rest_is_not(workspace: Workspace) -> None:
    lost = litter(workspace)
    with Lease(workspace.store_root / "frames" / FRAMES, "host:7", renew=0.1):
        age(workspace.root)
        found = collected(workspace)
    assert all(path.exists() for path in lost)
    assert len(found.left) == 1
    assert "is being written by host:7" in found.left[0]
    assert found.files.keys() == {UNREFERENCED}


def test_a_damaged_artefact_is_named_and_the_rest_is_collected(workspace: Workspace) -> None:
    lost = litter(workspace)
    (workspace.store_root / "targets" / TARGETS / f"{shard_name(0)}.json").write_text("{")
    age(workspace.root)
    found = collected(workspace)
    assert len(found.damaged) == 1
    assert TARGETS in found.damaged[0]
    assert not any(path.exists() for path in lost)
    assert len(list((workspace.store_root / "targets" / TARGETS).glob("*.parquet"))) == 4


def test_a_store_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_retry, "REFUSAL_PATIENCE", 0.0)
    store = fake_store(monkeypatch)
    workspace = Workspace.open(tmp_path / "workspace", "s3://b/store")
    artefact(workspace, "frames", FRAMES)

    def refuse(operation: str, key: str) -> None:
        if operation == "delete":
            raise refusal(403)

    write_table(workspace.store_root / "frames" / FRAMES, f"{shard_name(1)}.{new_attempt()}.parquet", frames_table([]))

    store.before = refuse
    with pytest.raises(StorageError, match="the store refuses the credentials"):
        collected(workspace)


def test_small_files_go_after_compaction_by_their_record_s_age(workspace: Workspace) -> None:
    folder = workspace.store_root / "frames" / FRAMES
    table = open_dataset(folder).table()
    compact(folder)
    assert REPLACED not in collected(workspace).files
    age(workspace.root)
    assert collected(workspace).files[REPLACED] == 4
    assert not list(folder.glob("shard-*.parquet"))
    assert open_dataset(folder, check=True).table().equals(table)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    monkeypatch.setattr(sys, "argv", ["stagedkd", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_lists_and_with_delete_removes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, _ = litter(workspace)
    assert command(monkeypatch, "gc", workspace.root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("bytes  ")[-1] for line in lines[:-1]] == [LOST, TEMPORARY, UNREFERENCED, "found in all"]
    assert lines[-1] == str(workspace.root)
    assert lost.exists()
    assert command(monkeypatch, "gc", workspace.root, "--older-than", 1000, "--delete") == 0
    assert lost.exists()
    written = workspace.root.parent / "small.yaml"
    written.write_text(recipe_yaml(recipe(workspace.root, workspace.root)))
    assert command(monkeypatch, "gc", written, "--delete") == 0
    assert "deleted in all" in capsys.readouterr().out
    assert not lost.exists()


def test_the_command_ends_with_1_where_something_is_damaged(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = workspace.store_root / "targets" / TARGETS / f"{shard_name(0)}.json"
    marker.write_text("{")
    assert command(monkeypatch, "gc", workspace.root) == 1
    said = capsys.readouterr()
    assert f"damaged: {marker} is damaged" in said.out
    assert "1 artefacts are damaged and were left alone" in said.err


def test_the_command_ends_with_2_where_there_is_no_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "gc", tmp_path) == 2
    assert f"{tmp_path} is no workspace" in capsys.readouterr().err
    written = tmp_path / "small.yaml"
    written.write_text(recipe_yaml(recipe(tmp_path, tmp_path / "none")))
    assert command(monkeypatch, "gc", written) == 2
    assert command(monkeypatch, "gc", tmp_path, "--older-than", -1) == 2
    assert sorted(tmp_path.iterdir()) == [written], "looking for garbage makes no workspace"
