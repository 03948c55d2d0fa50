"""What a network costs: parameters, floating-point operations of one clip, latency on this machine."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.network import VideoNetwork


@dataclass(frozen=True)
class Cost:
    """Parameters (count), operations of one forward of one clip (multiply and add counted apart), ms per clip."""

    params: int
    flops: int
    latency_ms: float
    device: str
    repeats: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def cost(
    network: VideoNetwork,
    raster_shape: tuple[int, int, int],
    *,
    repeats: int = 20,
    warmup: int = 3,
    device: str = "cpu",
) -> Cost:
    """Cost of one uint8 clip of `raster_shape` (T, H, W), transform included, in eval mode.

    FLOPs from torch.utils.flop_counter (convolutions and matrix products; 2 per multiply-add). Latency is the median
    of `repeats` forwards of one clip after `warmup`, with one thread on a CPU.
    """
    was_training = network.training
    network.eval().to(device)
    clip = torch.zeros((1, *raster_shape, 3), dtype=torch.uint8, device=device)
    try:
        with torch.inference_mode(), one_thread():
            operations = count_flops(network, clip)
            milliseconds = _median_ms(network, clip, repeats, warmup)
    finally:
        network.train(was_training)
    return Cost(count_parameters(network), operations, milliseconds, device, repeats)


def count_parameters(network: torch.nn.Module) -> int:
    """All parameters, frozen ones included, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: torch.nn.Module, clip: torch.Tensor) -> int:
    """Operations of one forward of `clip` (1, T, H, W, 3) uint8."""
    with FlopCounterMode(display=False) as counter:
        network(clip)
    return int(counter.get_total_flops())


def _median_ms(network: torch.nn.Module, clip: torch.Tensor, repeats: int, warmup: int) -> float:
    for _ in range(warmup):
        network(clip)
    return 1000 * statistics.median(_seconds(network, clip) for _ in range(repeats))


def _seconds(network: torch.nn.Module, clip: torch.Tensor) -> float:
    _wait(clip)
    start = time.perf_counter()
    network(clip)
    _wait(clip)
    return time.perf_counter() - start


def _wait(clip: torch.Tensor) -> None:
    if clip.is_cuda:
        torch.cuda.synchronize(clip.device)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one CPU thread, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
