import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.models.classes import match_classes
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

TEACHER = ["abseiling", "shaking hands", "hugging", "kicking", "pointing"]


def test_columns_follow_the_names_and_a_subset_is_legal():
    index = match_classes(TEACHER, ["hugging", "abseiling"])

    assert index.dtype == np.int64
    assert index.tolist() == [2, 0]


def test_a_teacher_with_permuted_classes_says_the_same():
    names = ("a", "b", "c", "d")
    order = [2, 0, 3, 1]
    teacher = build_network(NetworkSpec("compact", names), seed=1).eval()
    permuted = build_network(NetworkSpec("compact", tuple(names[place] for place in order)), seed=2).eval()
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    for name in ("body.head.weight", "body.head.bias"):
        state[name] = state[name][order]
    permuted.load_state_dict(state)
    raster = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)

    with torch.no_grad():
        said = [network(raster).logits[:, match_classes(network.classes, names)] for network in (teacher, permuted)]

    assert torch.equal(said[0], said[1])
    assert not torch.equal(teacher(raster).logits, permuted(raster).logits)


def test_renames_go_from_the_manifests_name_to_the_teachers():
    assert match_classes(TEACHER, ["HandShake", "hugging"], {"HandShake": "shaking hands"}).tolist() == [1, 2]


def test_an_unmatched_class_is_named_with_the_nearest_of_the_teachers():
    with pytest.raises(InputError) as caught:
        match_classes(TEACHER, ["hugging", "Kick", "shaking_hands", "zzz"])

    said = str(caught.value)
    assert said.startswith("3 of the manifest's classes")
    assert "'Kick' (the teacher's nearest: 'kicking')" in said
    assert "'shaking_hands' (the teacher's nearest: 'shaking hands'" in said
    assert "'zzz' (nothing near)" in said
    assert "classes.map" in said


def test_equal_counts_without_names_are_refused_unless_the_order_is_trusted():
    with pytest.raises(InputError, match=r"set classes\.trust_order: true"):
        match_classes(3, ["a", "b", "c"])

    assert match_classes(3, ["a", "b", "c"], trust_order=True).tolist() == [0, 1, 2]
    assert match_classes(["x", "y"], ["a", "b"], trust_order=True).tolist() == [0, 1]


def test_other_counts_cannot_be_trusted():
    with pytest.raises(InputError, match="it has 4 and the manifest 3"):
        match_classes(4, ["a", "b", "c"], trust_order=True)


def test_names_beat_a_trusted_order():
    assert match_classes(["b", "a"], ["a", "b"], trust_order=True).tolist() == [1, 0]
    with pytest.raises(InputError, match="has 'a' at another place"):
        match_classes(["b", "a"], ["a", "c"], trust_order=True)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"huging": "hugging"}, "renames 'huging', which the manifest does not have; did you mean 'hugging'"),
        ({"wave": "pointin"}, "gives 'wave' the name 'pointin', .* did you mean 'pointing'"),
        ({"wave": "hugging"}, "'hugging' and 'wave' of the manifest are the same class 'hugging'"),
    ],
)
def test_renames_that_cannot_be_are_refused(rename, said):
    with pytest.raises(InputError, match=said):
        match_classes(TEACHER, ["hugging", "wave"], rename)
