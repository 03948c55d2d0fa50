"""From configuration to plain arguments, and what enters keys by content."""

import sys
from pathlib import Path

import pytest

from pipeline.config.load import build_recipe
from pipeline.config.networks import Network, Optimiser, Transform
from pipeline.errors import ConfigError, InputError
from pipeline.flow import build
from pipeline.flow.step import finish
from pipeline.video.views import view_keys


def test_the_root_is_the_given_folder_or_the_simulated_set_of_the_workspace() -> None:
    """Absolute, since workers stand elsewhere."""
    assert build.manifest_root(build_recipe({"manifest": {"root": "here"}, "simulate": {}})) == Path("here").absolute()
    one = build.manifest_root(build_recipe({"workspace": "w", "simulate": {"train": 10}}))
    assert one.parent == Path("w/videos").absolute()
    assert one.name.startswith("simulated-")
    assert build.manifest_root(build_recipe({"workspace": "w", "simulate": {"train": 11}})) != one
    assert build.manifest_root(build_recipe({"workspace": "w", "simulate": {"train": 10, "workers": 7}})) == one


def test_without_a_root_the_way_to_give_one_is_said() -> None:
    with pytest.raises(ConfigError, match=r"--set manifest\.root=DIR"):
        build.manifest_root(build_recipe({}))


def test_the_manifest_is_called_as_given_or_as_its_folder(tmp_path: Path) -> None:
    assert build.manifest_name(build_recipe({"manifest": {"root": "a/b", "name": "mine"}})) == "mine"
    assert build.manifest_name(build_recipe({"manifest": {"root": str(tmp_path / "clips")}})) == "clips"


def test_policies_of_both_plans() -> None:
    views = {"size": [32, 48], "num_frames": 5, "frame_stride": 3, "overflow": "wrap", "seed": 9, "flip": True}
    views |= {"train": {"views_per_clip": 4, "scale": [0.5, 0.9]}, "eval": {"clips_per_video": 6}}
    recipe = build_recipe({"views": views})
    train, evaluation = build.view_policy(recipe, "train"), build.view_policy(recipe, "eval")
    assert (train.kind, train.size, train.num_frames, train.frame_stride) == ("train", (32, 48), 5, 3)
    assert (train.views_per_clip, train.clips_per_video, train.scale, train.flip) == (4, 1, (0.5, 0.9), True)
    assert (evaluation.views_per_clip, evaluation.clips_per_video, evaluation.flip) == (1, 6, False)
    assert (evaluation.overflow, evaluation.seed) == ("wrap", 9)


def test_testing_with_several_crops_and_windows() -> None:
    evaluation = {"clips_per_video": 10, "spatial": "three_crop"}
    policy = build.view_policy(build_recipe({"views": {"eval": evaluation}}), "eval")
    assert len(view_keys("v", policy)) == 30
    ten = {"views": {"flip": True, "eval": {"spatial": "ten_crop", "clips_per_video": 1}}}
    policy = build.view_policy(build_recipe(ten), "eval")
    assert (policy.views_per_clip, policy.crop, policy.flip) == (10, 0.875, True)
    assert build.view_policy(build_recipe({**ten, "views": {**ten["views"], "eval": {}}}), "eval").flip is False
    with pytest.raises(ConfigError, match=r"set views\.flip: true if mirrored videos keep their class"):
        build.view_policy(build_recipe({"views": {"eval": {"spatial": "ten_crop"}}}), "eval")


def test_training_policies_reach_the_train_plan_alone() -> None:
    chosen = {"temporal": "segments", "spatial": "multi_scale_crop", "scales": [1.0, 0.5], "places": 13}
    recipe = build_recipe({"views": {"train": chosen}})
    train, evaluation = build.view_policy(recipe, "train"), build.view_policy(recipe, "eval")
    assert (train.windows, train.crops, train.scales, train.places) == (
        "segments",
        "multi_scale_crop",
        (1.0, 0.5),
        13,
    )
    assert evaluation == build.view_policy(build_recipe({}), "eval")


def test_what_predicting_must_know_is_told_where_it_is_not_the_usual() -> None:
    assert build.testing(build_recipe({})) == {}
    recipe = build_recipe({"views": {"eval": {"spatial": "three_crop", "temporal": "segments"}}})
    assert build.testing(recipe) == {"views_per_clip": 3, "spatial": "three_crop", "temporal": "segments"}


def test_dense_windows_and_label_refinement_do_not_go_together() -> None:
    dense = {"views": {"eval": {"temporal": "dense"}}}
    with pytest.raises(ConfigError, match=r"set labels\.channel: none"):
        build.view_policy(build_recipe(dense), "train")
    policy = build.view_policy(build_recipe(dense | {"labels": {"channel": "none"}}), "eval")
    assert len(view_keys("v", policy, 31 + 3 * 32)) == 4


@pytest.mark.parametrize("section", ["teacher", "student", "assistants", "labels.labeller"])
def test_a_network_that_wants_more_pixels_than_the_raster_has_is_refused(section: str) -> None:
    network = {"model": "compact", "transform": {"size": [32, 49]}}
    values = {"labels": {"labeller": network}} if "." in section else {section: network}
    with pytest.raises(ConfigError, match=rf"{section}\.transform\.size is 32×49, but views\.size is 32×48"):
        build.view_policy(build_recipe({"views": {"size": [32, 48]}, **values}), "train")
    allowed = {"views": {"size": [32, 48], "allow_upscale": True}, **values}
    assert build.view_policy(build_recipe(allowed), "train").size == (32, 48)
    assert build.view_policy(build_recipe({"views": {"size": [32, 49]}, **values}), "eval").size == (32, 49)


def test_training_views_are_for_training_videos() -> None:
    recipe = build_recipe({"views": {"eval": {"splits": ["val", "test"]}}})
    assert build.planned_splits(recipe, "train") == ("train",)
    assert build.planned_splits(recipe, "eval") == ("val", "test")


def test_weights_enter_by_content_wherever_they_lie(tmp_path: Path) -> None:
    for place, text in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / place).write_bytes(text)
    a, b, c = (build.network_fields(Network(model="compact", weights=str(tmp_path / f"{n}.pt"))) for n in "abc")
    assert a == b
    assert a != c
    assert str(tmp_path) not in str(a)


def test_a_saved_networks_folder_enters_by_content(tmp_path: Path) -> None:
    fields = []
    for place, text in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.safetensors").write_bytes(text)
        (tmp_path / place / "model.json").write_text("{}")
        fields.append(build.network_fields(Network(model="compact", weights=str(tmp_path / place))))
    assert fields[0] == fields[1]
    assert fields[0] != fields[2]


def test_an_artefacts_folder_stands_for_its_finished_attempt(tmp_path: Path) -> None:
    """What `fit-teacher` prints can be given as the weights of another recipe."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "model.safetensors").write_bytes(b"weights")
    named = Network(model="compact", weights=str(tmp_path))
    assert build.network_fields(named)["weights"] == str(tmp_path), "no attempt is finished"
    finish(tmp_path, "first", {})
    inside = Network(model="compact", weights=str(tmp_path / "first"))
    assert build.network_fields(named) == build.network_fields(inside)
    assert build.network_spec(named, ("a", "b")).weights == str(tmp_path / "first")


def test_a_library_name_of_weights_enters_as_it_is() -> None:
    assert build.network_fields(Network(model="r3d_18", weights="KINETICS400_V1"))["weights"] == "KINETICS400_V1"


def test_the_code_of_a_users_own_model_enters_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "my_nets_of_this_test.py"
    source.write_text("def build(): ...\n")
    network = Network(model="my_nets_of_this_test:build")
    before = build.network_fields(network)
    source.write_text("def build(): return 1\n")
    assert build.network_fields(network)["code"] != before["code"]
    assert "my_nets_of_this_test" not in sys.modules


def test_options_and_transform_enter() -> None:
    network = Network(model="compact", options={"widths": [4]}, transform=Transform(size=(8, 8)))
    assert build.network_fields(network) == {
        "model": "compact",
        "options": {"widths": [4]},
        "transform": {"size": [8, 8]},
    }


def test_a_spec_leaves_out_what_the_recipe_leaves_to_the_model() -> None:
    network = Network(model="compact", options={"widths": [4]}, transform=Transform(grey=True))
    spec = build.network_spec(network, ("a", "b"))
    assert (spec.model, spec.classes, spec.options) == ("compact", ("a", "b"), {"widths": [4]})
    assert spec.transform == {"grey": True}


def test_optimiser_and_objective_take_the_recipes_values() -> None:
    found = build.optimiser(Optimiser(lr=0.5, clip_norm=2.0))
    assert (found.lr, found.clip_norm, found.weight_decay) == (0.5, 2.0, 0.02)
    recipe = build_recipe({"distill": {"lambda_corr": 7.0, "combinations": [[1, 2]], "temperature": 4}})
    aim = build.objective(recipe, 5, method="kd")
    assert (aim.lambda_corr, aim.combinations, aim.temperature, aim.method) == (7.0, ((1, 2),), 4.0, "kd")


def test_a_device_that_was_named_is_not_asked_for() -> None:
    assert build.device("cuda") == "cuda"
    assert build.device("cpu") == "cpu"


def test_class_names_are_read_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("wave\n\n clap hands \n")
    assert build.read_classes(str(path)) == ("wave", "clap hands")
    path.write_text("wave\nwave\n")
    with pytest.raises(InputError, match="twice"):
        build.read_classes(str(path))
    with pytest.raises(InputError, match=r"teacher\.classes: .*gone\.txt not found"):
        build.read_classes(str(tmp_path / "gone.txt"))
