"""Targets before anything runs: what their keys depend on, and recipes whose losses could not be exact."""

from pathlib import Path

import pytest

from pipeline.artifacts.layout import Workspace
from pipeline.errors import ConfigError
from pipeline.flow.context import Context
from pipeline.flow.step import content
from pipeline.flow.targets import check_classes, check_substages, check_targets, codec_of, teacher_jobs, teacher_steps
from pipeline.flow.teacher import Model, given_step, given_teachers, more_steps
from pipeline.models.facts import read_facts
from tests.unit.flow import small

FRAMES = {"train": "f" * 64, "eval": "e" * 64}
TOPK = ["precompute.codec.top_k=3", "precompute.codec.temperatures=[2.0]"]
PLAIN = "tests.unit.flow.plain_teacher:build"


def keys(root: Path, *sets: str) -> dict[str, str]:
    context = Context(small.recipe(root, root, *sets), Workspace(root), "keys")
    return {plan: step.key for plan, step in teacher_steps(context, FRAMES, "t" * 64).items()}


@pytest.mark.parametrize(
    "change",
    [
        "precompute.codec.dtype=float32",
        "precompute.compile=true",
        "precompute.dtype=bfloat16",
        "plan.micro_batch=8",
        "train.threads=2",
    ],
)
def test_what_decides_values_is_in_the_keys_of_both_plans(tmp_path: Path, change: str) -> None:
    before, after = keys(tmp_path), keys(tmp_path, change)
    assert all(before[plan] != after[plan] for plan in FRAMES)


def test_what_is_kept_of_the_logits_is_in_the_training_plans_key_alone(tmp_path: Path) -> None:
    before, after = keys(tmp_path), keys(tmp_path, *TOPK)
    assert before["eval"] == after["eval"]
    other = keys(tmp_path, TOPK[0], "precompute.codec.temperatures=[2.0,4.0]")
    assert len({before["train"], after["train"], other["train"]}) == 3


def test_the_evaluation_plan_is_stored_whole(tmp_path: Path) -> None:
    recipe = small.recipe(tmp_path, tmp_path, *TOPK)
    assert codec_of(recipe).top_k == 3
    assert codec_of(recipe, "eval").top_k is None
    job = teacher_jobs(recipe, [Model("teacher", tmp_path, "k")])[0]
    assert (job.codec, job.codec_for("eval").top_k, job.batch) == (codec_of(recipe), None, 4)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["precompute.codec.top_k=3"], r"runs at 2: set precompute.codec.temperatures to \[2\]"),
        ([*TOPK, "distill.temperature=4"], r"at 4: .* to \[2, 4\]"),
        (["precompute.codec.top_k=3", "precompute.codec.temperatures=[4.0]", "distill.temperature=4"], r"at 2"),
        (["precompute.codec.temperatures=[2.0]"], "are for top_k"),
        ([*TOPK, "labels.cross_fit=false"], "cross_fit"),
        ([*TOPK, "sweep.space={distill.temperature: {uniform: [1.0, 4.0]}}"], "is a range"),
        ([*TOPK, "sweep.space={distill.temperature: {choice: [1.0, 2.0]}}"], r"at 1: .* to \[1, 2\]"),
        (["teacher.labeler=true"], "cannot be fitted"),
    ],
)
def test_targets_from_which_a_loss_could_not_be_exact_are_refused(tmp_path: Path, sets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_targets(small.recipe(tmp_path, tmp_path, *sets))


def test_exact_combinations_pass(tmp_path: Path) -> None:
    check_targets(small.recipe(tmp_path, tmp_path))
    check_targets(small.recipe(tmp_path, tmp_path, *TOPK))
    unused = ["precompute.codec.top_k=3", "distill.lambda_kd=0", "distill.controls.kd=[]"]
    check_targets(small.recipe(tmp_path, tmp_path, *unused))


def test_top_k_of_a_part_of_the_teachers_classes_is_refused(tmp_path: Path) -> None:
    recipe = small.recipe(tmp_path, tmp_path, *TOPK)
    check_classes(recipe, [2, 0, 1], 3)
    with pytest.raises(ConfigError, match="has 2 of the teacher's 3 classes"):
        check_classes(recipe, [2, 0], 3)


def test_losses_on_features_are_refused_where_the_teacher_has_none(tmp_path: Path) -> None:
    check_substages(small.recipe(tmp_path, tmp_path), [4])
    with pytest.raises(ConfigError, match=r"distill.lambda_corr compares features: set distill.method: kd"):
        check_substages(small.recipe(tmp_path, tmp_path), [])
    check_substages(small.recipe(tmp_path, tmp_path, "distill.method=kd"), [])
    off = ["distill.lambda_corr=0", "distill.combinations=none", "distill.distribution=none"]
    check_substages(small.recipe(tmp_path, tmp_path, *off), [])
    with pytest.raises(ConfigError, match="lambda_dist to 0"):
        check_substages(small.recipe(tmp_path, tmp_path, *off[:2]), [])
    swept = small.recipe(tmp_path, tmp_path, *off, "sweep.space={distill.lambda_corr: {choice: [0.0, 1.0]}}")
    with pytest.raises(ConfigError, match="lambda_corr"):
        check_substages(swept, [])


def test_an_exported_program_is_taken_as_a_teacher(tmp_path: Path) -> None:
    """Named by a recipe: known by the file's bytes, saved among the models, run by the stage of teachers."""
    import numpy as np
    import torch

    from pipeline.export.export import _Logits, export_program
    from pipeline.flow.teacher_stage import TeacherStage
    from pipeline.models.registry import build_network
    from pipeline.models.spec import NetworkSpec

    file, names = tmp_path / "student.pt2", tmp_path / "classes.txt"
    names.write_text("c0\nc1\n")
    network = build_network(NetworkSpec("compact", ("c0", "c1"), {"widths": [4], "strides": [1]}), seed=2).eval()
    torch.export.save(export_program(_Logits(network), (4, 16, 16)), file)
    section = {"fit": False, "model": "exported", "weights": str(file), "classes": str(names)}
    recipe = small.recipe(tmp_path, tmp_path, teacher=section)
    context = Context(recipe, Workspace(tmp_path), "given")
    teachers = given_teachers(context)
    facts = read_facts(content(teachers[0].folder))
    assert (facts["classes"], facts["dims"]) == (["c0", "c1"], [])
    clips = np.random.default_rng(0).integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8)
    done = TeacherStage(teacher_jobs(recipe, teachers))({"plan": "eval", "teachers": "[0]", "frames": clips})
    with torch.inference_mode():
        expected = network(torch.from_numpy(clips)).logits
    assert np.array_equal(done["t0.logits"], expected.numpy().astype(np.float16))
    larger = small.recipe(tmp_path, tmp_path, "views.num_frames=8", teacher=section)
    with pytest.raises(ConfigError, match=r"takes \[4, 16, 16, 3\], and is given \[8, 16, 16, 3\]"):
        given_teachers(Context(larger, Workspace(tmp_path), "given"))
    file.write_bytes(file.read_bytes() + b" ")
    assert given_step(recipe).key != teachers[0].key


def test_refused_before_anything_is_imported_that_is_slow(tmp_path: Path) -> None:
    lines = small.python(
        "import sys\n"
        "from pipeline.config.load import build_recipe\n"
        "from pipeline.errors import ConfigError\n"
        "from pipeline.flow.run import check_targets\n"
        "try:\n    check_targets(build_recipe({'precompute': {'codec': {'top_k': 3}}}))\n"
        "except ConfigError as error:\n    print(error.exit_code)\n"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])\n"
    )
    assert lines == ["2", "[]"]


def plain(classes: int) -> dict[str, object]:
    return {"model": PLAIN, "labeler": True, "options": {"classes": classes}}


def test_given_teachers_come_in_order_with_names_and_keys_of_their_own(tmp_path: Path) -> None:
    context = small.context(
        tmp_path / "v",
        tmp_path / "w",
        teacher={**plain(3), "fit": False},
        precompute={"more_teachers": [plain(4), plain(5)]},
    )
    models = given_teachers(context)
    assert [model.name for model in models] == ["teacher", "teacher-2", "teacher-3"]
    assert len({model.key for model in models}) == 3
    facts = [read_facts(content(model.folder)) for model in models]
    assert [each["num_classes"] for each in facts] == [3, 4, 5]
    assert models[0].key == given_step(context.recipe).key
    assert facts[0]["classes"] == ["c0", "c1", "c2"]
    assert facts[0]["dims"] == [3]


def test_a_fitted_teacher_is_not_among_the_given(tmp_path: Path) -> None:
    context = small.context(tmp_path / "v", tmp_path / "w", precompute={"more_teachers": [plain(4)]})
    assert [model.name for model in given_teachers(context)] == ["teacher-2"]


def test_a_teacher_named_twice_is_refused(tmp_path: Path) -> None:
    recipe = small.recipe(tmp_path, tmp_path, precompute={"more_teachers": [plain(4), plain(4)]})
    with pytest.raises(ConfigError, match="names a teacher twice"):
        more_steps(recipe)


def test_further_teachers_need_weights(tmp_path: Path) -> None:
    recipe = small.recipe(tmp_path, tmp_path, precompute={"more_teachers": [{"model": "compact"}]})
    with pytest.raises(ConfigError, match=r"more_teachers\[0\]\.weights"):
        more_steps(recipe)
