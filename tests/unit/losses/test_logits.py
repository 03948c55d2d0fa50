"""Losses on logits: shapes, precision, degenerate inputs, and whom a gradient reaches."""

import warnings

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.losses import cross_entropy_soft, decoupled_kd, dist, kl_distillation, smooth_labels

TARGET = torch.tensor([0, 1, 2, 3])


def logits(seed: int, classes: int = 6) -> torch.Tensor:
    return 3 * torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))


LOSSES = {
    "kl": lambda s, t: kl_distillation(s, t, temperature=2.0),
    "kl standardised": lambda s, t: kl_distillation(s, t, temperature=2.0, standardize=True),
    "dkd": lambda s, t: decoupled_kd(s, t, TARGET, alpha=1.0, beta=8.0, temperature=4.0),
    "dist": lambda s, t: dist(s, t, beta=1.0, gamma=1.0, temperature=2.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    LOSSES[name](student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", LOSSES)
def test_equal_logits_give_zero_and_no_gradient(name: str) -> None:
    student = logits(0).requires_grad_()
    loss = LOSSES[name](student, student.detach().clone()).sum()
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_constant_student_logits_do_not_explode(name: str) -> None:
    student = torch.full((4, 6), 0.7).requires_grad_()
    loss = LOSSES[name](student, logits(1)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_and_autocast_compute_in_float32(name: str) -> None:
    student, teacher = logits(0).bfloat16(), logits(1).half()
    expected = LOSSES[name](student.float(), teacher.float())
    assert LOSSES[name](student, teacher).dtype == torch.float32
    assert torch.equal(LOSSES[name](student, teacher), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES[name](student.float(), teacher.float()), expected)


def test_one_value_per_sample_or_one_for_the_batch() -> None:
    student, teacher = logits(0), logits(1)
    assert [LOSSES[name](student, teacher).shape for name in LOSSES] == [(4,), (4,), (4,), ()]
    assert cross_entropy_soft(student, torch.softmax(teacher, dim=1)).shape == (4,)


@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_standardisation_forgets_shift_and_scale(shift: float, scale: float) -> None:
    plain = kl_distillation(logits(0), logits(1), temperature=2.0, standardize=True)
    moved = kl_distillation(logits(0) * scale + shift, logits(1), temperature=2.0, standardize=True)
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 2])
def test_two_classes_standardised_are_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match=r"no signal with \d classes: set standardize to false"):
        kl_distillation(logits(0, classes), logits(1, classes), temperature=2.0, standardize=True)
    if classes == 2:
        assert kl_distillation(logits(0, 2), logits(1, 2), temperature=2.0).shape == (4,)


@pytest.mark.parametrize("classes", [3, 4])
def test_few_classes_standardised_are_warned_about(classes: int) -> None:
    with pytest.warns(UserWarning, match=f"only {classes} classes"):
        kl_distillation(logits(0, classes), logits(1, classes), temperature=2.0, standardize=True)


def test_five_classes_or_plain_kd_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kl_distillation(logits(0, 5), logits(1, 5), temperature=2.0, standardize=True)
        kl_distillation(logits(0, 3), logits(1, 3), temperature=2.0)


def test_dist_of_a_row_that_is_constant_counts_as_uncorrelated() -> None:
    student, teacher = logits(0).double(), logits(1).double()
    student[2] = 1.0
    alone = dist(student[[0, 1, 3]], teacher[[0, 1, 3]], beta=1.0, gamma=0.0, temperature=1.0)
    # three rows of mean distance `alone` and one of distance 1
    assert dist(student, teacher, beta=1.0, gamma=0.0, temperature=1.0).item() == pytest.approx((3 * alone + 1) / 4)


def test_smoothed_labels_stay_on_the_simplex() -> None:
    q = smooth_labels(torch.eye(4), 0.1)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(4))
    assert q[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert torch.equal(smooth_labels(torch.eye(4), 0.0), torch.eye(4))
