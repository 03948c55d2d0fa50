"""`--dry-run`: every recipe without data, a folder as it is, done and to do; and not one write."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.commit import Marker, commit, write_bytes
from pipeline.config.load import read_recipe
from pipeline.errors import InputError
from pipeline.flow.dry_run import describe
from pipeline.flow.dry_sizes import Answers, size
from pipeline.flow.estimate import Probe
from pipeline.flow.plans import manifest_step, plan_step, scan, update_plans
from pipeline.flow.precompute import frames_step
from pipeline.flow.teacher_times import TeacherTimes
from tests.support.videos import write_video
from tests.unit.config.golden import RECIPES
from tests.unit.flow.precomputed import context as precomputable
from tests.unit.flow.precomputed import videos as precomputed_videos
from tests.unit.flow.small import class_folders, context, python, recipe, tree, video

HALF = TeacherTimes((Answers(2, (4, 8), 0.5),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "clips", {"run": 8, "walk": 8})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def row(text: str, step: str) -> str:
    """The line of a step, without its name, words one space apart."""
    lines = [" ".join(line.removeprefix(step).split()) for line in text.splitlines() if line.startswith(f"{step}  ")]
    assert len(lines) == 1, f"{step}: {lines}\n{text}"
    return lines[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_described_without_data(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = describe(read_recipe(path), path.stem)
    assert text.startswith("Dry run of ")
    assert "Data       assumed" in text
    assert f"{tmp_path / 'workspace'}, not there yet" in text
    steps = ["manifest", "plan train", "plan eval", "frames train", "frames eval", "refine-labels", "distill", "export"]
    assert [row(text, step) for step in steps]
    assert list(tmp_path.iterdir()) == []


def test_published_sizes_are_assumed_and_said() -> None:
    folder = Path(RECIPES[0]).parent
    ucf = describe(read_recipe(folder / "ucf101.yaml"), "ucf101")
    assert "assumed, the published size of UCF101: manifest.root is not set" in ucf
    assert "13,320 videos (8,583 train, 954 val, 3,783 test), 101 classes" in ucf
    assert "8,583 videos × 4 = 34,332 views" in ucf
    assert "raster 602 kB a view, targets 2.12 kB a view" in ucf  # (101 + 960) half floats
    assert "teacher actors 8 × 1 CPU + 8 × 1 GPU = 104.1 CPU, 8 GPU" in ucf
    elsewhere = describe(read_recipe(folder / "ucf101.yaml", ["manifest.root=/not/here"]), "ucf101")
    assert "manifest.root /not/here is not there" in elsewhere


def test_the_simulated_set_is_counted_before_it_is_written(workspace: Path) -> None:
    look = {"train": 40, "val": 10, "test": 20, "shapes": 2, "directions": 3}
    text = describe(recipe(Path(), workspace, simulate=look, manifest={}), "x")
    assert "assumed from recipe.simulate" in text
    assert "70 videos (40 train, 10 val, 20 test), 6 classes" in text
    assert row(text, "simulate") == "- to do: 70 videos"


def test_a_folder_is_scanned_and_probed(tmp_path: Path, workspace: Path) -> None:
    root = tmp_path / "clips"
    for name in ("run", "walk"):
        for number in range(2):
            (root / name).mkdir(parents=True, exist_ok=True)
            write_video(root / name / f"{number}.mp4", frames=20, size=(48, 64), fps=10)
    text = describe(recipe(root, workspace), "x")
    assert f"{root}, scanned; the headers of 4 videos were probed" in text
    assert "4 videos (" in text
    assert "2 classes; typical: 20 frames of 64×48 at 10 a second" in text
    assert "no readable video header" not in text


def test_sizes_are_those_of_the_cache_that_is_asked_for(workspace: Path) -> None:
    """UCF101 at 34,332 and 41,631 views of 602 kB."""
    path = Path(RECIPES[0]).parent / "ucf101.yaml"
    said = {kind: describe(read_recipe(path, [f"precompute.frames={kind}"]), "x") for kind in ("raw", "jpeg", "none")}
    whole = sum(int(n.replace(",", "")) for n in re.findall(r"= ([\d,]+) views", said["raw"])) * 602_112
    assert f"  raster cache {size(whole)} before compression; decoding" in said["raw"]
    assert f"  JPEG cache about {size(whole / 6)}; decoding" in said["jpeg"]
    assert "  no raster cache (precompute.frames: none); decoding" in said["none"]


def test_what_a_probe_measured_is_what_sizes_and_warnings_go_by(
    root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.dry_run.time_teachers", lambda recipe, classes: HALF)
    slow = Probe({"train": 200.0, "eval": 400.0}, 1000.0, 8, 0)
    fast = Probe({"train": 0.01, "eval": 0.02}, 1000.0, 8, 0)
    said = {}
    for name, told in {"slow": slow, "fast": fast, "blind": replace(fast, failed=8)}.items():
        monkeypatch.setattr("pipeline.flow.dry_run.probe_videos", lambda recipe, paths, told=told: told)
        said[name] = " ".join(describe(recipe(root, workspace), "x", probe=True).split())
    seconds = {name: re.findall(r"a micro-batch is about ([\d.]+ s) \(train\)", text) for name, text in said.items()}
    assert seconds == {"slow": [], "fast": ["0.02 s"], "blind": []}
    assert "a shard is about" not in said["slow"]
    assert "train 0.01 s a video, 0.02 s a micro-batch, 0.04 s a shard" in said["fast"]
    assert "raster cache 36 kB, as a few videos were stored; decoding about 0.42 s" in said["fast"]
    assert "before compression" in said["blind"]
    assert all("the teachers take 0.5" in text for text in said.values())


@pytest.mark.parametrize(("options", "refused"), [({"classes": 2, "speed": 3}, True), ({"classes": 2}, False)])
def test_a_teacher_that_cannot_be_made_is_among_the_warnings(
    tmp_path: Path, options: dict[str, int], refused: bool
) -> None:
    given = {"model": "tests.unit.flow.plain_teacher:build", "labeler": True, "fit": False, "options": options}
    asked = precomputable(precomputed_videos(tmp_path / "videos"), tmp_path / "workspace", teacher=given).recipe
    text = describe(asked, "x", probe=True)
    minded = " ".join(text.split("\nMind\n")[1].split())
    assert minded.startswith("- the teachers cannot be made: ") is refused
    assert ("speed" in minded) is refused
    assert ("the teachers are not timed" in text) is refused


def test_files_without_a_video_header_are_told(root: Path, workspace: Path) -> None:
    assert "16 of 16 probed files have no readable video header" in describe(recipe(root, workspace), "x")


def test_without_a_workspace_all_is_to_do_under_the_keys_of_the_run(root: Path, workspace: Path) -> None:
    here = recipe(root, workspace)
    text = describe(here, "x")
    assert row(text, "manifest") == f"{manifest_step(here).key[:8]} to do: 16 videos"
    assert row(text, "plan train").startswith(plan_step(here, "train").key[:8])
    assert row(text, "frames eval").endswith("to do: 2 of 2 shards")
    assert row(text, "refine-labels").startswith("known after frames")
    assert not workspace.exists()


def test_what_is_done_is_said_and_nothing_is_written(root: Path, workspace: Path) -> None:
    here = context(root, workspace)
    plans = update_plans(here, scan(here))
    folder = frames_step(here, "train").folder(here.workspace)
    shards = sorted(plans["train"].shards)
    lost = write_bytes(folder, "two-videos.parquet", b"-", rows=2)
    for shard in shards[1:]:
        commit(folder, Marker(shard, "attempt", (), lost))
    before = tree(workspace, folders=True)
    text = describe(here.recipe, "x")
    assert tree(workspace, folders=True) == before
    assert row(text, "manifest").endswith("done: 16 videos")
    assert row(text, "plan train").endswith(f"done: {len(shards)} shards")
    lost_videos = 2 * (len(shards) - 1)
    assert row(text, "frames train").endswith(f"to do: 1 of {len(shards)} shards, {lost_videos} videos in quarantine")
    commit(folder, Marker(shards[0], "attempt", ()))
    assert f"done: {len(shards)} shards" in row(describe(here.recipe, "x"), "frames train")


def test_added_changed_and_removed_videos_are_counted(root: Path, workspace: Path) -> None:
    here = context(root, workspace)
    videos = scan(here)
    update_plans(here, videos)
    train = [videos.ids[row] for row in videos.of("train")]
    (root / train[0]).unlink()
    video(root / train[1], 99)
    for number in range(20, 30):
        video(root / "run" / f"{number:03d}.mp4")
    before = tree(workspace, folders=True)
    text = describe(here.recipe, "x")
    assert tree(workspace, folders=True) == before
    assert row(text, "manifest").endswith("to do: 10 new, 1 changed, 1 removed videos")
    assert row(text, "plan eval").endswith("to do: 11 videos, 11 views in 2 new shards, 2 tombstones")
    assert "adding videos fits the teacher anew" in text
    changed = update_plans(here, scan(here))
    assert len(changed["eval"].shards) == 2 + 2
    assert len(changed["eval"].tombstones) == 2


def test_a_given_teacher_has_its_key_before_the_frames(root: Path, workspace: Path) -> None:
    teacher = {"model": "r3d_18", "fit": False, "weights": "KINETICS400_V1"}
    text = describe(recipe(root, workspace, teacher=teacher), "x")
    assert row(text, "teacher (given)").endswith("to do: take KINETICS400_V1 of r3d_18")
    assert row(text, "precompute train").endswith("shards")
    assert "fit-teacher" not in text
    assert "added videos are decoded and labelled alone" in text
    assert "targets 2.72 kB a view" in text  # (400 + 960) half floats: the teacher's classes, not the manifest's


def test_input_that_a_run_refuses_is_refused(tmp_path: Path, root: Path, workspace: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="'empty' holds no video"):
        describe(recipe(root, workspace), "x")
    (root / "empty").rmdir()
    text = describe(recipe(root, workspace, "teacher.fit=false"), "x")
    assert "teacher.weights must name the teacher's weights" in text
    here = context(root, workspace)
    update_plans(here, scan(here))
    other = class_folders(tmp_path / "other", {"a": 2, "b": 2})
    with pytest.raises(InputError, match="was used with the folder"):
        describe(recipe(other, workspace), "x")
    (workspace / "workspace.json").write_text('{"schema": "2.0"}')
    with pytest.raises(InputError, match=r"schema 2\.0; this version of stagedkd reads schema 1\.x"):
        describe(here.recipe, "x")


def test_more_than_this_machine_has_is_said(root: Path, workspace: Path) -> None:
    text = describe(recipe(root, workspace, "train.num_workers=500", "train.batch_size=500"), "x")
    said = " ".join(text.split())
    assert "distill asks for train workers 500 × 1 CPU = 500 CPU, 0 GPU, but the cluster can become at most" in said
    assert "train workers 500 × 1 CPU = 500 CPU" in text


def test_a_finished_run_is_mentioned(root: Path, workspace: Path) -> None:
    here = context(root, workspace, "run.name=mine")
    folder = here.workspace.run("mine")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"finished": "2030-01-02T03:04:05"}')
    assert "this run was finished 2030-01-02T03:04:05" in describe(here.recipe, "x")
    shutil.rmtree(folder)
    assert "was finished" not in describe(here.recipe, "x")


def test_torch_ray_and_mlflow_are_not_imported_for_it() -> None:
    lines = python(
        "import sys\n"
        "from pipeline.config.load import read_recipe\n"
        "from pipeline.flow.dry_run import describe\n"
        f"describe(read_recipe({str(RECIPES[0])!r}), 'x')\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'scipy'} & set(sys.modules)))\n"
    )
    assert lines == ["[]"]
