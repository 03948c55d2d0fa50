"""From a spec to a network: which family builds it, how it is initialised, how many parameters it has."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.models import compact, custom, exported, frame, huggingface, torchvision_video
from pipeline.models.facts import FACTS, read_facts
from pipeline.models.hints import did_you_mean
from pipeline.models.network import Parts, VideoNetwork
from pipeline.models.sources import is_path
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_weights

# Options of every network. taps: modules to cut at, instead of the family's own cuts. frozen_norm: batch norms stay in
# evaluation mode. new_head: the weights may have another classifier, left out. num_classes: where there are no names.
COMMON: dict[str, Any] = {"taps": None, "frozen_norm": False, "new_head": False, "num_classes": None}

Build = Callable[[NetworkSpec, int, Mapping[str, Any]], Parts]


def names() -> tuple[str, ...]:
    """The models known by name; beside them stands `module:factory`."""
    return ("compact", "exported", "frame", "huggingface", *sorted(torchvision_video.FAMILIES))


def build_network(spec: NetworkSpec, seed: int = 0, *, load: bool = True) -> VideoNetwork:
    """The network that `spec` describes, initialised from `seed` alone, with its weights loaded where it names any;
    with `load` false all is checked and nothing is read or downloaded.

    The global random state is left as it was. Raises ConfigError for a spec that cannot be, InputError for weights that
    do not fit.
    """
    with _seeded(seed):
        network = _assemble(spec)
    if spec.weights and load:
        load_weights(network, spec.weights, new_head=bool(spec.options.get("new_head")))
    return network


def count_parameters(spec: NetworkSpec) -> int:
    """How many parameters the network of `spec` has, found without allocating it (a user's own is built for real)."""
    spec = _with_classes(spec)
    device = "cpu" if ":" in spec.model else "meta"
    with torch.random.fork_rng(devices=[]), torch.device(device):
        parts = _builder(spec.model)(spec, _num_classes(spec), COMMON)
    return sum(value.numel() for value in parts.body.parameters())


def widen_spec(spec: NetworkSpec, factor: float) -> NetworkSpec:
    """`spec`, with a compact network's widths times `factor`; without weights, which would not fit.

    Raises ConfigError for other families: assistants are widened compact networks (method.md §3).
    """
    if spec.model != "compact":
        raise ConfigError(f"only compact networks can be widened, not {spec.model!r}: give the assistants by hand")
    return replace(spec, options=compact.widen(spec.options, factor), weights=None)


def _assemble(spec: NetworkSpec) -> VideoNetwork:
    spec = _with_classes(spec)
    return VideoNetwork(spec, _builder(spec.model)(spec, _num_classes(spec), COMMON))


def _builder(model: str) -> Build:
    if ":" in model:
        return custom.build
    if model in torchvision_video.FAMILIES:
        return torchvision_video.build
    families: dict[str, Build] = {
        "compact": compact.build,
        "exported": exported.build,
        "frame": frame.build,
        "huggingface": huggingface.build,
    }
    if model not in families:
        hint = did_you_mean(model, names())
        raise ConfigError(f"no model {model!r}{hint} (known: {', '.join(names())}, or module:factory of your own)")
    return families[model]


def _with_classes(spec: NetworkSpec) -> NetworkSpec:
    """The weights' own class names where they bring any; a recipe may not give their logits other names by accident."""
    brought = () if spec.options.get("new_head") else _classes_of_weights(spec)
    if not brought:
        return spec
    if spec.classes and spec.classes != brought:
        raise ConfigError(
            f"model {spec.model!r}: the weights {spec.weights!r} bring {len(brought)} classes, the recipe names "
            f"{len(spec.classes)} that are not the same, or not in that order: leave them out, or set the model's "
            "option new_head: true to train a new classifier"
        )
    return replace(spec, classes=brought)


def _classes_of_weights(spec: NetworkSpec) -> tuple[str, ...]:
    if spec.weights is None:
        return ()
    if (Path(spec.weights) / FACTS).is_file():
        return tuple(read_facts(Path(spec.weights))["classes"])
    if spec.model in torchvision_video.FAMILIES and not is_path(spec.weights):
        return torchvision_video.categories(spec.model, spec.weights)
    if spec.model == huggingface.NAME:
        return huggingface.categories(spec.weights)
    return ()


def _num_classes(spec: NetworkSpec) -> int:
    given = spec.options.get("num_classes")
    if spec.classes and given not in (None, len(spec.classes)):
        raise ConfigError(f"model {spec.model!r}: num_classes is {given!r}, but {len(spec.classes)} classes are named")
    count = len(spec.classes) or given
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"model {spec.model!r} has no class names; give them, or the option num_classes")
    return count


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """CPU random numbers from `seed` for a while. torch.manual_seed would reach the accelerators' generators too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
