"""Whose labels a network has seen: read from model.json, passed on, and never a start for what judges those labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import build_recipe
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.run import judged_by_teacher
from pipeline.flow.seen import check_starts, of_weights, passed_on, teacher_saw_labels
from pipeline.flow.step import finish

OURS = "clips"


def saved(folder: Path, **facts: Any) -> str:
    """A saved network's folder, as far as its model.json counts here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.json").write_text(json.dumps({"schema": "1.0", **facts}))
    return str(folder)


def recipe(weights: str | None, *sets: str, **teacher: Any) -> Recipe:
    values = {"manifest": {"root": "videos", "name": OURS}, "teacher": {"weights": weights, **teacher}}
    return build_recipe(values, sets)


def test_a_start_that_saw_these_labels_is_refused(tmp_path: Path) -> None:
    seen = saved(tmp_path / "seen", saw_labels=True, labels_seen=["other", OURS])
    with pytest.raises(ConfigError, match="the teacher would start from"):
        check_starts(recipe(seen))
    with pytest.raises(ConfigError, match="was fitted on labels of 'clips'"):
        check_starts(recipe(seen, "teacher.saw_labels=false"))


def test_an_older_checkpoint_that_says_it_saw_labels_needs_a_word(tmp_path: Path) -> None:
    older = saved(tmp_path / "older", saw_labels=True)
    with pytest.raises(ConfigError, match=r"set teacher\.saw_labels: false"):
        check_starts(recipe(older))
    check_starts(recipe(older, "teacher.saw_labels=false"))
    check_starts(recipe(saved(tmp_path / "blind", saw_labels=False)))


def test_weights_of_another_archive_and_of_a_library_are_a_start(tmp_path: Path) -> None:
    check_starts(recipe(saved(tmp_path / "archive", saw_labels=True, labels_seen=["archive"])))
    check_starts(recipe("imagenet", model="frame"))
    check_starts(recipe(None))


def test_a_file_of_unknown_origin_needs_a_word(tmp_path: Path) -> None:
    file = tmp_path / "backbone.pth"
    file.write_bytes(b"x")
    with pytest.raises(ConfigError, match="does not say that it has not"):
        check_starts(recipe(str(file)))
    check_starts(recipe(str(file), "teacher.saw_labels=false"))


def test_fold_models_do_not_start_from_a_given_teachers_weights_that_saw_the_labels(tmp_path: Path) -> None:
    seen = saved(tmp_path / "seen", saw_labels=True, labels_seen=[OURS])
    with pytest.raises(ConfigError, match="fold models would start from"):
        check_starts(recipe(seen, fit=False))
    check_starts(recipe(seen, "labels.channel=none", fit=False))
    labeller = {"labels": {"labeller": {"model": "compact", "weights": seen}}}
    with pytest.raises(ConfigError, match=r"set labels\.labeller\.saw_labels"):
        check_starts(build_recipe({"manifest": {"root": "v", "name": OURS}, **labeller}))
    blank = {"labels": {"labeller": {"model": "compact"}}}
    check_starts(
        build_recipe({"manifest": {"root": "v", "name": OURS}, "teacher": {"weights": seen, "fit": False}, **blank})
    )


def test_a_given_teacher_judges_labels_only_if_it_never_saw_them(tmp_path: Path) -> None:
    judge = ["labels.cross_fit=false"]
    other = saved(tmp_path / "archive", saw_labels=True, labels_seen=["archive"])
    assert judged_by_teacher(recipe(other, *judge, fit=False))
    for weights in (saved(tmp_path / "seen", labels_seen=[OURS]), saved(tmp_path / "older", saw_labels=True)):
        with pytest.raises(ConfigError, match="never saw these labels"):
            judged_by_teacher(recipe(weights, *judge, fit=False))
    assert not teacher_saw_labels(recipe("KINETICS400_V1", fit=False, model="r3d_18"))
    assert teacher_saw_labels(recipe("KINETICS400_V1", fit=False, model="r3d_18", saw_labels=True))
    assert teacher_saw_labels(recipe(None, fit=False, labeler=True, model="module:factory"))


def test_what_was_seen_is_passed_on(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    saved(folder / "attempt", saw_labels=True, labels_seen=["archive"])
    finish(folder, "attempt", {})
    assert of_weights(str(folder)) == ("archive",), "an artefact's folder stands for its finished attempt"
    assert passed_on(OURS, of_weights(str(folder)), ["third"]) == {
        "saw_labels": True,
        "labels_seen": ["archive", "clips", "third"],
    }
    assert of_weights("imagenet") == of_weights(None) == ()


def test_a_start_that_does_not_say_whose_labels_it_saw_stays_unknown_in_what_is_made_of_it(tmp_path: Path) -> None:
    """Else a list that is passed on would look whole, and hide the labels of a third data set."""
    file = tmp_path / "backbone.pth"
    file.write_bytes(b"x")
    older = saved(tmp_path / "older", saw_labels=True)
    for start in (str(file), older):
        made = saved(tmp_path / "made", **passed_on("archive", of_weights(start)))
        assert teacher_saw_labels(recipe(made, fit=False))
        with pytest.raises(ConfigError, match="does not say that it has not"):
            check_starts(recipe(made))
        check_starts(recipe(made, "teacher.saw_labels=false"))
    whole = saved(tmp_path / "made", **passed_on("archive", of_weights("imagenet")))
    assert not teacher_saw_labels(recipe(whole, fit=False))
