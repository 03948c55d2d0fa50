"""L_corr and L_comb: invariances, degenerate batches, groups."""

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.losses import (
    combination_groups,
    combination_losses,
    combined_correlation,
    correlation_losses,
    relation_rows,
    substage_correlation,
)


def features(seed: int, rows: int = 16, channels: int = 12) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


def rotation(size: int, seed: int = 9) -> torch.Tensor:
    return torch.linalg.qr(features(seed, size, size))[0]


STUDENT, TEACHER = features(0), features(1, channels=20)


def test_unchanged_by_rotation_scale_and_shift_of_either_side() -> None:
    plain = substage_correlation(STUDENT, TEACHER)
    assert plain > 0.5
    moved = substage_correlation(0.01 * STUDENT @ rotation(12) + 3, 40 * TEACHER @ rotation(20) - 1)
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-5)


def test_unchanged_by_the_order_of_the_samples() -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        substage_correlation(STUDENT[order], TEACHER[order]), substage_correlation(STUDENT, TEACHER), rtol=0, atol=1e-6
    )
    assert abs(substage_correlation(STUDENT[order], TEACHER) - substage_correlation(STUDENT, TEACHER)) > 1e-3


def test_equal_features_give_nothing_and_no_gradient() -> None:
    student = STUDENT.clone().requires_grad_()
    for loss in (
        substage_correlation(student, 3 * STUDENT @ rotation(12)),
        combined_correlation([student, 2 * student], [STUDENT @ rotation(12), STUDENT]),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        assert 0 <= loss.item() < 1e-6
        assert gradient.abs().max() < 1e-5


def test_opposite_relations_read_above_one() -> None:
    z = torch.zeros(8, 2)
    z[:4, 0], z[4:, 0] = 1, -1  # the student sees halves, the teacher odd and even
    z[::2, 1], z[1::2, 1] = 1, -1
    assert substage_correlation(z[:, :1], z[:, 1:]).item() > 1.0


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    (substage_correlation(student, teacher) + combined_correlation([student], [teacher])).backward()
    assert student.grad.abs().max() > 1e-4
    assert teacher.grad is None


def test_a_global_batch_under_eight_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8, got 7"):
        substage_correlation(STUDENT[:7], TEACHER[:7])
    assert torch.isfinite(substage_correlation(STUDENT[:8], TEACHER[:8]))


@pytest.mark.parametrize("dead", [torch.zeros(16, 12), torch.full((16, 12), 1e3), torch.full((16, 12), 1e-30)])
def test_a_collapsed_student_gives_zero_with_a_whole_graph(dead: torch.Tensor) -> None:
    student = dead.clone().requires_grad_()
    loss = substage_correlation(student, TEACHER)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros(16, 12))


@pytest.mark.parametrize(("distinct", "counts"), [(3, False), (4, True)])
def test_fewer_than_four_valid_samples_give_zero(distinct: int, counts: bool) -> None:
    student = torch.zeros(16, 12)
    student[:distinct] = STUDENT[:distinct]
    student[:distinct] -= student[:distinct].mean(dim=0)  # the other samples sit at the mean
    assert (substage_correlation(student, TEACHER).item() > 0.1) is counts


def test_similarities_that_are_all_equal_do_not_explode() -> None:
    """A regular simplex has rows of R that are 0 up to rounding: they must not be compared."""
    student = (torch.eye(16) @ rotation(16)).requires_grad_()
    substage_correlation(student, features(1)).backward()
    assert student.grad.norm() < 10


def test_a_nan_stays_visible() -> None:
    for side in range(2):
        pair = [STUDENT.clone(), TEACHER.clone()]
        pair[side][3, 2] = float("nan")
        rows = relation_rows([pair[0]] * 2, [pair[1]] * 2)
        assert torch.isnan(correlation_losses(rows)).all()
        assert torch.isnan(combination_losses(rows, [(1, 2)])).all()


def test_half_precision_and_autocast_compute_in_float32() -> None:
    expected = substage_correlation(STUDENT.half().float(), TEACHER.half().float())
    assert torch.equal(substage_correlation(STUDENT.half(), TEACHER.half()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(substage_correlation(STUDENT.half(), TEACHER.half()), expected)
        rows = relation_rows([STUDENT, STUDENT], [TEACHER, TEACHER])
        assert combination_losses(rows, [(1, 2)]).dtype == torch.float32


def test_a_collapsed_substage_does_not_change_its_group() -> None:
    alive = combined_correlation([STUDENT], [TEACHER])
    dead = torch.full((16, 5), 2.0)
    torch.testing.assert_close(combined_correlation([STUDENT, dead], [TEACHER, features(2)]), alive)


def test_a_group_of_one_is_the_correlation_of_that_substage() -> None:
    rows = relation_rows([STUDENT, features(3)], [TEACHER, features(4)])
    torch.testing.assert_close(combination_losses(rows, [(1,), (2,)]), correlation_losses(rows))


def test_groups_name_substages_also_where_the_rows_start_later() -> None:
    students, teachers = [features(seed) for seed in range(4)], [features(seed) for seed in range(4, 8)]
    whole = combination_losses(relation_rows(students, teachers), [(3, 4)])
    late = combination_losses(relation_rows(students[2:], teachers[2:], first=3), [(3, 4)])
    torch.testing.assert_close(late, whole)
    with pytest.raises(AssertionError, match="not within"):
        combination_losses(relation_rows(students[2:], teachers[2:], first=3), [(2, 3)])


@pytest.mark.parametrize(
    ("combinations", "groups"),
    [
        ("none", ()),
        ("cumulative", ((1, 2), (1, 2, 3))),
        ("pairs", ((1, 2), (1, 3), (2, 3))),
        ("all", ((1, 2), (1, 3), (2, 3), (1, 2, 3))),
        ([[1, 3], (2, 3)], ((1, 3), (2, 3))),
    ],
)
def test_combinations_of_three_substages(combinations: object, groups: tuple) -> None:
    assert combination_groups(combinations, 3) == groups


@pytest.mark.parametrize("wrong", ["every", [[1]], [[1, 1]], [[0, 1]], [[1, 4]], [[]]])
def test_wrong_combinations_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="combinations"):
        combination_groups(wrong, 3)
