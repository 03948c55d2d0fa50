"""The command line as a user meets it: exit codes, messages, what goes to stdout, and what is imported for it."""

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import COMMANDS, main
from pipeline.config.load import recipe_yaml
from tests.support.driver import arguments, drive, listing_imports
from tests.unit.flow.small import class_folders, python, recipe

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
Done = subprocess.CompletedProcess[str]
Here = Callable[..., Done]
ROOT = Path(__file__).parents[3]
HEAVY = "{'torch', 'torchvision', 'ray', 'mlflow', 'pandas', 'scipy', 'av', 'pyarrow'}"


def stagedkd(*words: str) -> Done:
    """`python -m jobs WORDS`."""
    paths = {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths}, timeout=120)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """The same in this process: its `main`, without the seconds of a new interpreter."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)

    def command(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["stagedkd", *words])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Done(list(words), code, said.out, said.err)

    return command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "clips", {"run": 6, "walk": 6})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def written(tmp_path: Path, root: Path, workspace: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(recipe_yaml(recipe(root, workspace)))
    return path


# Of the commands that do more or less than take a recipe and walk to a step.
OPTIONS = {
    "predict": ["--model", "--top"],
    "verify": ["--sample", "--seed", "--set", "--print-config"],
    "compact": ["--small", "--large"],
    "gc": ["--delete", "--older-than"],
    "bench": ["precompute", "COMMAND"],
}


def refused(done: Done) -> str:
    """The message of a command that ended with code 2, without a traceback and without Ray."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_help_lists_the_commands_that_work_and_no_other() -> None:
    done = stagedkd("--help")
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ")]
    expected = {"run", "simulate", "manifest", "refine-labels", "fit-teacher", "precompute", "distill", "sweep"}
    expected |= {"evaluate", "export", "report", "predict", "verify", "compact", "gc", "bench"}
    assert done.returncode == 0
    assert {word for word in listed if not word.startswith("-")} == expected == set(COMMANDS)


def test_each_command_has_its_help_and_imports_nothing_heavy_for_it() -> None:
    lines = python(
        "import sys\n"
        "from jobs.cli import COMMANDS, build\n"
        "for name in COMMANDS:\n"
        "    print('@', name)\n"
        "    build()([name, '--help'], exit_on_error=False, result_action='return_value')\n"
        f"print('# heavy:', sorted({HEAVY} & set(sys.modules)))\n"
    )
    assert lines[-1] == "# heavy: []"
    pages = "\n".join(lines).split("@ ")[1:]
    assert [page.split("\n")[0] for page in pages] == list(COMMANDS)
    for page in pages:
        name = page.split("\n")[0]
        options = OPTIONS.get(name, ["--set", "--dry-run", "--print-config"])
        assert f"Usage: stagedkd {name}" in page
        assert all(option in page for option in options), page


def test_the_commands_that_train_offer_local(here: Here) -> None:
    for name in ("fit-teacher", "distill"):
        assert "--local" in here(name, "--help").stdout


def test_printing_a_recipe_imports_nothing_heavy(written: Path) -> None:
    lines = python(
        "import sys\n"
        "from jobs.cli import build\n"
        f"build()(['run', {str(written)!r}, '--print-config'], exit_on_error=False, result_action='return_value')\n"
        f"print('# heavy:', sorted({HEAVY} & set(sys.modules)))\n"
    )
    assert lines[-1] == "# heavy: []"
    assert "workspace:" in lines[0]


def test_a_printed_recipe_is_the_same_recipe(written: Path, tmp_path: Path, here: Here) -> None:
    first = here("run", str(written), "--set", "train.optimiser.lr=1e-4", "--print-config")
    assert "lr: 0.0001" in first.stdout
    again = tmp_path / "again.yaml"
    again.write_text(first.stdout)
    assert here("manifest", str(again), "--print-config").stdout == first.stdout


def test_manifest_prints_its_folder_last_and_needs_no_torch(written: Path, workspace: Path) -> None:
    command = arguments("manifest", written, {})
    done = drive(listing_imports(command, ("torch", "ray", "mlflow", "scipy")))
    assert done.code == 0, done.err[-2000:]
    lines = done.out.splitlines()
    assert lines[-1] == "imported: []"
    folder = Path(lines[-2])
    assert folder.parent == workspace / "store" / "manifest"
    assert (folder / "version-00000001.json").is_file()
    assert len(list((workspace / "store" / "plan").iterdir())) == 2


def test_a_dry_run_of_any_command_describes_the_way_and_writes_nothing(written: Path, workspace: Path) -> None:
    done = stagedkd("distill", str(written), "--dry-run", "--local")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Dry run of small-")
    assert "12 videos" in done.stdout
    assert not workspace.exists()


def test_an_unknown_command_or_option_is_refused(written: Path, here: Here) -> None:
    assert here("destill", str(written)).returncode == 2
    assert here("run", str(written), "--dryrun").returncode == 2
    assert here("run").returncode == 2


def test_an_unknown_key_is_refused(written: Path) -> None:
    said = refused(stagedkd("run", str(written), "--set", "train.stepz=3"))
    assert "unknown key train.stepz (did you mean train.steps?)" in said


def test_a_missing_recipe_is_refused(here: Here) -> None:
    assert "gone.yaml not found" in refused(here("run", "gone.yaml"))


def test_a_missing_folder_is_refused(written: Path, here: Here) -> None:
    said = refused(here("run", str(written), "--set", "manifest.root=/not/here"))
    assert "manifest.root: /not/here is no folder" in said


def test_no_folder_at_all_is_refused(workspace: Path, here: Here) -> None:
    videos = str(ROOT / "jobs" / "recipes" / "videos.yaml")
    said = refused(here("run", videos, "--set", f"workspace={workspace}"))
    assert "--set manifest.root=DIR" in said


def test_an_empty_class_is_refused(written: Path, root: Path, here: Here) -> None:
    (root / "jump").mkdir()
    assert "the class 'jump' holds no video" in refused(here("precompute", str(written)))


def test_a_group_on_two_sides_is_refused(written: Path, root: Path, here: Here) -> None:
    rows = [
        ("run/000.mp4", "run", "g1", "train"),
        ("run/001.mp4", "run", "g1", "test"),
        ("walk/000.mp4", "walk", "", ""),
    ]
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "group", "split"), *rows])
    said = refused(here("manifest", str(written)))
    assert "1 groups stand on two sides, for example 'g1' in test and train" in said


def test_a_workspace_of_a_newer_schema_is_refused(written: Path, workspace: Path, here: Here) -> None:
    workspace.mkdir()
    (workspace / "workspace.json").write_text(json.dumps({"schema": "2.0"}))
    for words in (("run",), ("run", "--dry-run")):
        said = refused(here(words[0], str(written), *words[1:]))
        assert f"workspace {workspace} has schema 2.0" in said
        assert "reads schema 1.x" in said


def test_a_manifests_name_used_with_another_folder_is_refused(written: Path, tmp_path: Path, here: Here) -> None:
    assert here("manifest", str(written)).returncode == 0
    other = class_folders(tmp_path / "other", {"run": 2, "walk": 2})
    said = refused(here("manifest", str(written), "--set", f"manifest.root={other}"))
    assert "manifest.name 'small' was used with the folder" in said
    assert "--set manifest.name=NAME" in said


def test_more_workers_than_this_machine_has_are_refused_with_the_sum(
    written: Path, workspace: Path, here: Here
) -> None:
    said = refused(here("run", str(written), "--set", "train.num_workers=500", "--set", "train.batch_size=500"))
    assert "train workers 500 × 1 CPU = 500 CPU" in said
    assert not (workspace / "store").exists()


def test_classes_that_the_teacher_does_not_have_are_refused_before_ray(
    written: Path, workspace: Path, tmp_path: Path
) -> None:
    from pipeline.models.registry import build_network
    from pipeline.models.spec import NetworkSpec
    from pipeline.models.weights import save_network

    save_network(tmp_path / "teacher", build_network(NetworkSpec("compact", ("running", "walking"))), {})
    sets = ["--set", "teacher.fit=false", "--set", f"teacher.weights={tmp_path / 'teacher'}"]
    said = refused(stagedkd("run", str(written), *sets))
    assert "set teacher.saw_labels: false if it never saw these labels" in said, "it does not say what it has seen"
    said = refused(stagedkd("run", str(written), *sets, "--set", "teacher.saw_labels=false"))
    assert "2 of the manifest's classes have no class of that name" in said
    assert "'walk' (the teacher's nearest: 'walking'" in said
    assert not (workspace / "store" / "frames").exists()


def test_a_given_teacher_without_weights_is_refused(written: Path, here: Here) -> None:
    said = refused(here("run", str(written), "--set", "teacher.fit=false"))
    assert "teacher.weights must name the teacher's weights" in said


def test_simulate_writes_the_videos_and_prints_their_folder(tmp_path: Path, here: Here) -> None:
    path = tmp_path / "simulated.yaml"
    look = "{train: 4, val: 2, test: 2, shapes: 2, directions: 2, difficulty: 0, workers: 1}"
    path.write_text(f"workspace: {tmp_path / 'w'}\nsimulate: {look}\n")
    done = here("simulate", str(path))
    folder = Path(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert len(list(folder.rglob("*.mp4"))) == 8
    assert "no simulate section" in refused(here("simulate", str(path), "--set", "simulate=null"))
