"""Where a run keeps its artefacts, and which stores it accepts."""

import json
import os
from pathlib import Path

import pytest

from pipeline.artifacts.layout import REFERENCES, Workspace
from pipeline.errors import JobError
from pipeline.flow.context import Context
from tests.support.objects import fake_store
from tests.unit.flow.small import recipe


def test_the_store_lies_in_the_workspace_or_where_the_recipe_says(tmp_path: Path) -> None:
    plain = Context.open(recipe(tmp_path, tmp_path / "w"), "small").workspace
    assert plain.store("plan", "k") == tmp_path / "w" / "store" / "plan" / "k"
    moved = recipe(tmp_path, tmp_path / "w", storage={"root": str(tmp_path / "s")})
    workspace = Context.open(moved, "small").workspace
    assert workspace.store("plan", "k") == tmp_path / "s" / "plan" / "k"
    assert workspace.run("r") == plain.run("r") == tmp_path / "w" / "runs" / "r"


def test_a_store_is_tried_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fake_store(monkeypatch)
    kept = recipe(tmp_path, tmp_path / "w", storage={"root": "s3://good/store"})
    for _ in range(2):
        assert str(Context.open(kept, "small").workspace.store("plan", "k")) == "s3://good/store/plan/k"
    probes = [key for operation, key in store.asked if operation == "create" and "probe" in key]
    assert len(probes) == 2
    assert list(store.objects) == ["good/store/workspace.json"]


def test_a_store_that_cannot_decide_races_is_for_single_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_store(monkeypatch, conditions=False)
    with pytest.raises(JobError, match=r"s3://bad/store: .*storage\.single_writer"):
        Context.open(recipe(tmp_path, tmp_path / "w", storage={"root": "s3://bad/store"}), "small")
    alone = recipe(tmp_path, tmp_path / "w", storage={"root": "s3://bad/store", "single_writer": True})
    assert Context.open(alone, "small").name


def references(context: Context) -> Path:
    return context.workspace.run(context.name) / REFERENCES


def test_a_run_notes_the_keys_of_all_that_it_stands_on_and_only_ever_more(tmp_path: Path) -> None:
    first = Context.open(recipe(tmp_path, tmp_path / "w"), "small")
    first.timing("manifest")
    assert not references(first).exists()
    for kind, key in (("plan", "b" * 64), ("frames", "a" * 64)):
        first.workspace.store(kind, key)
    first.timing("plan")
    assert json.loads(references(first).read_text()) == {"schema": "1.0", "keys": ["a" * 64, "b" * 64]}
    second = Context.open(recipe(tmp_path, tmp_path / "w"), "small")
    second.workspace.store("targets", "c" * 64)
    second.close()
    assert json.loads(references(first).read_text())["keys"] == [letter * 64 for letter in "abc"]


def test_a_second_run_of_the_same_does_not_write_its_references_again(tmp_path: Path) -> None:
    for number in range(3):
        again = Context.open(recipe(tmp_path, tmp_path / "w"), "small")
        again.workspace.store("plan", "b" * 64)
        again.timing("plan")
        again.close()
        times = [path.stat().st_mtime for path in (references(again), references(again).parent)]
        assert (times == [1, 1]) == (number > 0)
        for path in (references(again), references(again).parent):
            os.utime(path, (1, 1))


def test_a_dry_run_notes_nothing(tmp_path: Path) -> None:
    looked = recipe(tmp_path, tmp_path / "w")
    context = Context(looked, Workspace(tmp_path / "w"), "dry")
    context.workspace.store("plan", "b" * 64)
    context.close()
    assert not (tmp_path / "w").exists()
