"""Relations between the samples of a batch, per substage and for combinations of substages: L_corr and L_comb.

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201: "correlation of corresponding substages" and
"combination of student substages". The equations are those of SP (Tung & Mori, ICCV 2019) with the centring of CKA
(Kornblith et al., ICML 2019), the cosine of PKT (Passalis & Tefas, ECCV 2018) and rows compared by Pearson correlation.

Shapes: B samples of the global batch, C channels, L substages, G groups. Substages are numbered from 1.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.losses.precision import in_float32

MIN_BATCH = 8
MIN_VALID = 4
SAMPLE_FLOOR = 1e-5
# Four units in the last place of what the features were held in: below it their differences are rounding. Of half
# floats a spread of 1e-3 of the mean keeps L_corr within .05, one of 1e-4 tells nothing.
HALF_FLOOR = 4 * 2.0**-11
PRECISION_FLOOR = {
    torch.float64: SAMPLE_FLOOR,
    torch.float32: SAMPLE_FLOOR,
    torch.float16: HALF_FLOOR,
    torch.bfloat16: 4 * 2.0**-8,
}
# Rounding alone gives rows of 4e-7 in float32 where all similarities are equal; comparing them is gradients of 2e6.
ROW_FLOOR = {torch.float64: 1e-8, torch.float32: 1e-5}

Group = tuple[int, ...]


class RelationRows(NamedTuple):
    """Unit rows of R_l of both networks, computed once for L_corr and L_comb.

    student_LBB, teacher_LBB: each row of norm 1, or 0 where the sample is left out; live_LB: which rows count;
    anchor_L: 0 · Σ z_l, which keeps the graph whole (and a NaN visible) where nothing counts; first: number of the
    first substage.
    """

    student_LBB: Tensor
    teacher_LBB: Tensor
    live_LB: Tensor
    anchor_L: Tensor
    first: int


@in_float32
def relation_rows(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    first: int = 1,
    floors: tuple[float, float] = (SAMPLE_FLOOR, SAMPLE_FLOOR),
) -> RelationRows:
    """The rows of R_l for L substages, inputs L × (B, C_s,l) and L × (B, C_t,l), the same samples in the same order.

        u = rownorm(z - mean_B z),  S = u u^T,  R[i,j] = S[i,j] - mean_{k≠i} S[i,k]  (j ≠ i)

    A sample with ‖z - mean‖ < ε mean‖z‖ in either network leaves both matrices, ε of student and teacher in `floors`:
    1e-5 for float32, `PRECISION_FLOOR` for features that were held in less. Fewer than 4 valid samples leave none; rows
    of norm < 1e-8 (1e-5 in float32) do not count. ConfigError for a global batch under 8.
    """
    assert len(student_features) == len(teacher_features), "one teacher substage per student substage"
    _check_batch(student_features[0].shape[0])
    teacher_features = [features.detach() for features in teacher_features]
    student_u, student_valid = _directions(student_features, floors[0])
    teacher_u, teacher_valid = _directions(teacher_features, floors[1])
    valid_LB = student_valid & teacher_valid
    valid_LB = valid_LB & (valid_LB.sum(dim=1, keepdim=True) >= MIN_VALID)
    student_LBB, student_norm = _rows(student_u, valid_LB)
    teacher_LBB, teacher_norm = _rows(teacher_u, valid_LB)
    live_LB = valid_LB & _counts(student_norm, teacher_norm)
    anchor_L = torch.stack([0.0 * (s.sum() + t.sum()) for s, t in zip(student_features, teacher_features, strict=True)])
    return RelationRows(
        _unit(student_LBB, student_norm, live_LB), _unit(teacher_LBB, teacher_norm, live_LB), live_LB, anchor_L, first
    )


@in_float32
def correlation_losses(rows: RelationRows) -> Tensor:
    """L_corr,l = mean over live rows of 1 - cos(R^T_l[i], R^S_l[i]), (L,) in [0, 2]; 0 · z.sum() where none is live."""
    return _mean_distance(rows.student_LBB, rows.teacher_LBB, rows.live_LB) + rows.anchor_L


@in_float32
def combination_losses(rows: RelationRows, groups: Sequence[Group]) -> Tensor:
    """L_comb,g for groups of substage numbers, (G,): the row distance of R_g = mean over l in g of R_l, unit rows.

    Rows have unit norm before the mean, so that a collapsed substage cannot dominate: it drops out of both networks'
    mean and the rest of its group goes on.
    """
    members_GL = _membership(groups, rows)
    student_GBB, student_norm = _combine(members_GL, rows.student_LBB)
    teacher_GBB, teacher_norm = _combine(members_GL, rows.teacher_LBB)
    live_GB = _counts(student_norm, teacher_norm)
    student_GBB, teacher_GBB = _unit(student_GBB, student_norm, live_GB), _unit(teacher_GBB, teacher_norm, live_GB)
    return _mean_distance(student_GBB, teacher_GBB, live_GB) + members_GL @ rows.anchor_L


def substage_correlation(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """L_corr of one substage, (B, C_s), (B, C_t) → (); see `relation_rows` and `correlation_losses`."""
    return correlation_losses(relation_rows([student_features], [teacher_features]))[0]


def combined_correlation(student_list: Sequence[Tensor], teacher_list: Sequence[Tensor]) -> Tensor:
    """L_comb of one group, lists of (B, C_l) → (); see `relation_rows` and `combination_losses`."""
    group = tuple(range(1, len(student_list) + 1))
    return combination_losses(relation_rows(student_list, teacher_list), [group])[0]


def combination_groups(combinations: str | Sequence[Sequence[int]], substages: int) -> tuple[Group, ...]:
    """The groups that a recipe's `combinations` means for L substages, numbered from 1.

    `none`; `cumulative`: {1,2}, {1,2,3}, …; `pairs`: every two; `all`: every set of two or more; or an explicit list.
    ConfigError for another name and for a group that is empty, single, repeated within itself or out of range.
    """
    numbers = range(1, substages + 1)
    if isinstance(combinations, str):
        return _named_groups(combinations, numbers)
    groups = tuple(tuple(group) for group in combinations)
    for group in groups:
        if len(group) < 2 or len(set(group)) != len(group) or not set(group) <= set(numbers):
            raise ConfigError(
                f"combinations: {list(group)} is no group of two or more different substages between 1 and {substages}"
            )
    return groups


def _named_groups(name: str, numbers: range) -> tuple[Group, ...]:
    if name == "none":
        return ()
    if name == "cumulative":
        return tuple(tuple(numbers[:size]) for size in range(2, len(numbers) + 1))
    if name == "pairs":
        return tuple(itertools.combinations(numbers, 2))
    if name == "all":
        sizes = range(2, len(numbers) + 1)
        return tuple(group for size in sizes for group in itertools.combinations(numbers, size))
    raise ConfigError(f"combinations is {name!r}; allowed are none, cumulative, pairs, all or a list of groups")


def _check_batch(size: int) -> None:
    if size < MIN_BATCH:
        raise ConfigError(
            f"relational losses need a global batch of at least {MIN_BATCH}, got {size}: raise the batch size, or set "
            "lambda_corr and lambda_comb to 0"
        )


def _directions(features: Sequence[Tensor], floor: float) -> tuple[list[Tensor], Tensor]:
    pairs = [_direction(z, floor) for z in features]
    return [u for u, _ in pairs], torch.stack([valid for _, valid in pairs])


def _direction(z: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    centred = z - z.mean(dim=0)
    norm = centred.norm(dim=1)
    # Strictly above, so that features that are all zero are invalid too; a NaN compares false.
    valid = norm > floor * z.norm(dim=1).mean()
    # Dividing by 1 instead of by next to nothing: a masked infinity would still give a NaN gradient.
    return centred / torch.where(valid, norm, 1.0)[:, None], valid


def _rows(directions: list[Tensor], valid_LB: Tensor) -> tuple[Tensor, Tensor]:
    similarity_LBB = torch.stack([u @ u.T for u in directions])
    keep_LBB = _off_diagonal(valid_LB)
    others_LB1 = (valid_LB.sum(dim=1) - 1).clamp_min(1)[:, None, None]
    kept_LBB = torch.where(keep_LBB, similarity_LBB, 0.0)
    centred_LBB = torch.where(keep_LBB, kept_LBB - kept_LBB.sum(dim=2, keepdim=True) / others_LB1, 0.0)
    return centred_LBB, centred_LBB.norm(dim=2)


def _off_diagonal(valid_LB: Tensor) -> Tensor:
    both = valid_LB[:, :, None] & valid_LB[:, None, :]
    return both & ~torch.eye(valid_LB.shape[1], dtype=torch.bool, device=valid_LB.device)


def _counts(student_norm: Tensor, teacher_norm: Tensor) -> Tensor:
    floor = ROW_FLOOR[student_norm.dtype]
    return (student_norm >= floor) & (teacher_norm >= floor)


def _unit(rows: Tensor, norm: Tensor, live: Tensor) -> Tensor:
    return torch.where(live[..., None], rows / torch.where(live, norm, 1.0)[..., None], 0.0)


def _mean_distance(student: Tensor, teacher: Tensor, live: Tensor) -> Tensor:
    # ½‖a - b‖² = 1 - a·b for unit rows, and exact near 0 in value and gradient. Rows that do not count are 0 in both.
    return 0.5 * (student - teacher).square().sum(dim=(1, 2)) / live.sum(dim=1).clamp_min(1)


def _membership(groups: Sequence[Group], rows: RelationRows) -> Tensor:
    like = rows.student_LBB
    members = torch.zeros(len(groups), like.shape[0], dtype=like.dtype)
    for index, group in enumerate(groups):
        positions = [number - rows.first for number in group]
        assert set(positions) <= set(range(like.shape[0])), f"group {group} is not within these substages"
        members[index, positions] = 1 / len(group)
    return members.to(like.device)


def _combine(members_GL: Tensor, rows_LBB: Tensor) -> tuple[Tensor, Tensor]:
    combined = (members_GL @ rows_LBB.flatten(1)).unflatten(1, rows_LBB.shape[1:])
    return combined, combined.norm(dim=2)
