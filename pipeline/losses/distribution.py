"""D_l: how well substage l of the student predicts the distribution of the teacher's, from pooled features.

Reconstructed from the abstract of Wang & Tang, arXiv 2307.05201 ("loss based on feature distribution"). Every term has
one linear layer r_l from the student's channels to the teacher's live ones and standardises the teacher by its stored
statistics; they differ in the distance. The parameters live beside the student and are gone at export.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError
from pipeline.losses.features import linear_parameters, probabilistic_transfer, squared_mmd
from pipeline.losses.precision import in_float32

DEAD = 1e-3
VARIANCE_MIN = 1e-3


class DistributionOutput(NamedTuple):
    """loss: D_l, (); r2: R²_l = 1 - MSE_l on standardised live channels, (), detached."""

    loss: Tensor
    r2: Tensor


class DistributionTerm(nn.Module):
    """What the distances share: r_l, the teacher's standardisation, the live channels, R²_l.

    `mean`, `sd`: (C_t,) from the statistics artefact. Channels with sd < 1e-3 · max sd are dead: they leave D_l,
    C_l and R². InputError where the statistics have another length or every channel is constant.
    """

    live: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        mean: Sequence[float] | Any,
        sd: Sequence[float] | Any,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        mean64, sd64 = (torch.as_tensor(values, dtype=torch.float64) for values in (mean, sd))
        live = live_channels(sd64, teacher_dim)
        self.register_buffer("live", live)
        self.register_buffer("mean", mean64[live].float())
        self.register_buffer("sd", sd64[live].float())
        self.weight, self.bias = linear_parameters(student_dim, len(live), generator)

    @in_float32
    def forward(self, student: Tensor, teacher: Tensor) -> DistributionOutput:
        """Pooled features (B, C_s), raw (B, C_t) → D_l and R²_l of this batch. No gradient reaches the teacher."""
        target = (teacher.detach()[:, self.live] - self.mean) / self.sd
        predicted = F.linear(student, self.weight, self.bias)
        mse_C = (target - predicted).square().mean(dim=0)
        return DistributionOutput(self.distance(predicted, target, mse_C), 1 - mse_C.detach().mean())

    def distance(self, predicted: Tensor, target: Tensor, mse: Tensor) -> Tensor:
        """() from r_l(z^S) (B, C), ẑ^T (B, C) and their mean squared error per channel (C,); one per subclass."""
        return mse.mean()


class GaussianPredictor(DistributionTerm):
    """VID (Ahn et al., CVPR 2019, eq. 4–5) on pooled standardised features: the negative log density, per channel.

    D_l = (1/C_l) Σ_c ½ [mean_i (ẑ^T_ic - r_l(z^S_i)_c)² / v_c + log v_c], v = softplus(ρ) + 1e-3, v = 1 at the start.
    It may be negative, and is at least ½ log 1e-3 = -3.45.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        mean: Sequence[float] | Any,
        sd: Sequence[float] | Any,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(student_dim, teacher_dim, mean, sd, generator=generator)
        start = torch.tensor(1 - VARIANCE_MIN, dtype=torch.float64).expm1().log().float()
        self.rho = nn.Parameter(start.repeat(len(self.bias)))

    @property
    def variance(self) -> Tensor:
        """v, (C,) of the live channels."""
        return F.softplus(self.rho) + VARIANCE_MIN

    def distance(self, predicted: Tensor, target: Tensor, mse: Tensor) -> Tensor:
        return 0.5 * (mse / self.variance + self.variance.log()).mean()


class MomentMatching(DistributionTerm):
    """Mean over channels of (mean_S - mean_T)² + (sd_S - sd_T)², batch moments of r_l(z^S) and ẑ^T, sd = √(var + 1e-6).

    The first two central moments of CMD (Zellinger et al., ICLR 2017, eq. 6), unweighted, squared.
    """

    def distance(self, predicted: Tensor, target: Tensor, mse: Tensor) -> Tensor:
        (mean_s, sd_s), (mean_t, sd_t) = _moments(predicted), _moments(target)
        return ((mean_s - mean_t).square() + (sd_s - sd_t).square()).mean()


class PolynomialMMD(DistributionTerm):
    """MMD² with the kernel (x·y)² of NST (Huang & Wang 2017) between the unit rows of r_l(z^S) and of ẑ^T."""

    def distance(self, predicted: Tensor, target: Tensor, mse: Tensor) -> Tensor:
        return squared_mmd(F.normalize(predicted, dim=1), F.normalize(target, dim=1))


class ProbabilisticTransfer(DistributionTerm):
    """PKT (Passalis & Tefas, ECCV 2018) between r_l(z^S) and ẑ^T."""

    def distance(self, predicted: Tensor, target: Tensor, mse: Tensor) -> Tensor:
        return probabilistic_transfer(predicted, target)


DISTRIBUTIONS: dict[str, type[DistributionTerm]] = {
    "gaussian": GaussianPredictor,
    "moments": MomentMatching,
    "mmd": PolynomialMMD,
    "pkt": ProbabilisticTransfer,
}


def distribution_term(
    name: str,
    student_dim: int,
    teacher_dim: int,
    mean: Sequence[float] | Any,
    sd: Sequence[float] | Any,
    *,
    generator: torch.Generator | None = None,
) -> DistributionTerm:
    """The term called `name` (gaussian, moments, mmd, pkt) for one substage; ConfigError for another name."""
    if name not in DISTRIBUTIONS:
        raise ConfigError(f"distribution is {name!r}; a term is one of {', '.join(DISTRIBUTIONS)}")
    return DISTRIBUTIONS[name](student_dim, teacher_dim, mean, sd, generator=generator)


def live_channels(sd: Tensor, teacher_dim: int) -> Tensor:
    """Indices (int64) of the channels with sd ≥ 1e-3 · max sd, from sd (C_t,) float64."""
    if sd.shape != (teacher_dim,):
        raise InputError(
            f"statistics of {sd.numel()} channels for a substage of {teacher_dim}: they belong to another teacher; "
            "make them from the targets that this job reads"
        )
    live = (sd >= DEAD * sd.max()) & (sd > 0)
    if not live.any():
        raise InputError(
            "a substage of the teacher is constant over all training views: nothing to predict; set lambda_dist to 0 "
            "or cut the teacher elsewhere"
        )
    return live.nonzero()[:, 0]


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(values, dim=0, correction=0)
    return mean, (variance + 1e-6).sqrt()
