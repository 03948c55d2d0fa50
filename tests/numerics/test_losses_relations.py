"""L_corr and L_comb against float64 loops written from the equations of the method, and its measured properties."""

import itertools
import math

import pytest
import torch

from pipeline.losses import (
    combination_losses,
    combined_correlation,
    correlation_losses,
    relation_rows,
    substage_correlation,
)

Matrix = list[list[float]]


def features(seed: int, rows: int, channels: int) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


def centred(z: Matrix) -> Matrix:
    means = [sum(column) / len(z) for column in zip(*z, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in z]


def valid_samples(*sides: Matrix) -> list[int]:
    """Samples that are far enough from the mean in every one of `sides`."""
    floors = [1e-5 * sum(map(norm, z)) / len(z) for z in sides]
    distances = [[norm(row) for row in centred(z)] for z in sides]
    return [i for i in range(len(sides[0])) if all(d[i] >= f for d, f in zip(distances, floors, strict=True))]


def relation_matrix(z: Matrix, valid: list[int]) -> dict[int, dict[int, float]]:
    """R[i][j] for valid i ≠ j."""
    u = [[value / norm(row) for value in row] if i in valid else None for i, row in enumerate(centred(z))]
    result: dict[int, dict[int, float]] = {}
    for i in valid:
        row = {j: sum(a * b for a, b in zip(u[i], u[j], strict=True)) for j in valid if j != i}
        mean = sum(row.values()) / len(row)
        result[i] = {j: value - mean for j, value in row.items()}
    return result


def cosine(a: dict[int, float], b: dict[int, float]) -> float:
    dot = sum(a.get(j, 0.0) * b.get(j, 0.0) for j in set(a) | set(b))
    return dot / (norm(list(a.values())) * norm(list(b.values())))


def loop_correlation(student: Matrix, teacher: Matrix) -> float:
    valid = valid_samples(student, teacher)
    r_s, r_t = relation_matrix(student, valid), relation_matrix(teacher, valid)
    return sum(1 - cosine(r_t[i], r_s[i]) for i in valid) / len(valid)


def loop_combination(students: list[Matrix], teachers: list[Matrix]) -> float:
    sums: list[dict[int, dict[int, float]]] = [{}, {}]
    for student, teacher in zip(students, teachers, strict=True):
        valid = valid_samples(student, teacher)
        for total, z in zip(sums, (student, teacher), strict=True):
            for i, row in relation_matrix(z, valid).items():
                length = norm(list(row.values()))
                into = total.setdefault(i, {})
                for j, value in row.items():
                    into[j] = into.get(j, 0.0) + value / length / len(students)
    return sum(1 - cosine(sums[1][i], sums[0][i]) for i in sums[0]) / len(sums[0])


@pytest.mark.parametrize(("rows", "student", "teacher"), [(8, 3, 5), (11, 1, 7), (16, 24, 4)])
def test_correlation_equals_the_loop(rows: int, student: int, teacher: int) -> None:
    z_s, z_t = features(rows, rows, student), features(100 + rows, rows, teacher)
    expected = loop_correlation(z_s.tolist(), z_t.tolist())
    assert float(substage_correlation(z_s, z_t)) == pytest.approx(expected, rel=1e-10)
    assert float(substage_correlation(z_s.float(), z_t.float())) == pytest.approx(expected, abs=2e-6)


def test_samples_at_the_mean_leave_both_matrices() -> None:
    z_s, z_t = features(1, 12, 4), features(2, 12, 6)
    z_s[3] = (z_s.sum(dim=0) - z_s[3]) / 11  # its own removal leaves the mean where it is
    z_t[7] = (z_t.sum(dim=0) - z_t[7]) / 11
    assert valid_samples(z_s.tolist(), z_t.tolist()) == [i for i in range(12) if i not in (3, 7)]
    expected = loop_correlation(z_s.tolist(), z_t.tolist())
    assert float(substage_correlation(z_s, z_t)) == pytest.approx(expected, rel=1e-10)


def test_combination_equals_the_loop_even_with_a_sample_lost_in_one_substage() -> None:
    students = [features(seed, 10, width) for seed, width in ((1, 3), (2, 5), (3, 8))]
    teachers = [features(seed, 10, width) for seed, width in ((4, 6), (5, 2), (6, 9))]
    students[1][4] = (students[1].sum(dim=0) - students[1][4]) / 9
    expected = loop_combination([z.tolist() for z in students], [z.tolist() for z in teachers])
    assert float(combined_correlation(students, teachers)) == pytest.approx(expected, rel=1e-10)


def test_shared_rows_give_what_each_loss_gives_alone() -> None:
    students = [features(seed, 9, width) for seed, width in ((1, 3), (2, 5), (3, 8), (4, 8))]
    teachers = [features(seed, 9, width) for seed, width in ((5, 6), (6, 2), (7, 9), (8, 16))]
    rows = relation_rows(students, teachers)
    alone = [substage_correlation(s, t) for s, t in zip(students, teachers, strict=True)]
    torch.testing.assert_close(correlation_losses(rows), torch.stack(alone), rtol=1e-12, atol=1e-14)
    groups = [*itertools.combinations(range(1, 5), 2), (1, 2, 3, 4)]
    picked = [
        combined_correlation([students[i - 1] for i in group], [teachers[i - 1] for i in group]) for group in groups
    ]
    torch.testing.assert_close(combination_losses(rows, groups), torch.stack(picked), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [8, 16, 32])
def test_independent_features_read_one_at_every_batch_size(rows: int) -> None:
    """Without the row mean they would read .07, .30 and .65 (the method's trial)."""
    values = [
        float(substage_correlation(features(2 * n, rows, 512).float(), features(2 * n + 1, rows, 512).float()))
        for n in range(60)
    ]
    assert sum(values) / len(values) == pytest.approx(1.0, abs=0.04)


def test_gradients_are_those_of_the_loss() -> None:
    z_s, z_t = features(1, 8, 3).requires_grad_(), features(2, 8, 5)
    other_s, other_t = features(3, 8, 4), features(4, 8, 2)
    assert torch.autograd.gradcheck(lambda z: substage_correlation(z, z_t), z_s)
    assert torch.autograd.gradcheck(lambda z: combined_correlation([z, other_s], [z_t, other_t]), z_s)
