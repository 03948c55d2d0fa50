"""Checkpoints: committed, the last two kept, a damaged one passed over, plain tensors only."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.distill.state import FolderCheckpoints, MemoryCheckpoints, NoCheckpoints, pack, unpack
from pipeline.errors import JobError, StorageError


def names(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[0] + path.suffix for path in folder.iterdir())


def test_the_last_two_are_kept_each_under_a_marker(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path / "checkpoints")
    assert store.latest() is None
    for step in (5, 10, 15):
        store.save(step, f"after {step}".encode())
    assert names(tmp_path / "checkpoints") == [
        "step-00000010.json",
        "step-00000010.pt",
        "step-00000015.json",
        "step-00000015.pt",
    ]
    marker = json.loads((tmp_path / "checkpoints" / "step-00000015.json").read_text())
    assert marker["objects"][0]["name"].startswith("step-00000015.")
    assert marker["objects"][0]["size"] == len("after 15")
    assert FolderCheckpoints(tmp_path / "checkpoints").latest() == b"after 15"


def test_bytes_that_no_marker_names_do_not_exist(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    store.save(5, b"five")
    (tmp_path / "step-00000010.abcdefabcdef.pt").write_bytes(b"killed before its marker")
    assert store.latest() == b"five"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_costs_steps_and_no_training(tmp_path: Path, damage: str) -> None:
    store = FolderCheckpoints(tmp_path)
    store.save(5, b"five")
    store.save(10, b"ten")
    (newest,) = tmp_path.glob("step-00000010.*.pt")
    if damage == "missing":
        newest.unlink()
    else:
        newest.write_bytes(b"te" if damage == "truncated" else b"tem")
    assert store.latest() == b"five"
    store.save(10, b"ten again")
    assert store.latest() == b"ten again", "the step can be committed again"


def test_a_store_with_trouble_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderCheckpoints(tmp_path)
    store.save(5, b"five")
    store.save(10, b"ten")

    def away(*_: object, **__: object) -> bytes:
        raise StorageError("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.distill.state.read_bytes", away)
        with pytest.raises(StorageError):
            store.latest()
    assert store.latest() == b"ten"


def test_who_comes_second_to_a_step_leaves_the_first_alone(tmp_path: Path) -> None:
    FolderCheckpoints(tmp_path).save(5, b"first")
    FolderCheckpoints(tmp_path).save(5, b"second")
    assert FolderCheckpoints(tmp_path).latest() == b"first"
    assert names(tmp_path) == ["step-00000005.json", "step-00000005.pt"]


def test_clear_leaves_nothing(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    store.save(5, b"five")
    store.clear()
    assert names(tmp_path) == []
    assert store.latest() is None


def test_stores_without_a_folder() -> None:
    held, none = MemoryCheckpoints(), NoCheckpoints()
    for store in (held, none):
        store.save(1, b"one")
        store.save(2, b"two")
    assert held.latest() == b"two"
    assert none.latest() is None


def test_a_state_comes_back_equal_and_belongs_to_its_job() -> None:
    state = {
        "key": "k",
        "step": 3,
        "tensors": {"a": torch.rand(2, 3)},
        "metrics": {"loss": 0.5},
        "list": [1, None, True],
    }
    back = unpack(pack(state), "k")
    assert torch.equal(back["tensors"]["a"], state["tensors"]["a"])  # type: ignore[index]
    assert {name: back[name] for name in ("key", "step", "metrics", "list")} == {
        name: state[name] for name in ("key", "step", "metrics", "list")
    }
    with pytest.raises(JobError, match=r"job key k, this is other"):
        unpack(pack(state), "other")


def test_a_checkpoint_cannot_run_code() -> None:
    payload = pack({"key": "k", "harm": print})
    with pytest.raises(Exception, match="weights_only"):
        unpack(payload, "k")
