"""What precompute's actors ask for."""

import pytest

from pipeline.config.load import build_recipe
from pipeline.errors import ConfigError
from pipeline.flow.demands import frame_demands, known_capacity, labels_in_turn, target_demands, teachers_compute
from pipeline.on_ray.capacity import Capacity

LARGE = {"plan": {"micro_batch": 64}, "views": {"size": [224, 224], "num_frames": 16}}
PIXELS = 64 * 16 * 224 * 224 * 3


def test_memory_grows_with_the_micro_batch() -> None:
    recipe = build_recipe(LARGE | {"precompute": {"together": False}})
    _, decode, teacher = target_demands(recipe, Capacity(8.0, 0.0, "", memory_per_cpu=64e9))
    assert decode.memory == pytest.approx(1.25 * (0.5e9 + 6 * PIXELS))
    assert teacher.memory == pytest.approx(1.25 * (1e9 + 7 * PIXELS))


@pytest.mark.parametrize("node", [(2.0, 1e9), (2.0, 0.3e9), (8.0, 4e9), (8.0, 500e9)])
def test_a_node_that_has_the_cpus_has_the_memory(node: tuple[float, float]) -> None:
    cpus, memory = node
    capacity = Capacity(cpus, 0.0, "", memory_per_cpu=memory / cpus)
    for demands in (frame_demands, target_demands):
        asked = demands(build_recipe(LARGE | {"precompute": {"decoders": 16}}), capacity)
        assert sum(each.count * each.cpus for each in asked) <= cpus
        assert 0 < sum(each.count * each.memory for each in asked) <= memory


def test_actors_that_do_both_are_as_many_as_fit_and_of_the_larger_share() -> None:
    section = {"device": "cpu", "together": True, "decoders": 3, "teachers": 2, "decode_cpus": 0.5, "teacher_cpus": 1.0}
    recipe = build_recipe(LARGE | {"precompute": section})
    for cpus, count in ((8.1, 5), (4.1, 4), (0.5, 1)):
        reading, both = target_demands(recipe, Capacity(cpus, 0.0, "", memory_per_cpu=64e9))
        assert (reading.what, both.count, both.cpus, both.least) == ("reading", count, 1.0, None)
        assert both.memory == pytest.approx(1.25 * (1.5e9 + 13 * PIXELS))
    assert [each.what for each in frame_demands(recipe, Capacity(8.0, 0.0, ""))] == ["reading", "decode actors"]


def test_an_accelerator_is_refused_to_actors_that_do_both() -> None:
    recipe = build_recipe({"precompute": {"together": True, "device": "cuda"}})
    with pytest.raises(ConfigError, match=r"precompute\.together: false, or precompute\.device: cpu"):
        target_demands(recipe, Capacity(8.0, 8.0, ""))


def test_networks_on_cpus_compute_and_callables_may_wait() -> None:
    assert teachers_compute(build_recipe({"precompute": {"device": "cpu"}}))
    assert not teachers_compute(build_recipe({"precompute": {"device": "cuda"}}))
    assert not teachers_compute(build_recipe({"precompute": {"device": "cpu"}, "teacher": CALLED}))


CALLED = {"model": "module:factory", "labeler": True, "fit": False, "saw_labels": False}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, True),
        ({"precompute": {"together": False}}, False),
        ({"precompute": {"device": "cuda"}}, False),
        ({"precompute": {"teacher_cpus": 2.0}}, False),  # while it decodes, one of the two would be idle
        ({"precompute": {"decode_cpus": 4.0}}, False),  # nor while it labels
        ({"precompute": {"decode_cpus": 0.5, "teacher_cpus": 0.5}}, True),
        ({"train": {"threads": 2}}, False),
        ({"teacher": CALLED}, False),
        ({"teacher": CALLED, "precompute": {"together": True}}, True),
        ({"precompute": {"more_teachers": [{"model": "module:factory", "labeler": True}]}}, False),
    ],
)
def test_networks_on_cpus_label_in_turn_where_no_core_is_idle_meanwhile(
    fields: dict[str, dict[str, object]], found: bool
) -> None:
    recipe = build_recipe(fields | {"precompute": {"device": "cpu"} | fields.get("precompute", {})})
    assert labels_in_turn(recipe) is found
    assert [each.what for each in target_demands(recipe, Capacity(8.0, 8.0, ""))] == (
        ["reading", "precompute actors"] if found else ["reading", "decode actors", "teacher actors"]
    )


def test_of_a_cluster_without_nodes_no_memory_is_asked() -> None:
    assert {each.memory for each in target_demands(build_recipe(LARGE), Capacity(8.0, 0.0, ""))} == {0.0}


def test_capacity_is_this_machine_or_what_is_expected() -> None:
    assert known_capacity(build_recipe({"cluster": {"max_cpus": 2}})).cpus == 2
    found = known_capacity(
        build_recipe({"cluster": {"address": "auto", "expect": {"CPU": 64, "GPU": 4}, "max_gpus": 2}})
    )
    assert (found.cpus, found.gpus, found.source) == (64, 2, "cluster.expect")
    assert (
        known_capacity(build_recipe({"cluster": {"address": "auto"}})).source == "not known before the cluster is asked"
    )
