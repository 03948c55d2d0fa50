"""Trial forwards: what a module does with blank input of a given shape.

They find dimensions, check cuts, and tell which parameters a substage's feature depends on. With `shapes_only` they run
on tensors without data (device "meta"): free for a network that takes large inputs only, but the first operation of a
process imports torch's shape functions, seconds of work, so that small inputs are run for real.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.models.taps import run, spatial_size

State = dict[str, Tensor]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def trial_state(module: nn.Module, shapes_only: bool) -> tuple[State, State]:
    """(parameters, buffers) to run `module` with: of shapes only, or such that share the module's memory."""
    parameters = {name: _blank(value, shapes_only).requires_grad_() for name, value in module.named_parameters()}
    return parameters, {name: _blank(value, shapes_only) for name, value in module.named_buffers()}


def _blank(value: Tensor, shapes_only: bool) -> Tensor:
    return torch.empty_like(value, device="meta") if shapes_only else value.detach()


def trial_forward(module: nn.Module, state: State) -> Callable[[Tensor], Tensor]:
    """`module`'s forward with the tensors of `state` in place of its own."""
    return lambda clip: functional_call(module, state, (clip,))


def trial_sizes(
    module: nn.Module,
    paths: Sequence[str],
    shape: Sequence[int],
    *,
    channels_last: bool = False,
    shapes_only: bool = False,
) -> tuple[list[tuple[str, tuple[int, int] | None]], tuple[int, ...]]:
    """([(path, (height, width)) in the order of execution] of the modules at `paths`, shape of the output), for an
    input of `shape`."""
    parameters, buffers = trial_state(module, shapes_only)
    parts = [module.get_submodule(path) for path in paths]
    with evaluating(module), torch.no_grad():
        forward = trial_forward(module, {**parameters, **buffers})
        blank = torch.zeros(tuple(shape), device=next(iter(parameters.values())).device)
        output, sizes, order = run(forward, parts, blank, lambda _, output: spatial_size(output, channels_last))
    assert output is not None
    return [(paths[index], size) for index, size in zip(order, sizes, strict=True)], tuple(output.shape)


def first_dependence(features: Sequence[Tensor], parameters: State) -> dict[str, int]:
    """name -> 1-based index of the first feature that depends on the parameter; names without one are left out."""
    owner: dict[str, int] = {}
    for index, feature in enumerate(features, start=1):
        open_names = [name for name in parameters if name not in owner]
        if not open_names or not feature.requires_grad:
            continue
        wanted = [parameters[name] for name in open_names]
        gradients = torch.autograd.grad(feature.sum(), wanted, retain_graph=True, allow_unused=True)
        found = zip(open_names, gradients, strict=True)
        owner.update({name: index for name, gradient in found if gradient is not None})
    return owner
