"""What a network is, as plain data: enough to build it again, and what its digest is taken over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class NetworkSpec:
    """One network.

    model: a name that `registry.names()` lists, or `module:factory` for a user's own.
    classes: the names of the logits, in their order; empty where the weights bring them, or where there are no names.
    options: of the model; what is left out takes the model's default.
    transform: raster to input, see `transform.Transform`; what is left out takes the model's default.
    weights: a weights name of the library, a .safetensors, .pt or .pth file, a saved model's folder, or None.

    Raises ConfigError where a value has no JSON form or a class name stands twice.
    """

    model: str
    classes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        object.__setattr__(self, "options", _plain(dict(self.options), f"options of model {self.model!r}"))
        object.__setattr__(self, "transform", _plain(dict(self.transform), f"transform of model {self.model!r}"))
        object.__setattr__(self, "weights", None if self.weights is None else str(self.weights))
        _check_unique(self.classes, self.model)

    def to_json(self) -> dict[str, Any]:
        """A mapping of JSON values; `from_json` gives an equal spec back."""
        return {
            "model": self.model,
            "classes": list(self.classes),
            "options": dict(self.options),
            "transform": dict(self.transform),
            "weights": self.weights,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NetworkSpec":
        """The spec that `to_json` wrote. Raises ConfigError for a key that is missing or unknown."""
        known = {"model", "classes", "options", "transform", "weights"}
        wrong = sorted(set(value) ^ known)
        if wrong:
            raise ConfigError(f"a network's description has missing or unknown keys: {', '.join(wrong)}")
        return cls(**value)


def _check_unique(classes: tuple[str, ...], model: str) -> None:
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ConfigError(f"model {model!r}: class names stand twice: {', '.join(twice)}")


def _plain(value: Any, what: str) -> Any:
    """Lists for tuples, all the way down, so that a spec equals its own JSON copy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{what}, {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, what) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{what}: {value!r} is neither a number, a text, a list nor a mapping")
