"""`ensure`: one key, one artefact, once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt
from pipeline.artifacts.layout import Workspace
from pipeline.artifacts.places import place
from pipeline.errors import InputError, JobError
from pipeline.flow.step import TABLE, Made, Step, Timing, content, ensure, facts_of, files_of, finish, inside, is_done
from tests.support.objects import fake_store

STEP = Step("bake", "models", 1, {"heat": 200}, {"dough": "abc"}, {"name": "bread"})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def baking(done: list[str], text: str = "bread") -> Callable[[Path, str], Made]:
    """Work that writes one file into the attempt's folder and notes that it ran."""

    def work(folder: Path, attempt: str) -> Made:
        done.append(attempt)
        (folder / attempt).mkdir()
        (folder / attempt / "loaf.txt").write_text(text)
        return files_of(folder, attempt), {"crust": "dark"}

    return work


@pytest.mark.parametrize(
    "change",
    [{"name": "boil"}, {"version": 2}, {"fields": {"heat": 201}}, {"inputs": {"dough": "abd"}}, {"fields": {}}],
)
def test_every_part_that_makes_the_result_makes_the_key(change: dict[str, Any]) -> None:
    assert replace(STEP, **change).key != STEP.key


def test_readable_names_and_markers_make_no_key() -> None:
    assert replace(STEP, about={"name": "other"}, marker=TABLE).key == STEP.key


def test_the_work_is_done_once(workspace: Workspace) -> None:
    done: list[str] = []
    first, second = Timing("bake"), Timing("bake")
    folder = ensure(STEP, workspace, baking(done), first)
    assert ensure(STEP, workspace, baking(done, "stone"), second) == folder
    assert len(done) == 1
    assert (first.skipped, second.skipped) == (False, True)
    assert content(folder) == folder / done[0]
    assert (content(folder) / "loaf.txt").read_text() == "bread"
    assert facts_of(folder) == {"crust": "dark"}


def test_what_was_made_is_described_in_full(workspace: Workspace) -> None:
    folder = ensure(STEP, workspace, baking([]), Timing("bake"))
    about = json.loads((folder / "about.json").read_text())
    assert about == {
        "key": STEP.key,
        "step": "bake",
        "version": 1,
        "fields": {"heat": 200},
        "inputs": {"dough": "abc"},
        "name": "bread",
    }
    assert folder == workspace.root / "store" / "models" / STEP.key


def test_work_that_fails_leaves_no_marker_and_is_done_again(workspace: Workspace) -> None:
    def burn(folder: Path, attempt: str) -> Made:
        (folder / attempt).mkdir()
        (folder / attempt / "loaf.txt").write_text("ash")
        raise JobError("the oven")

    with pytest.raises(JobError, match="the oven"):
        ensure(STEP, workspace, burn, Timing("bake"))
    assert not is_done(STEP.folder(workspace))
    done: list[str] = []
    folder = ensure(STEP, workspace, baking(done), Timing("bake"))
    assert (content(folder) / "loaf.txt").read_text() == "bread"


def test_an_attempt_that_no_marker_names_does_not_exist(workspace: Workspace) -> None:
    folder = STEP.folder(workspace)
    (folder / "stale").mkdir(parents=True)
    done: list[str] = []
    assert content(ensure(STEP, workspace, baking(done), Timing("bake"))).name == done[0]


def test_what_another_process_did_while_we_waited_for_the_lease_stands(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = STEP.folder(workspace)

    class Waiting:
        def __init__(self, place: Path, owner: str) -> None:
            self.place = place

        def __enter__(self) -> "Waiting":
            finish(self.place, _made(self.place), {"crust": "theirs"})
            return self

        def __exit__(self, *exception: object) -> None:
            return None

        def check(self) -> None:
            return None

    monkeypatch.setattr("pipeline.flow.step.Lease", Waiting)
    done: list[str] = []
    ensure(STEP, workspace, baking(done), Timing("bake"))
    assert done == []
    assert facts_of(folder) == {"crust": "theirs"}


def _made(folder: Path) -> str:
    attempt = new_attempt()
    (folder / attempt).mkdir(parents=True)
    (folder / attempt / "loaf.txt").write_text("theirs")
    return attempt


def test_a_table_has_its_own_marker(workspace: Workspace) -> None:
    step = replace(STEP, kind="labels", marker=TABLE)
    folder = ensure(step, workspace, lambda out, attempt: ([], {"rows": 3}), Timing("table"))
    assert is_done(folder, TABLE)
    assert not is_done(folder)
    assert facts_of(folder, TABLE) == {"rows": 3}
    assert content(folder) == folder


def test_start_up_is_counted_apart_from_work(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    timing = Timing("bake", startup_s=1.0, work_s=2.0)

    def work(folder: Path, attempt: str) -> Made:
        timing.startup_s += 4.0
        return [], {}

    step = replace(STEP, marker=TABLE)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.flow.step.time", SimpleNamespace(monotonic=lambda: next(clock)))
        patched.setattr("pipeline.flow.step.Lease", _NoLease)
        ensure(step, workspace, work, timing)
    assert (timing.startup_s, timing.work_s) == (5.0, 8.0)


class _NoLease:
    def __init__(self, folder: Path, owner: str) -> None:
        self.folder = folder

    def __enter__(self) -> "_NoLease":
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def check(self) -> None:
        return None


def test_files_are_listed_with_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "try" / "folder").mkdir(parents=True)
    (tmp_path / "try" / "b.txt").write_text("bb")
    (tmp_path / "try" / "a.txt").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    listed = files_of(tmp_path, "try")
    assert [(found.name, found.size) for found in listed] == [("try/a.txt", 0), ("try/b.txt", 2)]
    assert listed[0] == DataObject("try/a.txt", 0, 0, empty)


def test_a_second_marker_changes_nothing(tmp_path: Path) -> None:
    assert commit(tmp_path, Marker("done", "one", (), None, {"n": 1}))
    assert not commit(tmp_path, Marker("done", "two", (), None, {"n": 2}))
    assert facts_of(tmp_path) == {"n": 1}


def test_an_artefact_in_an_object_store_is_made_staged_and_read_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(monkeypatch)
    workspace = Workspace.open(tmp_path, "s3://bkt/x")
    done: list[str] = []
    folder = ensure(STEP, workspace, baking(done), Timing("bake"))
    assert ensure(STEP, workspace, baking(done, "stone"), Timing("bake")) == folder
    assert len(done) == 1
    key = f"bkt/x/models/{STEP.key}/{done[0]}/loaf.txt"
    assert store.objects[key][0] == b"bread"
    assert inside(folder) == folder / done[0]
    for named in (folder, inside(folder)):
        copy = content(named)
        assert (copy / "loaf.txt").read_text() == "bread"
    store.asked.clear()
    content(folder)
    assert ("get", key) not in store.asked, "one copy per process is enough"


def test_a_copy_that_arrives_damaged_is_fetched_again_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fake_store(monkeypatch)
    folder = ensure(STEP, Workspace.open(tmp_path, "s3://bkt/y"), baking(done := []), Timing("bake"))
    key = f"bkt/y/models/{STEP.key}/{done[0]}/loaf.txt"
    whole, writer = store.objects[key]
    store.objects[key] = (b"braed", writer)

    def mend(operation: str, asked: str) -> None:
        if asked == key and ("get", key) in store.asked:
            store.objects[key] = (whole, writer)

    with pytest.raises(JobError, match=r"loaf\.txt has other bytes than were written"):
        content(folder)
    store.asked.clear()
    store.after = mend
    assert (content(folder) / "loaf.txt").read_text() == "bread"


def test_what_is_no_finished_artefact_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_store(monkeypatch)
    with pytest.raises(InputError, match="s3://bkt/none holds no finished artefact"):
        content(place("s3://bkt/none"))
