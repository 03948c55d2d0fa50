"""Reading recipes: strictness, --set, messages that name the dotted path, what --print-config prints."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import build_recipe, known_paths, read_recipe, recipe_yaml
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from tests.unit.config.golden import RECIPES


def message(values: dict[str, Any], *sets: str) -> str:
    """What is said of a recipe that is refused."""
    with pytest.raises(ConfigError) as caught:
        build_recipe(values, sets, origin="my.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("values", "unknown", "near"),
    [
        ({"trian": {}}, "trian", "train"),
        ({"train": {"stepz": 3}}, "train.stepz", "train.steps"),
        ({"views": {"train": {"views_per_clips": 3}}}, "views.train.views_per_clips", "views.train.views_per_clip"),
        ({"sweep": {"trails": 3}}, "sweep.trails", "sweep.trials"),
        ({"teacher": {"optimizer": {"lr": 1}}}, "teacher.optimizer", "teacher.optimiser"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(
    values: dict[str, Any], unknown: str, near: str
) -> None:
    assert message(values) == f"my.yaml: unknown key {unknown} (did you mean {near}?)"


def test_an_unknown_key_with_nothing_near_has_no_hint() -> None:
    assert message({"zzzzzzzz": 1}) == "my.yaml: unknown key zzzzzzzz"


def test_all_mistakes_are_told_at_once() -> None:
    said = message({"train": {"stepz": 3, "batch_size": 0}})
    assert "unknown key train.stepz" in said
    assert "train.batch_size = 0: " in said


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"train": {"steps": "many"}}, "train.steps = 'many'"),
        ({"manifest": {"label_fraction": 0}}, "manifest.label_fraction = 0"),
        ({"cascade": {"K": 4}}, "cascade.K = 4"),
        ({"views": {"size": [4, 4]}}, "at least 8×8 pixels, got 4×4"),
        ({"manifest": {"split": {"train": 0.9}}}, "must be 1, got 1.2"),
        ({"sweep": {"space": {"train.steps": {}}}}, "exactly one of choice, uniform, loguniform"),
        ({"precompute": {"reader": "decrod"}}, "precompute.reader = 'decrod'"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: dict[str, Any], path: str) -> None:
    assert path in message(values)


def test_set_reads_yaml_numbers_with_an_exponent_as_numbers() -> None:
    """Plain PyYAML reads 1e-4 as a string."""
    recipe = build_recipe({}, ["train.optimiser.lr=1e-4", "distill.lambda_kd=3E+1"])
    assert recipe.train.optimiser.lr == 1e-4
    assert recipe.distill.lambda_kd == 30.0


def test_a_recipe_reads_numbers_with_an_exponent_as_numbers(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "train: {optimiser: {lr: 1e-4}}")).train.optimiser.lr == 1e-4


def test_set_takes_lists_booleans_null_and_text() -> None:
    sets = ["views.size=[64,96]", "views.flip=true", "manifest.name=null", "manifest.root=/data/my videos"]
    recipe = build_recipe({"manifest": {"name": "old"}}, sets)
    assert recipe.views.size == (64, 96)
    assert recipe.views.flip is True
    assert recipe.manifest.name is None
    assert recipe.manifest.root == "/data/my videos"


def test_a_later_set_wins_and_leaves_its_neighbours() -> None:
    recipe = build_recipe({"train": {"steps": 5, "seed": 7}}, ["train.steps=6", "train.steps=8"])
    assert (recipe.train.steps, recipe.train.seed) == (8, 7)


def test_set_refuses_an_unknown_path() -> None:
    assert message({}, "train.step=3") == "my.yaml: unknown key train.step (did you mean train.steps?)"


@pytest.mark.parametrize("text", ["train.steps", "=3", "train.steps=[1", "train.steps=${nowhere}"])
def test_set_that_cannot_be_read_is_refused(text: str) -> None:
    assert text.partition("=")[0] in message({}, text) or text in message({}, text)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "train: [1\n", "train: {steps: 1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        read_recipe(written(tmp_path, text))


def test_a_missing_recipe_is_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml not found: name a YAML file"):
        read_recipe(tmp_path / "gone.yaml")


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == Recipe()


def test_the_recipes_that_are_promised_are_there() -> None:
    promised = {"debug", "demo", "videos", "ucf101", "hmdb51", "kinetics400"}
    assert promised <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_printed_recipe_loads_again_as_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    printed = recipe_yaml(recipe)
    assert read_recipe(written(tmp_path, printed)) == recipe
    assert recipe_yaml(read_recipe(written(tmp_path, printed))) == printed


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_what_it_is_first(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_known_paths_reach_into_optional_sections() -> None:
    paths = known_paths()
    assert {"train.optimiser.lr", "sweep.space.choice", "simulate.workers", "assistants.model"} <= set(paths)
    assert len(paths) == len(set(paths))
