"""Losses compute in float32 whatever the networks ran in: half inputs are widened, autocast is off inside."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_HALF = (torch.float16, torch.bfloat16)


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast with its half-precision tensors (also inside lists) widened to float32.

    float64 stays float64, so that gradients can be checked to 1e-12. Integers pass through.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(_device_type(args), enabled=False):
            return function(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return wrapped


def widen(value: Any) -> Any:
    """A float16 or bfloat16 tensor as float32, a plain list or tuple of tensors as a list; all else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if type(value) in (list, tuple) and value and isinstance(value[0], Tensor):
        return [widen(entry) for entry in value]
    return value


def _device_type(values: Iterable[Any]) -> str:
    for value in values:
        first = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(first, Tensor):
            return first.device.type
    return "cpu"
