"""The invariants of the method (design, §6), on the whole loop and on its objective."""

import numpy as np
import pytest
import torch

from pipeline.distill.live import LiveTeacher
from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData, SourceArrays
from pipeline.distill.objective import DistillationLoss, TensorBatch
from pipeline.distill.phases import plan_phases
from pipeline.distill.spec import Objective
from pipeline.models.network import VideoNetwork
from tests.unit.distill.toys import CLASSES, Recorder, arrays, data, equal_weights, job, trained_teacher

NOTHING_STAGED = {"lambda_corr": 0.0, "lambda_comb": 0.0, "lambda_dist": 0.0}


@pytest.mark.parametrize("schedule", ["progressive", "frozen", "deep_first", "joint"])
def test_staged_without_its_terms_is_kd_bit_for_bit(schedule: str) -> None:
    shared = {"lambda_kd": 3.0, "temperature": 4.0, "steps": 20}
    staged = train(job(method="staged", schedule=schedule, weighting="uncertainty", **NOTHING_STAGED, **shared), data())
    kd = train(job(method="kd", **shared), data())
    assert equal_weights(staged.network, kd.network)
    assert not equal_weights(train(job(**shared), data()).network, kd.network)


def test_kd_of_weight_zero_is_supervised_bit_for_bit() -> None:
    without = train(job(method="kd", lambda_kd=0.0), data())
    assert equal_weights(without.network, train(job(method="supervised"), data(0)).network)


def relational(features: list[torch.Tensor], teacher: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """L_corr and L_comb of the last phase, and what they have in gradient."""
    objective = Objective(lambda_kd=0.0, lambda_dist=0.0, weighting="fixed")
    dims = [feature.shape[1] for feature in features]
    loss = DistillationLoss(
        objective, dims=dims, classes=CLASSES, source_dims=[dims], statistics=[None], mean_weight=0.0, seed=0
    )
    rows = len(features[0])
    empty = torch.zeros(rows, CLASSES)
    batch = TensorBatch(torch.empty(0), empty, torch.zeros(rows), [(empty, teacher)])
    found = loss(None, features, batch, plan_phases("progressive", 100, 0.05, len(dims), objective)[-1], 99)
    gradients = torch.autograd.grad(found.total, features)
    return {**found.parts, "gradient": torch.cat([gradient.flatten() for gradient in gradients]).norm()}


def features(seed: int, rows: int = 16) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, dim, generator=draw, dtype=torch.float64).requires_grad_() for dim in (6, 7, 8, 9)]


def test_equal_features_leave_nothing_to_learn() -> None:
    student = features(0)
    found = relational(student, [feature.detach().clone() for feature in student])
    assert found["corr"] < 1e-6
    assert found["comb"] < 1e-6
    assert found["gradient"] < 1e-6
    apart = relational(student, features(1))
    assert apart["corr"] > 0.5
    assert apart["gradient"] > 0.01


def test_rotation_scaling_and_order_change_nothing() -> None:
    student, teacher = features(0), features(1)
    before = relational(student, teacher)
    turned = []
    for number, feature in enumerate(student):
        rotation = torch.linalg.qr(
            features(5 + number, feature.shape[1])[0]
            .new_empty(0)
            .new_tensor(np.random.default_rng(number).normal(size=(feature.shape[1], feature.shape[1])))
        )[0]
        turned.append((3.7 * feature.detach() @ rotation).requires_grad_())
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    shuffled = [feature.detach()[order].requires_grad_() for feature in student]
    for other in (relational(turned, teacher), relational(shuffled, [feature[order] for feature in teacher])):
        for name in ("corr", "comb"):
            assert float(other[name]) == pytest.approx(float(before[name]), rel=1e-9)


def answers(teacher: VideoNetwork, frames: np.ndarray) -> SourceArrays:
    """Stored float32 targets of all views: one forward for each row."""
    with torch.no_grad():
        outputs = [teacher(torch.from_numpy(row[None])) for row in frames.reshape(-1, *frames.shape[2:])]
    logits = np.concatenate([output.logits.numpy() for output in outputs])
    stored = [np.concatenate([output.features[n].numpy() for output in outputs]) for n in range(len(teacher.dims))]
    statistics = [(values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)) for values in stored]
    return SourceArrays(logits, stored, statistics)


def test_stored_float32_targets_and_a_live_teacher_give_the_same_student() -> None:
    teacher, fields = trained_teacher(norm="batch"), arrays()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    stored = answers(teacher, fields["frames"])
    wanted = job(steps=20, share=0.1)
    from_store = train(wanted, MemoryData.from_arrays(**fields, sources=[stored]))
    from_life = train(wanted, LiveTeacher(MemoryData.from_arrays(**fields), teacher, stored.statistics))
    for name, value in from_store.network.state_dict().items():
        assert torch.allclose(value, from_life.network.state_dict()[name], rtol=0, atol=2e-4), name
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items()), (
        "the teacher learns nothing"
    )
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_half_precision_targets_stay_close_for_ten_steps() -> None:
    teacher, fields = trained_teacher(), arrays()
    stored = answers(teacher, fields["frames"])
    half = SourceArrays(stored.logits.astype("f2"), [f.astype("f2") for f in stored.features], stored.statistics)
    lines = []
    for one in (stored, half):
        recorder = Recorder()
        train(job(steps=10, schedule="joint", lr=1e-3), MemoryData.from_arrays(**fields, sources=[one]), recorder)
        lines.append(recorder.lines)
    for step in range(1, 11):
        assert lines[0][step]["loss"] == pytest.approx(lines[1][step]["loss"], rel=0.02)
    assert lines[0][1]["loss"] == pytest.approx(lines[1][1]["loss"], rel=2e-3)


def test_more_views_and_soft_labels_do_not_touch_the_initialisation() -> None:
    """Same student start whatever the method: compare's arms are paired."""
    barely = {"steps": 4, "lr": 1e-12}
    starts = [
        train(job(method=method, **barely), data()).network.state_dict() for method in ("supervised", "kd", "staged")
    ]
    for name, value in starts[0].items():
        assert all(torch.allclose(value, other[name], atol=1e-9) for other in starts[1:]), name
