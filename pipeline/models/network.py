"""VideoNetwork: the one form in which the rest of the project meets a network.

Shapes: B clips, T frames, H×W pixels, C classes, C_l channels of substage l = 1..L.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ConfigError
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, as_map, pooled, run
from pipeline.models.transform import Transform
from pipeline.models.trial import State, evaluating, first_dependence, trial_forward, trial_state


class NetworkOutput(NamedTuple):
    """logits (B,C), None where the forward stopped early; features: (B,C_l) of each substage that was computed."""

    logits: Tensor | None
    features: list[Tensor]


@dataclass(frozen=True)
class Parts:
    """What a family of networks hands over, from which a VideoNetwork is put together.

    body: float (B,c,T,H,W) -> logits (B,C). head: path of the classifier in the body, None where unknown.
    library: the name under which the library knows weights, library_root: the module of the body they belong to,
    library_without: tensors of the library's network that this one was cut short of.
    trial_shape: (T,H,W) of the body's input in trial forwards. shapes_only: run them on tensors without data, for
    networks that take large inputs only. batch: least and most clips (None: any number) of one forward.
    """

    body: nn.Module
    taps: tuple[Tap, ...]
    transform: Transform
    classes: tuple[str, ...]
    num_classes: int
    options: Mapping[str, Any]
    head: str | None
    library: str | None = None
    library_root: str = ""
    library_without: frozenset[str] = frozenset()
    trial_shape: tuple[int, int, int] = (8, 64, 64)
    shapes_only: bool = False
    batch: tuple[int, int | None] = (1, None)


class VideoNetwork(nn.Module):
    """A video classifier cut into L substages, that starts from the canonical raster.

    spec: complete (defaults filled in), enough to build it again. dims: (C_1, …, C_L). classes: names of the logits,
    empty where there are none. Raises ConfigError when a cut does not fit the body.
    """

    def __init__(self, spec: NetworkSpec, parts: Parts) -> None:
        super().__init__()
        taps = [tap.path for tap in parts.taps]
        unnamed = None if parts.classes else parts.num_classes
        options = {**parts.options, "taps": taps, "num_classes": unnamed}
        self.spec = replace(spec, classes=parts.classes, options=options, transform=parts.transform.to_json())
        self.classes, self.num_classes = parts.classes, parts.num_classes
        self.taps, self.transform = parts.taps, parts.transform
        self.head_path, self.library, self.library_root = parts.head, parts.library, parts.library_root
        self.library_without = parts.library_without
        self.frozen_norm = bool(parts.options.get("frozen_norm"))
        self._trial_shape, self._shapes_only = parts.trial_shape, parts.shapes_only
        self.batch = parts.batch
        self._owner: dict[str, int] = {}
        self.body = _channels_last(parts.body)
        self._fixed = {name for name, value in self.body.named_parameters() if not value.requires_grad}
        self.dims = self._check()
        self.train()

    @property
    def substages(self) -> int:
        """L, the number of substages."""
        return len(self.taps)

    def forward(self, raster: Tensor, *, upto: int | None = None) -> NetworkOutput:
        """raster uint8 (B,T,H,W,3) -> logits (B,C) and pooled features [(B,C_1), …, (B,C_L)] (method.md §1).

        `upto=p` computes substages 1..p and nothing beyond: p features, logits None. Stored features of a frozen part,
        float (B,T,ΣD) in place of a raster, go to the head alone: logits, no features.
        """
        if raster.is_floating_point():
            return NetworkOutput(self.body.from_features(raster.to(self._dtype())), [])  # type: ignore[operator]
        assert upto is None or 1 <= upto <= self.substages, f"upto={upto} of {self.substages} substages"
        clip = self.transform(raster, self._dtype())
        logits, features, _ = run(self.body, self._tapped(), clip, self._at_taps(pooled, raster.shape[0]), upto)
        return NetworkOutput(logits, features)

    def maps(self, raster: Tensor) -> list[Tensor]:
        """raster uint8 (B,T,H,W,3) -> F_1..F_L, each (B,C_l,T_l,H_l,W_l); the head is not computed."""
        clip = self.transform(raster, self._dtype())
        return run(self.body, self._tapped(), clip, self._at_taps(as_map, len(raster)), self.substages)[1]

    def parameters_of(self, first: int, last: int) -> list[nn.Parameter]:
        """Parameters of the substages first..last (1-based, both included); the head belongs to the last substage.

        A parameter belongs to the first substage whose feature depends on it. A frozen backbone's are in none.
        """
        owner = self._owners()
        return [value for name, value in self.body.named_parameters() if first <= owner.get(name, 0) <= last]

    def train_substages(self, first: int, last: int) -> Self:
        """Training mode for the substages first..last, evaluation mode for modules that own parameters of others."""
        self.train()
        owner = self._owners()
        for path, module in self.body.named_modules():
            names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
            if names and not all(first <= owner.get(name, 0) <= last for name in names):
                module.training = False
        return self

    def train(self, mode: bool = True) -> Self:
        """As of nn.Module; with option `frozen_norm` batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules() if self.frozen_norm else ():
            if isinstance(module, _BatchNorm):
                module.training = False
        return self

    @property
    def _trial_batch(self) -> int:
        least, most = self.batch
        return max(least, min(2, most or 2))

    def _dtype(self) -> torch.dtype:
        return next(self.body.parameters()).dtype

    def _tapped(self) -> list[nn.Module]:
        return [self.body.get_submodule(tap.path) for tap in self.taps]

    def _at_taps(self, reduce: Callable[[Any, Tap, int], Tensor], batch: int) -> Callable[[int, Any], Tensor]:
        return lambda index, output: reduce(output, self.taps[index], batch)

    def _owners(self) -> dict[str, int]:
        if not self._owner:
            _, features, _, parameters = self._trial()
            found = first_dependence(features, parameters)
            self._owner = {name: found.get(name, self.substages) for name in parameters if name not in self._fixed}
        return self._owner

    def _trial(self) -> tuple[Tensor | None, list[Tensor], list[int], State]:
        """(logits, features, order of the cuts, parameters used) of a few blank clips."""
        parameters, buffers = trial_state(self.body, self._shapes_only)
        device = next(iter(parameters.values())).device
        shape = (self._trial_batch, self.transform.channels, *self._trial_shape)
        clip = torch.zeros(shape, dtype=self._dtype(), device=device)
        forward = trial_forward(self.body, {**parameters, **buffers})
        with evaluating(self.body), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            return *run(forward, self._tapped(), clip, self._at_taps(pooled, shape[0])), parameters

    def _check(self) -> tuple[int, ...]:
        """The channels of each substage. Raises ConfigError where cuts or logits are not what they must be."""
        logits, features, order, _ = self._trial()
        paths = [tap.path for tap in self.taps]
        if order != list(range(self.substages)) or len(set(paths)) < len(paths):
            met = [paths[index] for index in order]
            raise ConfigError(f"model {self.spec.model!r} is cut at {paths}, but a forward meets {met}: name each once")
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (self._trial_batch, self.num_classes):
            wanted = f"({self._trial_batch}, {self.num_classes})"
            said = f"gives {shape} for {self._trial_batch} clips; logits must be {wanted}"
            raise ConfigError(f"model {self.spec.model!r} {said}")
        return tuple(feature.shape[1] for feature in features)


def _channels_last(body: nn.Module) -> nn.Module:
    """The raster's own memory order for the weights too: faster on CPU, and the same on every machine."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for value in body.parameters():
        if value.dim() in formats:
            value.data = value.data.contiguous(memory_format=formats[value.dim()])
    return body
