"""Published feature losses that serve as baselines; the teacher comes second and never receives a gradient.

Pooled features are (B, C); maps are (B, C, T, H, W), brought to the smaller extent per axis by average pooling where
they differ, as the published image code does for H and W.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses.precision import in_float32


@in_float32
def similarity_preserving(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """SP (Tung & Mori, ICCV 2019, eq. 4): ‖G_T - G_S‖²_F / B², G the row-normalised z z^T. (B, C_s), (B, C_t) → ()."""
    student, teacher = _gram_rows(student_features), _gram_rows(teacher_features.detach())
    return (teacher - student).square().sum() / len(student) ** 2


@in_float32
def relational_distance(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """RKD distance (Park et al., CVPR 2019, eq. 5–7): Huber between pair distances, each over its mean.

    (B, C_s), (B, C_t) → (); the mean runs over all B² pairs, the diagonal's zeros included (the authors' code).
    """
    return F.smooth_l1_loss(_pair_distances(student_features), _pair_distances(teacher_features.detach()))


@in_float32
def relational_angle(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """RKD angle (Park et al., CVPR 2019, eq. 8–10): Huber between cosines of the angles that triples form.

    (B, C_s), (B, C_t) → (); the mean runs over all B³ triples (the authors' code).
    """
    return F.smooth_l1_loss(_triple_angles(student_features), _triple_angles(teacher_features.detach()))


@in_float32
def probabilistic_transfer(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """PKT (Passalis & Tefas, ECCV 2018, eq. 4–7): KL between rows of (cosine + 1)/2 brought to sum 1.

    (B, C_s), (B, C_t) → (); mean over all B² entries and ε = 1e-7 as in the authors' code.
    """
    student, teacher = _neighbours(student_features), _neighbours(teacher_features.detach())
    return (teacher * torch.log((teacher + 1e-7) / (student + 1e-7))).mean()


@in_float32
def attention_transfer(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """AT (Zagoruyko & Komodakis, ICLR 2017, eq. 2, p = 2): mean squared difference of unit attention maps.

    (B, C_s, T, H, W), (B, C_t, T', H', W') → (); the attention of a place is the mean of squares over channels.
    """
    student, teacher = _common_extent(student_map, teacher_map.detach())
    return (_attention(student) - _attention(teacher)).square().mean()


@in_float32
def neuron_selectivity(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """NST (Huang & Wang 2017, eq. 8): MMD² with (x·y)² between channels, each a unit vector over places; mean over B.

    (B, C_s, T, H, W), (B, C_t, T', H', W') → ().
    """
    student, teacher = _common_extent(student_map, teacher_map.detach())
    student, teacher = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    return squared_mmd(student, teacher)


def squared_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD² with the kernel (x·y)² between the rows of (…, N, D) and (…, M, D), mean over leading axes → ()."""
    within = [_kernel_mean(points, points) for points in (teacher, student)]
    return within[0] + within[1] - 2 * _kernel_mean(student, teacher)


@in_float32
def fitnet_hint(regressed: Tensor, teacher: Tensor) -> Tensor:
    """FitNet hint (Romero et al., ICLR 2015, eq. 3): mean squared error of the regressed student, equal shapes → ().

    The published ½‖·‖² sums over entries; the mean keeps λ independent of the size, as later code does.
    """
    return F.mse_loss(regressed, teacher.detach())


class HintRegressor(nn.Module):
    """r of FitNet: 1×1×1 convolution from C_s to C_t channels, then maps of a common extent; pooled (B, C) works too.

    `forward(student, teacher)` is the hint loss. Drawn from its own `generator`: no other stream moves.
    """

    def __init__(self, student_dim: int, teacher_dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight, self.bias = linear_parameters(student_dim, teacher_dim, generator)

    @in_float32
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.dim() > 2:
            student, teacher = _common_extent(student, teacher)
        regressed = F.linear(student.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)
        return fitnet_hint(regressed, teacher)


def linear_parameters(
    inputs: int, outputs: int, generator: torch.Generator | None
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (outputs, inputs) uniform in ±1/√inputs, bias 0, drawn from `generator` and from nothing else."""
    bound = inputs**-0.5
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight), nn.Parameter(torch.zeros(outputs))


def _gram_rows(z: Tensor) -> Tensor:
    z = z.flatten(1)
    return F.normalize(z @ z.T, dim=1)


def _pair_distances(z: Tensor) -> Tensor:
    squares = z.square().sum(dim=1)
    distance = (squares[:, None] + squares[None, :] - 2 * z @ z.T).clamp_min(1e-12).sqrt()
    distance = distance * (1 - torch.eye(len(z), dtype=z.dtype, device=z.device))
    return distance / (distance.sum() / (distance > 0).sum().clamp_min(1))


def _triple_angles(z: Tensor) -> Tensor:
    edges = F.normalize(z[None, :, :] - z[:, None, :], dim=2)
    return torch.bmm(edges, edges.transpose(1, 2))


def _neighbours(z: Tensor) -> Tensor:
    unit = z / (z.norm(dim=1, keepdim=True) + 1e-7)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def _attention(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.transpose(-1, -2)).square().mean()


def _common_extent(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    extent = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return _pooled(student, extent), _pooled(teacher, extent)


def _pooled(maps: Tensor, extent: Any) -> Tensor:
    return maps if tuple(maps.shape[2:]) == extent else F.adaptive_avg_pool3d(maps, extent)
