"""A user's own network: `module:factory`, where factory(num_classes=…, **options) gives an nn.Module.

The module takes float (B,3,T,H,W), or (B,1,T,H,W) with `transform.grey`, and gives logits (B,C). The recipe names the
modules to cut at: `taps`. Naming a factory runs its module: give this only code that you trust.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.factory import call_factory
from pipeline.models.hints import triple
from pipeline.models.network import Parts
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, check_path
from pipeline.models.transform import Transform

# Ours; every other option goes to the factory. head: path of the classifier. trial: (frames, height, width) of the
# clips that the cuts are tried on when the network is built. channels_last, prefix_tokens: as of `taps.Tap`.
DEFAULTS: dict[str, Any] = {"head": None, "trial": None, "channels_last": False, "prefix_tokens": 0}
TRANSFORM = Transform(size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The network that the factory makes. Raises ConfigError where it cannot be imported, gives no nn.Module, or a cut
    is not there."""
    own = {**common, **DEFAULTS}
    options = {**own, **spec.options}
    arguments = {name: value for name, value in options.items() if name not in own}
    body = _make(spec.model, num_classes, arguments)
    if not options["taps"]:
        parts = ", ".join(name for name, _ in body.named_children())
        raise ConfigError(f"model {spec.model!r}: name the modules to cut at in its option `taps` (its parts: {parts})")
    layout = (bool(options["channels_last"]), int(options["prefix_tokens"]))
    transform = Transform.read(spec.transform, TRANSFORM, spec.model)
    return Parts(
        body=body,
        taps=tuple(Tap(check_path(body, path, spec.model), *layout) for path in options["taps"]),
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options=options,
        head=options["head"] or _last_linear(body, num_classes),
        trial_shape=triple(options["trial"] or [8, *(transform.size or (64, 64))], f"option trial of {spec.model!r}"),
    )


def _make(name: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    body = call_factory(name, {"num_classes": num_classes, **arguments})
    if not isinstance(body, nn.Module) or not any(True for _ in body.parameters()):
        raise ConfigError(f"model {name!r} gives a {type(body).__name__}; it must give an nn.Module with parameters")
    return body


def _last_linear(body: nn.Module, num_classes: int) -> str | None:
    linears = [(name, part) for name, part in body.named_modules() if isinstance(part, nn.Linear)]
    fitting = [name for name, part in linears if part.out_features == num_classes]
    return fitting[-1] if fitting else None
