"""Where a run keeps its artefacts, and which stores it accepts."""

from pathlib import Path

import pytest

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
