"""Labeler: one shape for the network, the same bits however many rows come, halving when memory runs out."""

import logging

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, JobError
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.targets.labeler import Labeler

B, SHAPE = 6, (4, 16, 16, 3)
NAMES = ["logits", "substage_1", "substage_2", "substage_3", "substage_4"]


def network(norm: str = "batch"):
    spec = NetworkSpec("compact", classes=("a", "b", "c"), options={"norm": norm})
    return build_network(spec, seed=1)


def raster(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def teacher():
    torch.set_num_threads(1)
    return network()


def seen_shapes(labeler: Labeler) -> list[int]:
    """Rows of each forward from now on."""
    shapes: list[int] = []
    labeler.network.register_forward_pre_hook(lambda module, inputs: shapes.append(len(inputs[0])))
    return shapes


def test_names_shapes_and_types(teacher) -> None:
    found = Labeler(teacher, B)(raster(2))
    assert list(found) == NAMES
    assert [values.shape for values in found.values()] == [(2, 3), (2, 4), (2, 8), (2, 16), (2, 16)]
    assert {values.dtype for values in found.values()} == {np.dtype("float32")}


def test_a_row_has_the_same_bits_however_many_come_with_it(teacher) -> None:
    labeler = Labeler(teacher, B)
    whole = labeler(raster(B))
    for n in range(1, B + 1):
        part = labeler(raster(B)[:n])
        assert all(np.array_equal(part[name], whole[name][:n]) for name in NAMES)


def test_a_failed_slot_leaves_its_neighbours_alone(teacher) -> None:
    labeler, clips = Labeler(teacher, B), raster(B)
    whole = labeler(clips)
    clips[2] = 0
    holed = labeler(clips)
    good = [0, 1, 3, 4, 5]
    assert all(np.array_equal(holed[name][good], whole[name][good]) for name in NAMES)
    assert not np.array_equal(holed["logits"][2], whole["logits"][2])


def test_values_are_the_networks_own_in_eval_mode() -> None:
    model = network().train()
    found = Labeler(model, B)(raster(B))
    assert not model.training
    with torch.no_grad():
        expected = model(torch.from_numpy(raster(B)))
    assert np.array_equal(found["logits"], expected.logits.numpy())
    assert np.array_equal(found["substage_3"], expected.features[2].numpy())


def test_labelling_changes_nothing_in_the_network(teacher) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    Labeler(teacher, B)(raster(3))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_every_forward_has_the_planned_slots() -> None:
    labeler = Labeler(network(), B)
    shapes = seen_shapes(labeler)
    for n in (1, 4, B):
        labeler(raster(n))
    assert shapes == [B, B, B]


def test_no_rows_give_empty_arrays_without_a_forward() -> None:
    labeler = Labeler(network(), B)
    shapes = seen_shapes(labeler)
    found = labeler(raster(0))
    assert {name: values.shape for name, values in found.items()} == {
        name: values.shape for name, values in labeler.empty().items()
    }
    assert found["substage_2"].shape == (0, 8)
    assert shapes == []


def test_a_read_only_raster_is_taken_as_it_is(teacher) -> None:
    clips = raster(2)
    clips.setflags(write=False)
    assert np.array_equal(Labeler(teacher, B)(clips)["logits"], Labeler(teacher, B)(raster(2))["logits"])


@pytest.mark.parametrize("wrong", [raster(B + 1), raster(2).astype(np.float32), raster(2)[0]])
def test_a_raster_that_cannot_be_is_refused(teacher, wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        Labeler(teacher, B)(wrong)


def test_a_network_set_back_to_training_is_noticed() -> None:
    labeler = Labeler(network(), B)
    labeler.network.train()
    with pytest.raises(AssertionError, match="training mode"):
        labeler(raster(1))


def test_low_precision_runs_under_autocast_and_gives_float32(teacher) -> None:
    exact, rough = Labeler(teacher, B)(raster(B)), Labeler(teacher, B, dtype="bfloat16")(raster(B))
    assert rough["logits"].dtype == np.float32
    assert not np.array_equal(rough["logits"], exact["logits"])
    np.testing.assert_allclose(rough["logits"], exact["logits"], atol=0.05)


def test_an_unknown_dtype_is_refused(teacher) -> None:
    with pytest.raises(ConfigError, match="float32, float16, bfloat16"):
        Labeler(teacher, B, dtype="int8")


def out_of_memory_above(labeler: Labeler, fits: int) -> list[int]:
    """From now on forwards of more than `fits` rows run out of memory; the rows of each try."""
    tries: list[int] = []

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        tries.append(len(inputs[0]))
        if len(inputs[0]) > fits:
            raise torch.OutOfMemoryError("no memory left (test)")

    labeler.network.register_forward_pre_hook(hook)
    return tries


def test_out_of_memory_halves_for_good(caplog: pytest.LogCaptureFixture) -> None:
    whole = Labeler(network(), B)(raster(5))
    labeler = Labeler(network(), B)
    tries = out_of_memory_above(labeler, fits=2)
    with caplog.at_level(logging.WARNING):
        found = labeler(raster(5))
    assert tries == [6, 3, 2, 2, 2]
    assert (labeler.slots, labeler.batch) == (6, 2)
    assert [record.args for record in caplog.records] == [(6, 3), (6, 2)]
    for name in NAMES:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-4, atol=1e-5)
    labeler(raster(3))
    assert tries[5:] == [2, 2]


def test_one_clip_that_does_not_fit_fails_the_job() -> None:
    labeler = Labeler(network(), B)
    out_of_memory_above(labeler, fits=0)
    with pytest.raises(JobError, match="one clip alone"):
        labeler(raster(1))


def test_a_compiled_teacher_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile captures, without the half minute that inductor takes for its kernels."""
    from torch._dynamo.utils import counters

    compile_for_real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **how: compile_for_real(module, backend="eager", **how))

    teacher = build_network(NetworkSpec("compact", ("a", "b", "c"), {"widths": [4], "strides": [2]}), seed=1)
    plain, compiled = Labeler(teacher, 2), Labeler(teacher, 2, compiled=True)
    counters.clear()
    for count in (1, 2):
        found, expected = compiled(raster(count)), plain(raster(count))
        assert list(found) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    # It was captured, and once: there is one shape, however many rows come.
    assert counters["stats"]["calls_captured"] > 0
    assert not counters["recompiles"]
