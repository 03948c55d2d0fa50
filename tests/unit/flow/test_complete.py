from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifacts.commit import Marker, commit, shard_name, write_table
from pipeline.artifacts.schemas import QUARANTINE
from pipeline.errors import JobError
from pipeline.flow.complete import check_complete
from pipeline.flow.open_plan import OpenPlan
from pipeline.flow.plans import PlanView
from pipeline.manifest.uris import Uris

SHARD = shard_name(0)
NOWHERE = Uris(pa.array([], pa.string()), pa.array([], pa.string()))
# Two videos of two views each, in micro-batches of three slots.
PLANNED = [("a", "a#0", 0), ("a", "a#0", 1), ("b", "b#0", 0), ("b", "b#0", 1)]


class _Shards(dict[str, pa.Table]):
    def views(self, shard: str) -> int:
        return int(self[shard].num_rows)


def rows(*keys: tuple[str, str, int]) -> pa.Table:
    videos, clips, views = zip(*keys, strict=True) if keys else ((), (), ())
    columns = [pa.array(videos, pa.string()), pa.array(clips, pa.string()), pa.array(views, pa.int32())]
    return pa.table(columns, names=["video_id", "clip_id", "view_id"])


def opened(folder: Path, *buried: str) -> OpenPlan:
    """What a job had to do when it began: the one shard, whose frames alone are wanted."""
    gone = frozenset((video, SHARD) for video in buried)
    view = PlanView(folder, _Shards({SHARD: rows(*PLANNED)}), gone, NOWHERE)  # type: ignore[arg-type]
    return OpenPlan("train", view, folder / "frames", True, ())


def store(folder: Path, parts: list[pa.Table], lost: tuple[str, ...] = ()) -> None:
    facts = {"uri": "u", "step": "decode", "reason": "deadline", "message": "m", "reader": "r", "reader_version": "1"}
    bad = [{"video_id": video, "attempts": 2, **facts} for video in lost]
    objects = tuple(
        write_table(folder, f"{SHARD}.part-{number:05d}.x.parquet", part) for number, part in enumerate(parts)
    )
    quarantine = write_table(folder, f"{SHARD}.quarantine.x.parquet", pa.Table.from_pylist(bad, schema=QUARANTINE))
    assert commit(folder, Marker(SHARD, "x", objects, quarantine))


def test_a_video_of_which_one_view_failed_may_have_left_others_among_the_rasters(tmp_path: Path) -> None:
    plan = opened(tmp_path)
    store(tmp_path / "frames", [rows(*PLANNED[:3]), rows()], lost=("b",))
    check_complete([plan])


@pytest.mark.parametrize("stored", [PLANNED[:2], PLANNED], ids=["buried before", "buried since"])
def test_rows_of_a_buried_video_may_be_there_or_not(tmp_path: Path, stored: list[tuple[str, str, int]]) -> None:
    plan = opened(tmp_path, "b")
    store(tmp_path / "frames", [rows(*stored)])
    check_complete([plan])


@pytest.mark.parametrize(
    "stored",
    [
        [PLANNED[:3]],
        [PLANNED[:3], PLANNED[2:]],
        [PLANNED[2:], PLANNED[:2]],
        [[*PLANNED[:3], ("b", "b#0", 2)]],
    ],
    ids=["missing", "doubled", "order", "other"],
)
def test_rows_that_are_not_the_planned_ones_are_named(tmp_path: Path, stored: list[list[tuple[str, str, int]]]) -> None:
    plan = opened(tmp_path)
    store(tmp_path / "frames", [rows(*part) for part in stored])
    with pytest.raises(JobError, match=SHARD):
        check_complete([plan])


def test_a_shard_without_a_marker_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="1 shards were not committed"):
        check_complete([opened(tmp_path)])
