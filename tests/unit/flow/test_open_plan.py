"""What is still to do of a plan, and the rows of the graph; a resume decides it without torch and Ray."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifacts.commit import DataObject, Marker, commit, write_table
from pipeline.errors import JobError
from pipeline.flow.complete import check_complete
from pipeline.flow.open_plan import OpenPlan
from pipeline.flow.plans import PlanView
from pipeline.manifest.plan import extend_plan, read_plan
from pipeline.manifest.uris import Uris
from tests.unit.flow.small import class_folders, python


def views(video_id: str) -> list[tuple[str, int]]:
    return [(f"{video_id}#1of1", view) for view in range(3)]


@pytest.fixture
def view(tmp_path: Path) -> PlanView:
    """Shards of a, b and c, d: 6 views each, in three micro-batches of 2, of which the second holds both videos."""
    wanted = dict.fromkeys("abcd", "1:1")
    extend_plan(tmp_path / "plan", wanted, views, shard_views=6, micro_batch=2)
    return PlanView(Path("/data"), read_plan(tmp_path / "plan").shards, frozenset(), uris("abcd"))


def uris(videos: str) -> Uris:
    return Uris(pa.array(list(videos)), pa.array([f"x/{name}" for name in videos]))


def opened(view: PlanView, folder: Path, teachers: int = 2, cached: bool = True) -> OpenPlan:
    targets = tuple(folder / f"targets-{number}" for number in range(teachers))
    return OpenPlan("train", view, folder / "frames", cached, targets)


def mark(folder: Path, shard: int, names: tuple[str, ...] = ()) -> None:
    """Committed, each file with the first four views of a shard of a and b."""
    keys = [(video, clip, number) for video in "ab" for clip, number in views(video)][:4]
    columns = dict(zip(("video_id", "clip_id", "view_id"), map(list, zip(*keys, strict=True)), strict=True))
    rows = pa.table(columns).cast(pa.schema({"video_id": pa.string(), "clip_id": pa.string(), "view_id": pa.int32()}))
    objects = tuple(write_table(folder, name, rows) for name in names)
    commit(folder, Marker(f"shard-{shard:08d}", "a" * 12, objects))


def test_what_is_open_is_decided_per_teacher(view: PlanView, tmp_path: Path) -> None:
    mark(tmp_path / "frames", 0)
    mark(tmp_path / "targets-0", 0)
    mark(tmp_path / "targets-1", 1)
    plan = opened(view, tmp_path)
    assert plan.todo == ("shard-00000000", "shard-00000001")
    assert [plan.teachers(shard) for shard in plan.todo] == [[1], [0]]
    assert [table["teachers"].to_pylist() for table in plan.rows()] == [["[1]"] * 3, ["[0]"] * 3]
    assert opened(view, tmp_path, teachers=0).todo == ("shard-00000001",)
    assert opened(view, tmp_path, teachers=0, cached=False).todo == ()


def test_a_row_is_a_micro_batch_with_the_places_of_its_videos(view: PlanView, tmp_path: Path) -> None:
    first, _ = opened(view, tmp_path).rows()
    assert first["micro_batch"].to_pylist() == [0, 1, 2]
    assert first["video_ids"].to_pylist() == [["a", "a"], ["a", "b"], ["b", "b"]]
    assert first["uris"].to_pylist()[1] == ["/data/x/a", "/data/x/b"]
    assert first["view_ids"].to_pylist() == [[0, 1], [2, 0], [1, 2]]
    assert first["part"].to_pylist() == ["", "", ""]


def test_committed_frames_are_found_by_the_number_of_their_micro_batch(view: PlanView, tmp_path: Path) -> None:
    names = tuple(f"shard-00000000.part-{number:05d}.{'b' * 12}.parquet" for number in (2, 0, 1))
    mark(tmp_path / "frames", 0, names)
    first, _ = opened(view, tmp_path).rows()
    assert [DataObject(**json.loads(part)).name for part in first["part"].to_pylist()] == [names[1], names[2], names[0]]


def test_a_buried_video_keeps_its_slots_and_a_buried_shard_is_not_open(view: PlanView, tmp_path: Path) -> None:
    gone = frozenset({("a", "shard-00000000"), ("c", "shard-00000001"), ("d", "shard-00000001")})
    plan = opened(PlanView(view.root, view.shards, gone, uris("bcd")), tmp_path)  # a was removed
    assert plan.todo == ("shard-00000000",)
    (only,) = plan.rows()
    assert only["video_ids"].to_pylist() == [["a", "b"], ["b", "b"]]
    assert only["uris"].to_pylist() == [["", "/data/x/b"], ["/data/x/b"] * 2]


def test_a_micro_batch_of_buried_videos_alone_is_left_out(view: PlanView, tmp_path: Path) -> None:
    gone = frozenset({("d", "shard-00000001")})
    _, second = opened(PlanView(view.root, view.shards, gone, view.uris), tmp_path).rows()
    assert second["micro_batch"].to_pylist() == [0, 1]
    assert second["uris"].to_pylist() == [["/data/x/c"] * 2, ["/data/x/c", ""]]


def test_a_video_that_another_job_planned_meanwhile_fails_the_job_and_names_it(view: PlanView, tmp_path: Path) -> None:
    plan = opened(PlanView(view.root, view.shards, frozenset(), uris("abc")), tmp_path)
    with pytest.raises(JobError, match=r"/data: the plan holds 'd', .* run the same command again"):
        list(plan.rows())


def test_what_is_missing_at_the_end_is_named(view: PlanView, tmp_path: Path) -> None:
    plan = opened(view, tmp_path, teachers=0)
    mark(tmp_path / "frames", 0, (f"shard-00000000.part-00000.{'b' * 12}.parquet",))
    with pytest.raises(JobError, match=r"1 shards were not committed \(shard-00000001"):
        check_complete([plan])
    mark(tmp_path / "frames", 1)
    with pytest.raises(JobError, match="shard-00000000 holds 4 views, 6 of the plan can be read"):
        check_complete([plan])


def test_a_resume_with_nothing_to_do_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "clips", {"run": 8, "walk": 8})
    told = python(f"""
import sys
from pathlib import Path
from pipeline.artifacts.commit import Marker, commit
from pipeline.flow.precompute import open_plans
from pipeline.flow.run import begin, precompute
from pipeline.flow.teacher import given_teachers
from tests.unit.flow.small import context

teacher = {{"fit": False, "saw_labels": False, "labeler": True, "model": "tests.unit.flow.plain_teacher:build"}}
sections = {{"teacher": teacher | {{"options": {{"classes": 2}}}}, "classes": {{"trust_order": True}}}}
here = context(Path({str(root)!r}), Path({str(tmp_path / "ws")!r}), **sections)
way = begin(here)
work = open_plans(here, way.plans, given_teachers(here))
print(work.shards, work.labels)
for plan in work.opened:
    for folder in (plan.frames, *plan.targets):
        for shard in plan.todo:
            commit(folder, Marker(shard, "a" * 12, ()))
print(precompute(here).parent.name)
print(sorted({{"torch", "ray", "mlflow"}} & set(sys.modules)))
""")
    assert told == ["5 True", "targets", "[]"]
