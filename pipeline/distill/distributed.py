"""Several ranks as one: the network under DDP, equal extra parameters and equal state everywhere.

The gathered batch is `pipeline.losses.gather`; with world 1 nothing here communicates.
"""

import gc
import logging
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)


def average_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """The mean over ranks of the extra parameters' gradients: they see the gathered batch, so ranks hold the same
    gradient up to the machine's rounding, and must stay the same for ever."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world == 1 or not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, mean in zip(grads, (flat / world).split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def any_rank(flag: bool, world: int, device: torch.device) -> bool:
    """Whether any rank says so; all ranks get the same answer."""
    if world == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device)
    dist.all_reduce(votes)
    return bool(votes.item() > 0)


def first_ranks(values: list[float], world: int, device: torch.device) -> list[float]:
    """Rank 0's numbers on every rank: on an accelerator two ranks may differ in the last place, and what they decide
    by must be one thing."""
    if world == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.tolist()


def from_first_rank(payload: bytes | None, world: int, device: torch.device) -> bytes | None:
    """Rank 0's bytes on every rank, so that resuming needs no file system that all ranks share."""
    if world == 1:
        return payload
    size = torch.tensor([-1 if payload is None else len(payload)], device=device)
    dist.broadcast(size, 0)
    if size.item() < 0:
        return None
    held = bytearray(payload) if payload is not None else bytearray(int(size.item()))
    data = torch.frombuffer(held, dtype=torch.uint8).to(device)
    dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


def wrapped(network: nn.Module, world: int, *, all_used: bool) -> nn.Module:
    """The network as the loop calls it: itself, or under DDP over the parameters that are trained at this moment.

    `all_used=False` where some trained parameter (the head, in a phase without labels) may get no gradient.
    """
    if world == 1:
        return network
    assert dist.is_initialized(), "world > 1 needs an initialised process group"
    gc.collect()  # an earlier wrapping of the same network holds its hooks in reference cycles
    return DistributedDataParallel(network, find_unused_parameters=not all_used)


def synchronised(network: nn.Module, world: int, device: torch.device) -> nn.Module:
    """Batch norm over the global batch where several ranks train on accelerators; torch has none for CPU, where each
    rank then normalises its own rows, with a warning."""
    if world == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if any(isinstance(module, _BatchNorm) and module.training for module in network.modules()):
        log.warning("batch norm over %d CPU workers sees each worker's rows alone; use group norm or one worker", world)
    return network
