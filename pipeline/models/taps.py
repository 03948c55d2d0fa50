"""Taps: where a network is cut into substages, and how an output there becomes a map.

Shapes: B clips, C channels, T×H×W positions, N tokens. Pooled feature z_l (method.md §1): mean of F_l over T, H, W.
Hooks live only for the length of one forward, on this network's own modules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.hints import did_you_mean

Reduced = TypeVar("Reduced")


@dataclass(frozen=True)
class Tap:
    """One cut: the output of the module at `path` (dotted, from the network's body).

    channels_last: the output is (…,H,W,C), not (…,C,H,W). prefix: leading tokens without a position (class token).
    """

    path: str
    channels_last: bool = False
    prefix: int = 0


class _Reached(Exception):
    """Ends a forward at the last tap that was asked for; never leaves this file."""


def check_path(body: nn.Module, path: str, model: str) -> str:
    """`path`, where body has such a module. Raises ConfigError with the nearest known path otherwise."""
    known = [name for name, _ in body.named_modules() if name]
    if path not in known:
        top = ", ".join(name for name, _ in body.named_children())
        hint = did_you_mean(path, known)
        raise ConfigError(f"model {model!r} has no module {path!r} to cut at{hint} (its parts: {top})")
    return path


def run(
    forward: Callable[[Tensor], Tensor],
    modules: Sequence[nn.Module],
    clip: Tensor,
    reduce: Callable[[int, Any], Reduced],
    upto: int | None = None,
) -> tuple[Tensor | None, list[Reduced], list[int]]:
    """forward(clip), with `reduce(index, output)` when modules[index] has run; `upto=p` stops behind modules[p - 1].

    Returns (what forward gave, None where it was stopped; what was reduced; the indices in the order of execution).
    An output is reduced at once, before a later operation in place can change it.
    """
    kept: list[Reduced] = []
    order: list[int] = []

    def keep(index: int, output: Any) -> None:
        order.append(index)
        kept.append(reduce(index, output))
        if index + 1 == upto:
            raise _Reached

    with _hooked(modules, keep):
        try:
            return forward(clip), kept, order
        except _Reached:
            return None, kept, order


@contextmanager
def _hooked(modules: Sequence[nn.Module], keep: Callable[[int, Any], None]) -> Iterator[None]:
    def hook(index: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: keep(index, output)

    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_map(output: Any, tap: Tap, batch: int) -> Tensor:
    """A tapped output of `batch` = B clips as (B,C,T,H,W).

    Understood: (B,C,T,H,W); per frame (B·T,C,H,W); tokens (B,N,C) or (B·T,N,C), or (tokens, (T,H,W)) as MViT gives;
    vectors (B,C) or (B·T,C). Raises ConfigError for any other shape.
    """
    output, grid = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
    if not isinstance(output, Tensor) or not 2 <= output.dim() <= 5 or output.shape[0] % batch:
        raise ConfigError(_not_a_map(output, tap, batch))
    if output.dim() == 5:
        return output.permute(0, 4, 1, 2, 3) if tap.channels_last else output
    if output.dim() == 3:
        return _tokens_as_map(output[:, tap.prefix :].transpose(1, 2), grid, batch)
    if output.dim() == 4 and tap.channels_last:
        output = output.permute(0, 3, 1, 2)
    output = output if output.dim() == 4 else output[..., None, None]
    return output.unflatten(0, (batch, -1)).transpose(1, 2)


def _tokens_as_map(tokens: Tensor, grid: Any, batch: int) -> Tensor:
    if grid is not None:
        return tokens.unflatten(2, tuple(grid))
    return tokens[..., None].unflatten(0, (batch, -1)).transpose(1, 2)


def _not_a_map(output: Any, tap: Tap, batch: int) -> str:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    return (
        f"the module {tap.path!r} gives {shape}, which is no feature map of {batch} clips; "
        "cut at a module that gives (B,C,T,H,W), (B·T,C,H,W), (B,N,C) or (B,C)"
    )


def pooled(output: Any, tap: Tap, batch: int) -> Tensor:
    """z_l = mean of F_l over (T,H,W), method.md §1: a tapped output of `batch` = B clips as (B,C)."""
    return mean_over_positions(as_map(output, tap, batch))


def mean_over_positions(maps: Tensor) -> Tensor:
    """(B,C,T,H,W) -> (B,C). Positions first, so that the gradient keeps channels last: on CPU a third of the time."""
    return maps.permute(0, 2, 3, 4, 1).flatten(1, 3).mean(1)


def spatial_size(output: Any, channels_last: bool = False) -> tuple[int, int] | None:
    """(height, width) of a module's output, None where it has none. Understands what `as_map` understands."""
    if isinstance(output, tuple) and len(output) == 2:
        return tuple(output[1])[-2:]
    if not isinstance(output, Tensor) or output.dim() < 4:
        return None
    height, width = output.shape[-3:-1] if channels_last else output.shape[-2:]
    return height, width


def last_of_each_resolution(sizes: Sequence[tuple[str, tuple[int, int] | None]], count: int = 4) -> list[str]:
    """The last path at each spatial resolution, for the `count` smallest resolutions (method.md §1).

    sizes: (path, (height, width)) in the order of execution; None and 1×1 are passed over.
    """
    last: dict[tuple[int, int], str] = {}
    for path, size in sizes:
        if size is not None and max(size) > 1:
            last[size] = path
    return list(last.values())[-count:]


def quarters(paths: Sequence[str], count: int = 4) -> list[str]:
    """1/4, 1/2, 3/4 and 1 of the blocks of a plain transformer (method.md §1)."""
    return [paths[-(-len(paths) * (part + 1) // count) - 1] for part in range(count)]
