"""Losses on logits against float64 loops written from the published definitions."""

import math

import pytest
import torch

from pipeline.losses import cross_entropy_soft, decoupled_kd, dist, kl_distillation, smooth_labels

B, C = 6, 5


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def zscore(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
    return [(value - mean) / math.sqrt(variance + 1e-4) for value in row]


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    x, y = [v - mean_a for v in a], [v - mean_b for v in b]
    norms = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(v * w for v, w in zip(x, y, strict=True)) / norms


def test_soft_cross_entropy_is_minus_sum_q_log_p() -> None:
    a, q = logits(0), torch.softmax(logits(1), dim=1)
    expected = [
        -sum(qc * math.log(pc) for qc, pc in zip(q_row, softmax(row), strict=True))
        for q_row, row in zip(q.tolist(), a.tolist(), strict=True)
    ]
    assert cross_entropy_soft(a, q).tolist() == pytest.approx(expected, rel=1e-12)


def test_soft_cross_entropy_of_one_hot_labels_is_torchs() -> None:
    a, y = logits(0), torch.tensor([0, 4, 2, 2, 1, 3])
    one_hot = torch.nn.functional.one_hot(y, C).double()
    plain = torch.nn.functional.cross_entropy(a, y, reduction="none")
    torch.testing.assert_close(cross_entropy_soft(a, one_hot), plain)
    smoothed = torch.nn.functional.cross_entropy(a, y, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy_soft(a, smooth_labels(one_hot, 0.1)), smoothed)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("standardize", [False, True])
def test_kl_distillation_is_tau_squared_kl(temperature: float, standardize: bool) -> None:
    student, teacher = logits(2), logits(3)
    expected = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = (zscore(s), zscore(t)) if standardize else (s, t)
        p, q = (softmax([value / temperature for value in row]) for row in (t, s))
        expected.append(temperature**2 * kl(p, q))
    found = kl_distillation(student, teacher, temperature=temperature, standardize=standardize)
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_kd_is_alpha_tckd_plus_beta_nckd(temperature: float) -> None:
    student, teacher = logits(4), logits(5)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    expected = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p_s, p_t = (softmax([value / temperature for value in row]) for row in (s, t))
        tckd = kl([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
        others = [[p[c] / (1 - p[y]) for c in range(C) if c != y] for p in (p_t, p_s)]
        expected.append(temperature**2 * (1.5 * tckd + 8 * kl(*others)))
    found = decoupled_kd(student, teacher, target, alpha=1.5, beta=8.0, temperature=temperature)
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


def test_kd_is_tckd_plus_nckd_weighted_by_the_other_classes() -> None:
    """The identity that names DKD (Zhao et al. 2022, eq. 6)."""
    student, teacher, target = logits(6), logits(7), torch.tensor([3, 1, 2, 0, 4, 4])
    keyed = {"target": target, "temperature": 2.0}
    tckd = decoupled_kd(student, teacher, alpha=1.0, beta=0.0, **keyed)
    nckd = decoupled_kd(student, teacher, alpha=0.0, beta=1.0, **keyed)
    other = 1 - torch.softmax(teacher / 2, dim=1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(tckd + other * nckd, kl_distillation(student, teacher, temperature=2.0))


def test_decoupled_kd_stays_finite_where_the_target_has_all_the_mass() -> None:
    student, teacher = logits(8).float(), logits(9).float()
    teacher[:, 0] += 200
    student = (student + torch.tensor([300.0, 0, 0, 0, 0])).requires_grad_()
    loss = decoupled_kd(student, teacher, torch.zeros(B, dtype=torch.int64), alpha=1.0, beta=8.0, temperature=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_pearson_over_rows_and_columns(temperature: float) -> None:
    student, teacher = logits(10), logits(11)
    p_s = [softmax([value / temperature for value in row]) for row in student.tolist()]
    p_t = [softmax([value / temperature for value in row]) for row in teacher.tolist()]
    inter = 1 - sum(map(pearson, p_s, p_t)) / B
    columns = zip(zip(*p_s, strict=True), zip(*p_t, strict=True), strict=True)
    intra = 1 - sum(pearson(list(a), list(b)) for a, b in columns) / C
    found = dist(student, teacher, beta=2.0, gamma=3.0, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * (2 * inter + 3 * intra), abs=1e-5)


def test_gradients_are_those_of_the_loss() -> None:
    student, teacher, target = logits(12).requires_grad_(), logits(13), torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda a: kl_distillation(a, teacher, temperature=2.0, standardize=True), student)
    assert torch.autograd.gradcheck(lambda a: dist(a, teacher, beta=1.0, gamma=2.0, temperature=2.0), student)
    assert torch.autograd.gradcheck(
        lambda a: decoupled_kd(a, teacher, target, alpha=1.0, beta=2.0, temperature=2.0), student
    )
