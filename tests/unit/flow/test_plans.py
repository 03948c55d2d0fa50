"""Manifest and plans of a folder that grows, shrinks and changes."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.flow.plans import PlanView, manifest_step, plan_step, scan, simulate_videos, stored_plans, update_plans
from pipeline.flow.videos import Videos
from pipeline.manifest.noise import label_fraction
from tests.support.videos import write_video
from tests.unit.flow.small import class_folders, context, recipe, tree, video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "clips", {"run": 8, "walk": 8})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def brought_up(root: Path, workspace: Path, *sets: str) -> tuple[Videos, dict[str, PlanView]]:
    here = context(root, workspace, *sets)
    videos = scan(here)
    return videos, update_plans(here, videos)


def planned(view: PlanView) -> dict[str, set[str]]:
    return {shard: set(table.column("video_id").to_pylist()) for shard, table in view.shards.items()}


def test_a_folder_becomes_videos_in_order(root: Path, workspace: Path) -> None:
    videos, _ = brought_up(root, workspace)
    assert videos.classes == ("run", "walk")
    assert videos.ids == tuple(sorted(videos.ids))
    assert videos.ids[0] == "run/000.mp4"
    assert videos.labels.tolist() == [0] * 8 + [1] * 8
    assert videos.sources[3] == "13:1000"
    assert set(videos.splits) == {"train", "val", "test"}
    assert (videos.clean == -1).all()


def test_plans_hold_the_splits_videos_in_shards_of_whole_videos(root: Path, workspace: Path) -> None:
    videos, plans = brought_up(root, workspace)
    train = {videos.ids[row] for row in videos.of("train")}
    shards = planned(plans["train"])
    assert set().union(*shards.values()) == train
    assert [len(shard) for shard in shards.values()][:-1] == [4] * (len(shards) - 1)
    assert set().union(*planned(plans["eval"]).values()) == set(videos.ids)
    table = plans["train"].shards["shard-00000000"]
    assert table.column("micro_batch").to_pylist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert plans["train"].paths(pa.array(["run/000.mp4"])).to_pylist() == [str(root / "run/000.mp4")]
    assert stored_plans(context(root, workspace), plans["train"].uris) == plans


def test_a_second_time_writes_nothing(root: Path, workspace: Path) -> None:
    brought_up(root, workspace)
    before = tree(workspace)
    here = context(root, workspace)
    update_plans(here, scan(here))
    assert tree(workspace) == before
    assert [timing.skipped for timing in here.timings] == [True, True, True]


def test_added_videos_make_new_shards_and_touch_no_old_one(root: Path, workspace: Path) -> None:
    before, plans = brought_up(root, workspace)
    old = {plan: planned(view) for plan, view in plans.items()}
    for number in range(8, 18):
        video(root / "walk" / f"{number:03d}.mp4", number)
    after, plans = brought_up(root, workspace)
    added = set(after.ids) - set(before.ids)
    assert len(added) == 10
    for plan, view in plans.items():
        now = planned(view)
        assert {shard: now[shard] for shard in old[plan]} == old[plan]
        fresh = set().union(*(now[shard] for shard in now.keys() - old[plan].keys()))
        splits = ("train",) if plan == "train" else ("train", "val", "test")
        assert fresh == added & {after.ids[row] for row in after.of(*splits)}
        assert not view.tombstones
    kept = dict(zip(after.ids, after.splits, strict=True))
    assert {name: kept[name] for name in before.ids} == dict(zip(before.ids, before.splits, strict=True))


def test_a_touched_video_is_buried_and_planned_again(root: Path, workspace: Path) -> None:
    videos, plans = brought_up(root, workspace)
    name = videos.ids[videos.of("train")[0]]
    shard = next(shard for shard, names in planned(plans["train"]).items() if name in names)
    last = max(plans["train"].shards)
    os.utime(root / name, ns=(2_000, 2_000))
    _, plans = brought_up(root, workspace)
    assert plans["train"].tombstones == frozenset({(name, shard)})
    fresh = {shard: names for shard, names in planned(plans["train"]).items() if shard > last}
    assert list(fresh.values()) == [{name}]


def test_a_removed_video_is_buried(root: Path, workspace: Path) -> None:
    videos, plans = brought_up(root, workspace)
    name = videos.ids[videos.of("train")[0]]
    shards = plans["train"].shards.keys()
    (root / name).unlink()
    _, plans = brought_up(root, workspace)
    assert {video for video, _ in plans["train"].tombstones} == {name}
    assert plans["train"].shards.keys() == shards


def test_a_class_that_appears_later_leaves_the_numbers_of_the_others(root: Path, workspace: Path) -> None:
    before, _ = brought_up(root, workspace)
    class_folders(root, {"bend": 3})
    after, _ = brought_up(root, workspace)
    assert after.classes == ("run", "walk", "bend")
    label = dict(zip(after.ids, after.labels.tolist(), strict=True))
    assert [label[name] for name in before.ids] == before.labels.tolist()
    assert label["bend/000.mp4"] == 2
    assert after.label_digest(["train"]) != before.label_digest(["train"])


def test_noise_goes_into_the_named_splits_and_the_clean_labels_are_kept_aside(tmp_path: Path, workspace: Path) -> None:
    root = class_folders(tmp_path / "clips", {"a": 60, "b": 60, "c": 60})
    sets = ("manifest.noise.kind=symmetric", "manifest.noise.rate=0.5")
    videos, _ = brought_up(root, workspace, *sets)
    truth = [("a", "b", "c").index(name[0]) for name in videos.ids]
    assert videos.clean.tolist() == truth
    wrong = {split: sum(videos.labels[row] != truth[row] for row in videos.of(split)) for split in ("train", "val")}
    assert 0.35 < wrong["train"] / len(videos.of("train")) < 0.65
    assert wrong["val"] == 0
    both, _ = brought_up(root, workspace, *sets, "manifest.noise.splits=[train,val]")
    assert sum(both.labels[row] != truth[row] for row in both.of("val")) > 0
    assert [both.labels[row] for row in both.of("train")] == [videos.labels[row] for row in videos.of("train")]


def test_a_label_fraction_hides_training_labels_only(tmp_path: Path, workspace: Path) -> None:
    root = class_folders(tmp_path / "clips", {"a": 40, "b": 40})
    videos, _ = brought_up(root, workspace, "manifest.label_fraction=0.25")
    train = videos.of("train")
    ids, truth = [videos.ids[row] for row in train], (videos.labels[train] * 0)
    truth[[n for n, name in enumerate(ids) if name[0] == "b"]] = 1
    assert videos.labels[train].tolist() == label_fraction(ids, truth, 0.25, seed=0).tolist()
    assert 0 < (videos.labels[train] >= 0).sum() < len(train) / 2
    assert (videos.labels[videos.of("val", "test")] >= 0).all()


def test_a_label_fraction_that_leaves_a_class_too_few_is_refused_with_the_classes(
    tmp_path: Path, workspace: Path
) -> None:
    root = class_folders(tmp_path / "clips", {"a": 40, "rare": 1, "b": 40})
    brought_up(root, workspace)
    with pytest.raises(InputError, match=r"label_fraction 0\.25 needs at least 2 .* of rare \([01]\): add videos"):
        brought_up(root, workspace, "manifest.label_fraction=0.25")


def test_keys_follow_configuration_and_never_content(root: Path, workspace: Path) -> None:
    one = recipe(root, workspace)
    keys = (manifest_step(one).key, plan_step(one, "train").key)
    video(root / "run" / "more.mp4")
    assert (manifest_step(one).key, plan_step(one, "train").key) == keys
    assert manifest_step(recipe(root, workspace, "manifest.noise.kind=symmetric")).key != keys[0]
    assert manifest_step(recipe(root, workspace, "manifest.root=/elsewhere")).key == keys[0]
    for change in ("views.seed=1", "views.size=[16,24]", "plan.micro_batch=8", "plan.shard_views=9"):
        assert plan_step(recipe(root, workspace, change), "train").key != keys[1], change
    assert plan_step(one, "eval").key != keys[1]


@pytest.mark.parametrize("sets", [(), ("manifest.noise.kind=symmetric", "manifest.noise.rate=0.1")])
def test_a_name_that_was_used_with_another_folder_is_refused(
    tmp_path: Path, root: Path, workspace: Path, sets: tuple[str, ...]
) -> None:
    brought_up(root, workspace)
    other = class_folders(tmp_path / "others", {"run": 3, "walk": 3})
    with pytest.raises(InputError, match=r"'small' was used with the folder .*clips.* --set manifest\.name=NAME"):
        brought_up(other, workspace, *sets)
    brought_up(other, workspace, "manifest.name=others", *sets)


def test_one_class_is_refused(tmp_path: Path, workspace: Path) -> None:
    with pytest.raises(InputError, match=r"1 classes \(run\); at least 2"):
        brought_up(class_folders(tmp_path / "clips", {"run": 3}), workspace)


def test_without_a_simulate_section_nothing_is_simulated(root: Path, workspace: Path) -> None:
    with pytest.raises(ConfigError, match="no simulate section"):
        simulate_videos(recipe(root, workspace))


def test_simulated_videos_are_written_once_and_scanned(workspace: Path) -> None:
    look = {"train": 4, "val": 2, "test": 2, "shapes": 2, "directions": 2, "difficulty": 0.0, "workers": 1}
    small = recipe(Path(), workspace, simulate=look, manifest={})
    root = simulate_videos(small)
    before = tree(root)
    here = context(Path(), workspace, simulate=look, manifest={})
    videos = scan(here)
    assert tree(root) == before
    assert videos.root == root
    assert [len(videos.of(split)) for split in ("train", "val", "test")] == [4, 2, 2]
    assert len(videos.classes) == 4


def test_dense_windows_are_planned_by_what_headers_claim(tmp_path: Path, workspace: Path) -> None:
    """More of a long video; where a header is silent, the uniform windows."""
    root = tmp_path / "clips"
    for name, frames in (("run/long.mp4", 40), ("walk/short.mp4", 9)):
        (root / name).parent.mkdir(parents=True)
        write_video(root / name, frames=frames)
    video(root / "walk" / "silent.mp4")
    sets = ("views.eval.temporal=dense", "views.eval.window_stride=16", "views.eval.clips_per_video=2")
    _, plans = brought_up(root, workspace, *sets, "views.frame_stride=2", "labels.channel=none")
    planned_clips = [clip for table in plans["eval"].shards.values() for clip in table.column("clip_id").to_pylist()]
    assert sorted(planned_clips) == [
        *(f"run/long.mp4#dense{ordinal}" for ordinal in (1, 2, 3)),
        "walk/short.mp4#dense1",
        "walk/silent.mp4#1of2",
        "walk/silent.mp4#2of2",
    ]
