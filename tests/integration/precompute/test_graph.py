"""The precompute graph through real Ray: one pass and two, several teachers, no cache, quarantine tried again.

The teacher is plain NumPy, so that no process imports torch.
"""

import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.dataset import open_dataset
from pipeline.manifest.plan import read_plan
from tests.integration.conftest import Head
from tests.support.driver import Finished, arguments, drive
from tests.support.videos import write_video

RECIPE = """
run: {name: graph}
plan: {shard_views: 8, micro_batch: 4}
views: {size: [16, 16], num_frames: 2, train: {views_per_clip: 3}, eval: {clips_per_video: 1, splits: [test]}}
teacher: {fit: false, saw_labels: false, labeler: true, model: "tests.unit.flow.plain_teacher:build"}
classes: {trust_order: true}
precompute: {decoders: 1, reader: pyav, device: cpu}
tracking: {enabled: false}
"""
SECOND = "[{model: 'tests.unit.flow.plain_teacher:build', options: {classes: 2, gain: 3}, labeler: true}]"
MTIME = (10**18, 10**18)


class Case:
    """One folder of videos, in which some are broken, and workspaces below it."""

    def __init__(self, folder: Path, head: Head) -> None:
        self.folder, self.root, self.head = folder, folder / "videos", head
        self.recipe = folder / "graph.yaml"
        self.recipe.write_text(RECIPE)
        self.good = write_video(folder / "good.mp4", frames=8, size=(24, 32)).read_bytes()
        lines = ["path,label,split"]
        for number in range(10):
            name = f"{'ab'[number % 2]}/{number}.mp4"
            self.write(name, self.good)
            lines.append(f"{name},{'ab'[number % 2]},{'test' if number > 7 else 'train'}")
        for name in ("a/2.mp4", "b/5.mp4"):  # in the middle of a micro-batch
            self.write(name, bytes(len(self.good)))
        (self.root / "manifest.csv").write_text("\n".join(lines) + "\n")

    def write(self, name: str, data: bytes) -> None:
        """Always of the same time, so that only the bytes tell."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=MTIME)

    def run(self, workspace: str, *more: str, command: str = "precompute", **sets: Any) -> Finished:
        base: dict[str, Any] = {"workspace": self.folder / workspace, "manifest.root": self.root}
        base |= {"cluster.address": self.head.address, "teacher.options": "{classes: 2}"}
        named = {name.replace("__", "."): value for name, value in sets.items()}
        return drive([*arguments(command, self.recipe, base | named), *more], env=self.head.env)

    def targets(self, workspace: str) -> dict[tuple[str, str], Path]:
        """Folders of targets by plan and teacher ("1" and "2")."""
        found = {}
        for folder in (self.folder / workspace / "store" / "targets").iterdir():
            inputs = json.loads((folder / "about.json").read_text())["inputs"]
            frames = json.loads(self.about(workspace, "frames", inputs["frames"]).read_text())
            teacher = json.loads(self.about(workspace, "models", inputs["teacher"]).read_text())
            found[(frames["plan"], "2" if "gain" in str(teacher["fields"]) else "1")] = folder
        return found

    def about(self, workspace: str, kind: str, key: str) -> Path:
        return self.folder / workspace / "store" / kind / key / "about.json"


@pytest.fixture(scope="module")
def case(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("graph"), head)


@pytest.fixture(scope="module")
def once(case: Case) -> Finished:
    """Both teachers in one pass."""
    done = case.run("once", precompute__more_teachers=SECOND)
    assert done.code == 0, done.err[-3000:]
    return done


def scraped(address: str, name: str) -> dict[str, set[float]]:
    """What the head's Prometheus endpoint shows of a metric: reason (or "") to the values of all precompute jobs."""
    with urllib.request.urlopen(address, timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == f"ray_stagedkd_{name}"]
    found: dict[str, set[float]] = {}
    for sample in samples:
        if sample.labels["step"] == "precompute":
            found.setdefault(sample.labels.get("reason", ""), set()).add(sample.value)
    return found


def quarantine(folder: Path) -> dict[str, str]:
    """shard/video -> reason."""
    found = {}
    for shard, marker in read_markers(folder, "shard-").items():
        assert marker.quarantine is not None
        for row in pq.read_table(folder / marker.quarantine.name).to_pylist():
            found[f"{shard}/{row['video_id']}"] = row["reason"]
    return found


def values(folder: Path) -> pa.Table:
    return open_dataset(folder).table()


def test_two_teachers_in_one_pass_and_every_view_once(case: Case, once: Finished) -> None:
    folders = case.targets("once")
    assert set(folders) == {("train", "1"), ("train", "2"), ("eval", "1"), ("eval", "2")}
    assert Path(once.last) == folders[("train", "1")]
    stored = values(folders[("train", "1")])
    keys = list(zip(stored["video_id"].to_pylist(), stored["view_id"].to_pylist(), strict=True))
    readable = [f"{'ab'[n % 2]}/{n}.mp4" for n in range(8) if n not in (2, 5)]
    assert sorted(keys) == sorted((name, view) for name in readable for view in range(3))
    assert set(quarantine(folders[("train", "1")]).values()) == {"unreadable"}
    assert {name.partition("/")[2] for name in quarantine(folders[("train", "1")])} == {"a/2.mp4", "b/5.mp4"}
    assert "logits" in stored.column_names


def test_prometheus_reads_the_same_numbers_from_the_head(case: Case, once: Finished) -> None:
    until = time.monotonic() + 100  # workers report every ten seconds; what a driver said is shown for two minutes
    while not scraped(case.head.metrics, "clips_total"):
        assert time.monotonic() < until
        time.sleep(1)
    assert 8 * 3 + 2 in scraped(case.head.metrics, "clips_total")[""]
    assert scraped(case.head.metrics, "quarantined_total")["unreadable"] == {2}
    assert scraped(case.head.metrics, "in_flight")[""] == {0}
    assert scraped(case.head.metrics, "open_shards")[""] == {0}
    assert all(0 <= value <= 1 for value in scraped(case.head.metrics, "teacher_waited_share")[""])
    for name in ("clips_per_second", "decode_seconds_total", "teacher_seconds_total"):
        assert all(value > 0 for value in scraped(case.head.metrics, name)[""]), name


def test_the_summary_tells_what_was_done(case: Case, once: Finished) -> None:
    told = json.loads((case.folder / "once" / "runs" / "graph" / "precompute.json").read_text())["precompute"]
    assert (told["videos"], told["views"]) == (10, 6 * 3 + 2)
    assert told["quarantined"] == {"unreadable": 2}
    assert told["micro_batches"] == 9
    assert told["decode_seconds"] > 0
    assert 0 <= told["teacher_waited_share"] <= 1
    assert min(told["bytes"].values()) > 0
    assert 0 < told["max_in_flight"] < 9
    assert "clips/s" in once.err


def test_a_second_pass_that_reads_frames_back_gives_the_same_bits(case: Case, once: Finished) -> None:
    first = case.run("twice", precompute__together=True)  # and actors that do both make no other ones
    assert first.code == 0, first.err[-3000:]
    later = case.run("twice", precompute__more_teachers=SECOND)
    assert later.code == 0, later.err[-3000:]
    one, two = case.targets("once"), case.targets("twice")
    for name in one:
        assert values(two[name]).equals(values(one[name])), name
        assert list(quarantine(two[name])) == list(quarantine(one[name]))
    told = json.loads((case.folder / "twice" / "runs" / "graph" / "precompute.json").read_text())["precompute"]
    assert told["quarantined"] == {}
    assert told["bytes"]["frames"] == 0


def test_without_a_cache_targets_are_the_same_and_training_is_refused(case: Case, once: Finished) -> None:
    done = case.run("bare", precompute__frames="none")
    assert done.code == 0, done.err[-3000:]
    one, bare = case.targets("once"), {}
    for folder in (case.folder / "bare" / "store" / "targets").iterdir():
        bare[values(folder).num_rows] = folder
    assert not list((case.folder / "bare" / "store").glob("frames/*/*.parquet"))
    assert values(bare[18]).equals(values(one[("train", "1")]))
    assert len(quarantine(bare[18])) == 2
    refused = case.run("bare", command="distill", precompute__frames="none")
    assert refused.code == 2
    assert "Set precompute.frames to raw or jpeg" in refused.err


def test_quarantined_videos_are_tried_again_in_a_new_shard(case: Case) -> None:
    assert case.run("again").code == 0
    folder = case.targets("again")[("train", "1")]
    before = quarantine(folder)
    case.write("a/2.mp4", case.good)
    try:
        assert "nothing" in case.run("again", "--retry-quarantined", "nothing").err
        other = case.run("again", "--retry-quarantined", "deadline")
        assert (other.code, quarantine(folder)) == (0, before)
        done = case.run("again", "--retry-quarantined")
        assert done.code == 0, done.err[-3000:]
    finally:
        case.write("a/2.mp4", bytes(len(case.good)))
    after = quarantine(folder)
    fresh = set(after) - set(before)
    assert [name.partition("/")[2] for name in fresh] == ["b/5.mp4"]
    assert next(iter(fresh)).startswith(max(read_markers(folder, "shard-")))
    assert values(folder)["video_id"].to_pylist().count("a/2.mp4") == 3
    assert open_dataset(folder).quarantine()["video_id"].to_pylist() == ["b/5.mp4"]
    inputs = json.loads((folder / "about.json").read_text())["inputs"]
    frames = json.loads(case.about("again", "frames", inputs["frames"]).read_text())
    plan = read_plan(case.folder / "again" / "store" / "plan" / frames["inputs"]["plan"])
    assert sorted((video, reason) for (video, _), reason in plan.tombstones.items()) == [
        ("a/2.mp4", "retried"),
        ("b/5.mp4", "retried"),
    ]
    # Once it changed its rows are hidden in frames and targets alike, which are read in pairs.
    case.write("a/2.mp4", bytes(100))
    try:
        assert case.run("again").code == 0
    finally:
        case.write("a/2.mp4", bytes(len(case.good)))
    stored = folder.parents[1] / "frames" / inputs["frames"]
    pairs = [open_dataset(where).table(["clip_id", "view_id", "video_id"]) for where in (folder, stored)]
    assert pairs[0].equals(pairs[1])
    assert "a/2.mp4" not in pairs[0]["video_id"].to_pylist()
    assert open_dataset(folder).quarantine()["video_id"].to_pylist() == ["a/2.mp4", "b/5.mp4"]


def test_a_folder_of_broken_videos_stops_the_job(head: Head, tmp_path: Path) -> None:
    case = Case(tmp_path, head)
    names = [f"a/broken-{number:03d}.mp4" for number in range(120)]
    for name in names:
        case.write(name, b"<html>not a video</html>")
    with (case.root / "manifest.csv").open("a") as listing:
        listing.writelines(f"{name},a,train\n" for name in names)
    done = case.run("many", precompute__max_bad_share=0.5)
    assert done.code == 1
    assert "more than precompute.max_bad_share = 0.5" in done.err
    assert "run the same command again" in done.err
    assert "broken-" in done.err
    committed = list((case.folder / "many" / "store" / "targets").glob("*/shard-*.json"))
    assert committed  # what was done before stays
    assert len(committed) < 46
