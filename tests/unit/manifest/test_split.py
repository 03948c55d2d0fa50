from pathlib import Path

import pytest

from pipeline.artifacts.identity import unit_draw
from pipeline.config.load import read_recipe
from pipeline.errors import InputError
from pipeline.manifest.split import assign_splits
from tests.unit.manifest.folders import entries

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def many(count: int, start: int = 0) -> list[tuple[str, str, None]]:
    return [(f"v{n}", f"g{n // 3}", None) for n in range(start, start + count)]


def test_groups_stay_whole_and_shares_are_met() -> None:
    found = assign_splits(entries(*many(6000)), SHARES, seed=0)
    by_group = {f"g{n}": {found[f"v{3 * n + k}"] for k in range(3)} for n in range(2000)}
    assert all(len(splits) == 1 for splits in by_group.values())
    shares = {split: list(found.values()).count(split) / 6000 for split in SHARES}
    assert shares == pytest.approx(SHARES, abs=0.03)


def test_the_threshold_is_on_the_draw_of_seed_and_group() -> None:
    found = assign_splits(entries(*many(300)), SHARES, seed=5)
    for name, group, _ in many(300):
        draw = unit_draw("split", 5, group)
        assert found[name] == ("train" if draw < 0.7 else "val" if draw < 0.8 else "test")


def test_a_new_video_changes_no_old_one() -> None:
    before = assign_splits(entries(*many(300)), SHARES, seed=1)
    after = assign_splits(entries(*many(400, start=0)), SHARES, seed=1)
    assert {name: after[name] for name in before} == before
    assert assign_splits(entries(*many(300)), SHARES, seed=2) != before


def test_given_splits_stay_and_cover_their_group() -> None:
    found = assign_splits(entries(("a", "g", "test"), ("b", "g", None), ("c", "h", "val")), SHARES, seed=0)
    assert found == {"a": "test", "b": "test", "c": "val"}


def test_a_group_on_two_sides_is_refused() -> None:
    with pytest.raises(InputError, match="1 groups stand on two sides, for example 'g' in test and train"):
        assign_splits(entries(("a", "g", "test"), ("b", "g", "train")), SHARES, seed=0)


def test_validation_is_taken_from_given_training_groups_only() -> None:
    rows = [(f"v{n}", f"g{n // 2}", "train" if n % 4 < 2 else "test") for n in range(2000)]
    found = assign_splits(entries(*rows), SHARES, seed=0, val_from_train=0.25)
    assert {found[name] for name, _, split in rows if split == "test"} == {"test"}
    held = [name for name, _, split in rows if split == "train" and found[name] == "val"]
    assert 0.2 < len(held) / 1000 < 0.3
    assert all(found[f"v{int(name[1:]) ^ 1}"] == "val" for name in held)


def test_a_published_validation_that_figures_are_quoted_on_is_the_test() -> None:
    """Settings were chosen, and figures reported, on one split."""
    rows = [(f"v{n}", f"g{n // 2}", "train" if n % 4 < 2 else "val") for n in range(2000)]
    found = assign_splits(entries(*rows), SHARES, seed=0, val_from_train=0.25, val_as_test=True)
    assert {found[name] for name, _, split in rows if split == "val"} == {"test"}
    validating = [name for name, _, split in rows if found[name] == "val"]
    assert 0.2 < len(validating) / 1000 < 0.3
    assert all(found[f"v{int(name[1:]) ^ 1}"] == "val" for name in validating)


def test_two_tests_are_refused() -> None:
    with pytest.raises(InputError, match="1 groups have a test split of their own, for example 'h'"):
        assign_splits(entries(("a", "g", "val"), ("b", "h", "test")), SHARES, seed=0, val_as_test=True)


def test_the_kinetics_recipe_chooses_and_reports_on_different_splits() -> None:
    recipe = read_recipe(Path(__file__).parents[3] / "jobs" / "recipes" / "kinetics400.yaml")
    split = recipe.manifest.split
    rows = [(f"t{n}", f"t{n}", "train") for n in range(3000)] + [(f"v{n}", f"v{n}", "val") for n in range(100)]
    found = assign_splits(
        entries(*rows), SHARES, seed=split.seed, val_from_train=split.val_from_train, val_as_test=split.val_as_test
    )
    assert {found[f"v{n}"] for n in range(100)} == {recipe.evaluate.split} == {"test"}
    assert 30 < list(found.values()).count("val") < 90
    assert {"val", "test"} <= set(recipe.views.eval.splits)
