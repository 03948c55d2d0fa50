"""The global batch from the ranks' local ones, with a gradient: relational losses compare all samples of a step.

Every rank gathers, every rank computes the full loss, DistributedDataParallel averages the parameters' gradients: no
world-size factor anywhere. With L the loss that each of N ranks holds, the backward of the gather sums dL/dz over
ranks, which is N dL/dz of the own slice, and DDP's mean divides by N. Keeping only the own slice's gradient, as
`torch.distributed.all_gather` followed by a copy does, would give 1/N of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.losses.precision import widen


def gather_batch(tensors: Sequence[Tensor], group: Any = None) -> list[Tensor]:
    """Each (b, C_k) of `tensors` as (world · b, C_k), rank after rank, in one collective forward and one backward.

    All ranks call it with equal shapes (equal local batches). Half precision is widened to float32 first. Without an
    initialised process group, or alone in it, the tensors come back as they are.
    """
    wide = [widen(tensor) for tensor in tensors]
    if not wide or _world(group) == 1:
        return wide
    joined = _AllGather.apply(torch.cat(wide, dim=1), group)
    return list(joined.split([tensor.shape[1] for tensor in wide], dim=1))


def average_over_ranks(value: Tensor, group: Any = None) -> Tensor:
    """The mean of `value` over ranks, without a gradient: for logged figures and weights that all ranks must share."""
    world = _world(group)
    if world == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM, group=group)
    return total / world


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.rows = group, local.shape[0]
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(_world(group))]
        dist.all_gather(parts, local.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=ctx.group)
        start = dist.get_rank(ctx.group) * ctx.rows
        return total[start : start + ctx.rows], None


def _world(group: Any) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
