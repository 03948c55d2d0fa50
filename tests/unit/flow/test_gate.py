"""The gate through the real steps: stored targets of a plain teacher, manifest, artefact, exit code; without Ray."""

import csv
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli import main
from pipeline.artifacts.layout import read_json
from pipeline.config.load import recipe_yaml
from pipeline.config.networks import Teacher
from pipeline.errors import JobError
from pipeline.evaluation.gate import FILES, MAJORITY, PROBE, TEACHER
from pipeline.flow import gate as gates
from pipeline.flow.collect import referenced
from pipeline.flow.context import Context
from pipeline.flow.dry_run import describe
from pipeline.flow.run import Way, begin, to_gate, to_targets
from pipeline.report.facts import ReportFacts
from pipeline.report.page import render
from tests.support.videos import write_video
from tests.unit.flow import precomputed, small

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
TEACHER_MODULE = "tests.unit.flow.gate_teacher:build"
SIZES = {0: (32, 48), 1: (48, 64)}
Row = tuple[str, str, int]  # split, given label, what is shown


def clips(root: Path, rows: Sequence[Row], size: Callable[[Row], tuple[int, int]] = lambda row: SIZES[0]) -> Path:
    """Dark (0) and bright (1) clips with a manifest.csv that says what is given of them, each a group of its own."""
    root.mkdir(parents=True)
    listed = []
    for number, row in enumerate(rows):
        split, label, shown = row
        level, noise = (60, 190)[shown], np.random.default_rng(number)
        picture = lambda n, size, level=level, noise=noise: noise.integers(  # noqa: E731
            level - 30, level + 30, (*size, 3)
        ).astype(np.uint8)
        write_video(root / f"{number:03d}.mp4", frames=4 + number % 3, size=size(row), picture=picture)
        listed.append({"path": f"{number:03d}.mp4", "label": label, "split": split})
    with (root / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(listed)
    return root


def rows(train: int, val: int, *, permuted: bool = False) -> list[Row]:
    """Two classes in turn. `permuted`: what is shown has nothing to do with the given label."""
    found = [(split, n % 2) for split, count in (("train", train), ("val", val), ("test", 4)) for n in range(count)]
    shown = np.random.default_rng(11).permutation([label for _, label in found]) if permuted else None
    return [
        (split, f"c{label}", label if shown is None else int(shown[place]))
        for place, (split, label) in enumerate(found)
    ]


def context(root: Path, workspace: Path, *sets: str, options: dict[str, Any] | None = None) -> Context:
    teacher = {"model": TEACHER_MODULE, "labeler": True, "fit": False, "options": options or {}}
    quiet = ["tracking.enabled=false", "labels.channel=none", "distill.method=kd", *sets]
    return precomputed.context(root, workspace, *quiet, teacher=teacher)


def ready(root: Path, workspace: Path, *sets: str, options: dict[str, Any] | None = None) -> Context:
    """Everything that comes before the gate is stored."""
    opened = context(root, workspace, *sets, options=options)
    precomputed.precompute(opened)
    return opened


def found(way: Way) -> dict[str, Any]:
    result = gates.found_of(way.context)
    assert result is not None
    return result


def top1(result: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["top1"] for row in result["rows"]}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips whose label is what they show, precomputed; nobody writes there."""
    root, workspace = clips(tmp_path_factory.mktemp("good") / "clips", rows(24, 24)), tmp_path_factory.mktemp("space")
    ready(root, workspace)
    return root, workspace


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips whose labels have nothing to do with them, and whose label is the size of the picture."""
    size: Callable[[Row], tuple[int, int]] = lambda row: SIZES[int(row[1][1])]  # noqa: E731
    root = clips(tmp_path_factory.mktemp("lots") / "clips", rows(24, 24, permuted=True), size)
    workspace = tmp_path_factory.mktemp("space")
    ready(root, workspace)
    return root, workspace


def test_a_good_teacher_passes_and_the_artefact_has_all_figures(good: tuple[Path, Path]) -> None:
    way = to_gate(begin(context(*good)))
    result = found(way)
    assert (result["looked"], result["weak"], result["videos"], result["groups"]) == (True, False, 24, 24)
    assert top1(result)[TEACHER] == 1.0
    assert top1(result)[MAJORITY] == 0.5
    assert set(top1(result)) == {TEACHER, FILES, MAJORITY}
    assert result["rows"][-1]["note"] == "c0, of the training labels"
    copy = json.loads((way.context.workspace.run(way.context.name) / "gate.json").read_text())
    assert copy == result


def test_what_was_looked_at_is_not_looked_at_again(good: tuple[Path, Path]) -> None:
    first = to_gate(begin(context(*good))).context
    again = to_gate(begin(context(*good))).context
    assert again.keys["gate"] == first.keys["gate"]
    (timing,) = [timing for timing in again.timings if timing.step == "gate"]
    assert timing.skipped


def test_gc_knows_the_artefact_and_keeps_what_a_run_stands_on(good: tuple[Path, Path]) -> None:
    opened = to_gate(begin(context(*good))).context
    opened.close()
    folder = opened.workspace.store("gate", opened.keys["gate"])
    assert folder in referenced(opened.workspace, [folder], before=9e12)


def test_a_teacher_that_knows_nothing_ends_the_run_and_keeps_everything(
    permuted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    opened = context(*permuted)
    stored = small.tree(permuted[1] / "store")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(recipe_yaml(opened.recipe))
    monkeypatch.setattr("sys.argv", ["stagedkd", "distill", str(recipe), "--local"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "the teacher is not worth distilling" in said
    assert "is not shown to be better than always naming the most frequent class (50.0 %)" in said
    for advice in ("teacher.weights", "classes.map", "more labels", "--set teacher.accept_weak=true"):
        assert advice in said
    after = small.tree(permuted[1] / "store")
    assert {name: after.get(name) for name in stored} == stored, "all that was made stays"
    assert not [name for name in after if name.startswith("models/") and name not in stored], "no student was begun"


def test_a_weak_teacher_that_was_accepted_goes_on_with_a_warning(
    permuted: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JobError, match="accept_weak"):
        to_gate(begin(context(*permuted)))
    accepted = context(*permuted, "teacher.accept_weak=true")
    way = to_gate(begin(accepted))
    assert found(way)["weak"]
    assert accepted.keys["gate"] == to_keys(permuted)["gate"], "accepting changes no key"
    assert any("distilled all the same (teacher.accept_weak)" in text for text in warned(caplog))


def to_keys(where: tuple[Path, Path]) -> dict[str, str]:
    opened = context(*where)
    with pytest.raises(JobError):
        to_gate(begin(opened))
    return opened.keys


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_file_facts_that_give_the_class_away_are_told(
    permuted: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    result = found(to_gate(begin(context(*permuted, "teacher.accept_weak=true"))))
    assert top1(result)[FILES] == 1.0
    assert result["leads"][FILES]["high"] < 0
    (text,) = [text for text in warned(caplog) if "File facts alone" in text]
    assert "better than the teacher by the point estimate (100.0 % against" in text
    assert "), distinguishable on 24 validation videos" in text


def test_summary_page_and_card_say_what_the_gate_found(permuted: tuple[Path, Path], good: tuple[Path, Path]) -> None:
    weak, strong = context(*permuted, "teacher.accept_weak=true"), context(*good)
    to_gate(begin(weak))
    to_gate(begin(strong))
    summary = gates.gate_summary(weak)
    assert summary is not None
    assert (summary["weak"], len(summary["says"])) == (True, 2)
    assert "File facts alone" in gates.gate_line(weak)
    assert "the teacher has 100.0 %; that is better than" in gates.gate_line(strong)
    page = render(ReportFacts(gate=gates.gate_facts(weak)))
    assert "Is the teacher worth distilling?" in page
    assert "File facts alone (width, height, frames, bytes, fps; no pixel) are better than the teacher" in page
    for name in (TEACHER, FILES, MAJORITY):
        assert f'<th scope="row">{name}</th>' in page
    assert "Is the teacher worth distilling?" not in render(ReportFacts())


@pytest.mark.parametrize(
    ("fit", "said"), [(True, "more steps (teacher.steps), another head"), (False, "another teacher")]
)
def test_advice_fits_the_teacher(fit: bool, said: str) -> None:
    assert said in gates._advice({"decidable": True}, Teacher(fit=fit))
    assert "more validation videos" not in gates._advice({"decidable": True}, Teacher(fit=fit))


def test_a_dry_run_says_what_the_gate_will_look_at(good: tuple[Path, Path]) -> None:
    def row(*sets: str) -> str:
        lines = describe(context(*good, *sets).recipe, "x").splitlines()
        return " ".join(next(line for line in lines if line.startswith("gate  ")).split())

    assert row().endswith("teacher against majority class on 24 validation videos; a run with a weak one ends here")
    assert row("teacher.accept_weak=true").endswith("a weak one goes on")
    assert row('views.eval.splits=["test"]').endswith("cannot look at the teacher: no validation video is planned")


def test_a_probe_that_is_offered_stands_beside_the_teacher(good: tuple[Path, Path]) -> None:
    way = to_targets(begin(context(*good)))
    named = [way.videos.ids[row] for row in way.videos.of("val")][4:]
    asked = []

    def probe(context: Context, videos: Any, views: Any, labels: Path) -> tuple[list[str], np.ndarray]:
        asked.append(labels)
        return [*named, "not-a-video-of-validation"], np.zeros(len(named) + 1, np.int64)

    assert way.stored is not None
    inputs = (way.context, way.videos, way.views, way.labels, way.teacher, way.stored)
    result = gates.gate(*inputs, probe)
    assert (top1(result)[PROBE], result["videos"]) == (0.5, 20), "all on the videos that both have answered"
    with_probe = way.context.keys["gate"]
    gates.gate(*inputs, probe)
    assert len(asked) == 1, "done before"
    assert PROBE not in top1(gates.gate(*inputs))
    assert way.context.keys["gate"] != with_probe


def test_a_teacher_of_other_classes_is_read_by_name(tmp_path: Path) -> None:
    root = clips(tmp_path / "clips", rows(12, 16))
    options = {"classes": ["other", "c1", "c0"], "levels": [60.0, 190.0, 60.0]}
    opened = ready(root, tmp_path / "space", options=options)
    assert top1(found(to_gate(begin(opened))))[TEACHER] == 1.0


def test_two_classes_of_24_clips_pass_where_they_are_accepted(tmp_path: Path) -> None:
    root = clips(tmp_path / "clips", rows(14, 6))
    ready(root, tmp_path / "space")
    with pytest.raises(JobError, match=r"even a teacher without a mistake[\s\S]*more validation videos"):
        to_gate(begin(context(root, tmp_path / "space")))
    result = found(to_gate(begin(context(root, tmp_path / "space", "teacher.accept_weak=true"))))
    assert (result["decidable"], top1(result)[TEACHER]) == (False, 1.0)


def test_without_a_labelled_validation_video_it_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlabelled = [(split, "" if split == "val" else label, shown) for split, label, shown in rows(12, 8)]
    opened = ready(clips(tmp_path / "clips", unlabelled), tmp_path / "space")
    result = found(to_gate(begin(opened)))
    assert (result["looked"], result["weak"]) == (False, False)
    assert any("could not look at the teacher" in text for text in warned(caplog))
    assert read_json(opened.workspace.run(opened.name) / "gate.json") == result


def test_without_a_label_in_training_the_majority_is_that_of_validation(tmp_path: Path) -> None:
    unlabelled = [(split, "" if split == "train" else label, shown) for split, label, shown in rows(12, 16)]
    opened = ready(clips(tmp_path / "clips", unlabelled), tmp_path / "space")
    result = found(to_gate(begin(opened)))
    assert set(top1(result)) == {TEACHER, MAJORITY}
    assert result["rows"][-1]["note"] == "c0, of the validation labels"
