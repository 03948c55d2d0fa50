"""verify after the files were compacted, and after a teacher went."""

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts.collect import collect
from pipeline.artifacts.commit import read_marker
from pipeline.artifacts.compact import compact
from pipeline.artifacts.compacted import read_places
from pipeline.flow.context import Context
from pipeline.flow.verify import verify
from tests.unit.flow.precomputed import SHARD, context, precompute


@pytest.fixture
def several(root: Path, tmp_path: Path) -> tuple[Context, Path]:
    """The same in shards of 4 views, so that there is something to compact."""
    opened = context(root, tmp_path, "plan.shard_views=4")
    return opened, precompute(opened).opened[0].targets[0]


def gather(opened: Context) -> None:
    """All targets and frames into large files; the small ones are removed."""
    for kind in ("targets", "frames"):
        for folder in opened.workspace.store(kind, "x").parent.iterdir():
            compact(folder)
            collect(folder, time.time() + 3600, "test")


def compacted_name(folder: Path) -> str:
    """The large file in which the rows of the first shard lie."""
    marker = read_marker(folder, SHARD)
    assert marker is not None
    return read_places(folder)[marker.objects[0].sha256][0].file.name


def test_what_was_compacted_is_verified_where_its_rows_lie_now(several: tuple[Context, Path]) -> None:
    before = verify(several[0], sample=1000)
    gather(several[0])
    assert not [path.name for path in several[1].glob("shard-*.parquet") if ".quarantine." not in path.name]
    found = verify(several[0], sample=1000)
    assert found.findings == []
    assert found.checked == before.checked
    assert found.checked["compared bit for bit"] > 8


@pytest.mark.parametrize(("harm", "said"), [("flip", "other bytes"), ("remove", "no compacted file holds its rows")])
def test_damage_of_a_compacted_file_is_named(several: tuple[Context, Path], harm: str, said: str) -> None:
    gather(several[0])
    path = several[1] / compacted_name(several[1])
    data = bytearray(path.read_bytes())
    data[6] ^= 1  # in the first row group
    path.unlink()
    if harm == "flip":
        path.write_bytes(bytes(data))
    found = verify(several[0], sample=4).findings
    assert found
    assert all(said in each.what for each in found)
    assert any(SHARD in each.shard for each in found)


def test_a_teacher_that_cannot_answer_is_named_and_the_rest_is_checked(
    root: Path, made: tuple[Context, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module is not on this machine's path; another teacher's targets are recomputed all the same."""
    own = tmp_path / "modules"
    own.mkdir()
    shutil.copy(Path(__file__).with_name("plain_teacher.py"), own / "gone_teacher.py")
    opened = made[0]
    alone = verify(opened, sample=1000).checked
    other = {"model": "gone_teacher:build", "labeler": True, "fit": False, "options": {"classes": 4}}
    with monkeypatch.context() as path:
        path.syspath_prepend(str(own))
        precompute(context(root, opened.workspace.root, teacher=other))
        assert verify(opened, sample=1000).findings == []
    monkeypatch.delitem(sys.modules, "gone_teacher")
    found = verify(opened, sample=1000)
    assert [finding.shard.split()[2] for finding in found.findings] == ["teacher", "teacher"]
    assert all("gone_teacher" in str(finding) and "not recomputed" in str(finding) for finding in found.findings)
    assert found.checked["keys"] == 2 * alone["keys"]
    assert found.checked["views recomputed"] == alone["views recomputed"]


def test_a_teacher_that_is_not_there_any_more_is_named(made: tuple[Context, Path]) -> None:
    opened, folder = made
    teacher = json.loads((folder / "about.json").read_text())["inputs"]["teacher"]
    shutil.rmtree(opened.workspace.store("models", teacher))
    found = verify(opened, sample=1000)
    assert len(found.findings) == 2
    assert all("is not there any more" in str(finding) for finding in found.findings)
