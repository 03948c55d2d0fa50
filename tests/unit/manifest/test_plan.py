from pathlib import Path

import pytest

from pipeline.artifacts.commit import read_markers
from pipeline.errors import JobError
from pipeline.manifest import plan as plan_module
from pipeline.manifest.plan import CHANGED, REMOVED, RETRIED, PlanChange, difference, extend_plan, read_plan


def views(video_id: str) -> list[tuple[str, int]]:
    """Two clips of two views each."""
    return [(f"{video_id}#{clip}of2", view) for clip in (1, 2) for view in (0, 1)]


def sources(*names: str, state: str = "1") -> dict[str, str]:
    return dict.fromkeys(names, f"100:{state}")


def extend(folder: Path, wanted: dict[str, str]) -> PlanChange:
    return extend_plan(folder, wanted, views, shard_views=6, micro_batch=3)


def test_videos_are_whole_within_shards(tmp_path: Path) -> None:
    change = extend(tmp_path, sources("c", "a", "b"))
    assert change.new_shards == ("shard-00000000", "shard-00000001")
    assert change.new_videos == ("a", "b", "c")
    first = read_plan(tmp_path).shards["shard-00000000"].to_pydict()
    assert first["video_id"] == ["a"] * 4 + ["b"] * 4
    assert first["micro_batch"] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert first["slot"] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert first["clip_id"][:3] == ["a#1of2", "a#1of2", "a#2of2"]
    assert first["view_id"] == [0, 1] * 4
    assert set(first["source"]) == {"100:1"}
    assert read_plan(tmp_path).views == 12


@pytest.mark.parametrize(
    ("count", "micro_batch", "numbers"),
    [
        (3, 16, [0] * 15 + [1] * 3),  # the 16th slot stays empty
        (4, 16, [0] * 16 + [1] * 8),
        (1, 4, [0] * 4 + [1] * 2),
        (30, 16, [0] * 16 + [1] * 14 + [2] * 16 + [3] * 14),  # does not fit: never in a third one
        (5, 2, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_a_video_lies_in_as_few_micro_batches_as_it_fills(
    tmp_path: Path, count: int, micro_batch: int, numbers: list[int]
) -> None:
    videos = len(numbers) // count
    many = lambda video: [(f"{video}#0", view) for view in range(count)]  # noqa: E731
    extend_plan(tmp_path, sources(*"abcdef"[:videos]), many, shard_views=200, micro_batch=micro_batch)
    rows = read_plan(tmp_path).shards["shard-00000000"].to_pydict()
    assert rows["micro_batch"] == numbers
    assert rows["slot"] == [i - numbers.index(number) for i, number in enumerate(numbers)]
    assert max(rows["slot"]) < micro_batch


def test_new_videos_form_new_shards_and_old_ones_never_change(tmp_path: Path) -> None:
    extend(tmp_path, sources("b", "d"))
    before = read_plan(tmp_path).shards
    change = extend(tmp_path, sources("a", "b", "c", "d"))
    after = read_plan(tmp_path)
    assert change == PlanChange(("shard-00000001",), ("a", "c"), {})
    assert after.shards["shard-00000000"].equals(before["shard-00000000"])
    assert set(after.shards["shard-00000001"]["video_id"].to_pylist()) == {"a", "c"}


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    extend(tmp_path, sources("a", "b"))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    assert extend(tmp_path, sources("b", "a")).empty
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == before


def test_removed_and_changed_videos_become_tombstones(tmp_path: Path) -> None:
    extend(tmp_path, sources("a", "b", "c"))
    change = extend(tmp_path, sources("a") | sources("c", state="2"))
    assert change.tombstones == {("b", "shard-00000000"): REMOVED, ("c", "shard-00000001"): CHANGED}
    assert change.new_videos == ("c",)
    plan = read_plan(tmp_path)
    assert plan.tombstones == change.tombstones
    assert plan.shards["shard-00000002"]["source"].to_pylist() == ["100:2"] * 4
    assert list(plan.shards) == ["shard-00000000", "shard-00000001", "shard-00000002"]
    assert extend(tmp_path, sources("a") | sources("c", state="2")).empty


def test_a_video_that_comes_back_is_planned_again(tmp_path: Path) -> None:
    extend(tmp_path, sources("a", "b"))
    extend(tmp_path, sources("a"))
    change = extend(tmp_path, sources("a", "b"))
    assert change == PlanChange(("shard-00000001",), ("b",), {})
    assert extend(tmp_path, sources("a", "b")).empty


def test_a_kill_between_shards_and_tombstones_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend(tmp_path, sources("a", "b"))
    wanted = sources("a") | sources("b", state="2")
    real = plan_module._commit

    def killed(folder: Path, name: str, table: object) -> None:
        if name.startswith("tombstones"):
            raise KeyboardInterrupt
        real(folder, name, table)

    monkeypatch.setattr(plan_module, "_commit", killed)
    with pytest.raises(KeyboardInterrupt):
        extend(tmp_path, wanted)
    monkeypatch.undo()
    change = extend(tmp_path, wanted)
    assert change == PlanChange((), (), {("b", "shard-00000000"): CHANGED})
    assert difference(read_plan(tmp_path), wanted) == ([], {})


def test_two_at_once_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "commit", lambda folder, marker: False)
    with pytest.raises(JobError, match="another process extended this plan"):
        extend(tmp_path, sources("a"))
    assert read_markers(tmp_path) == {}


def test_a_retried_video_is_buried_and_planned_again_once(tmp_path: Path) -> None:
    extend(tmp_path, sources("a", "b", "c"))
    again = {("b", "shard-00000000"), ("gone", "shard-00000000")}
    wanted = sources("a", "b", "c")

    def retried() -> PlanChange:
        return extend_plan(tmp_path, wanted, views, shard_views=6, micro_batch=3, retry=again)

    change = retried()
    assert change == PlanChange(("shard-00000002",), ("b",), {("b", "shard-00000000"): RETRIED})
    assert set(read_plan(tmp_path).shards["shard-00000002"]["video_id"].to_pylist()) == {"b"}
    assert retried().empty  # the old one is buried, and the new one was not named
    assert extend(tmp_path, wanted).empty


def test_a_shard_is_read_when_it_is_asked_for_and_its_size_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend(tmp_path, sources("a", "b", "c"))
    read: list[str] = []
    real = plan_module._rows
    monkeypatch.setattr(
        plan_module, "_rows", lambda folder, m, *more: read.append(m.shard_id) or real(folder, m, *more)
    )
    plan = read_plan(tmp_path)
    assert (plan.views, plan.shards.views("shard-00000001"), next(iter(plan.shards))) == (12, 4, "shard-00000000")
    assert read == []
    assert plan.shards["shard-00000001"].num_rows == 4
    assert read == ["shard-00000001"]
