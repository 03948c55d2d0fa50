"""Frozen dataclasses to JSON values and back, and the checks that name what is wrong with a value."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self, get_args, get_type_hints

from pipeline.errors import ConfigError


class Json:
    """Both ways between a frozen dataclass and plain JSON values; nested specs and tuples included."""

    def to_json(self) -> dict[str, Any]:
        """This value as dicts, lists, strings, numbers, booleans and None."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. ConfigError for an unknown field, with the nearest known one."""
        hints = get_type_hints(cls)
        for name in value:
            known(f"{cls.__name__} field", name, hints)
        return cls(**{name: _typed(hints[name], entry) for name, entry in value.items()})


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _typed(hint: Any, value: Any) -> Any:
    nested = next((t for t in (hint, *_inner(hint)) if is_dataclass(t)), None)
    if nested is not None and isinstance(value, Mapping):
        return nested.from_json(value)  # type: ignore[union-attr]
    if isinstance(value, list):
        return tuple(_typed(nested, entry) for entry in value)
    return value


def _inner(hint: Any) -> list[Any]:
    return [found for part in get_args(hint) for found in (part, *_inner(part))]


def known(what: str, name: str, names: Iterable[str]) -> None:
    """ConfigError unless `name` is one of `names`; the message lists them and the nearest."""
    if name in names:
        return
    near = difflib.get_close_matches(name, list(names), 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"{what} {name!r} is unknown{hint}; known are {', '.join(names)}")


def require(good: bool, path: str, value: Any, allowed: str) -> None:
    """ConfigError that names the path, the value and what is allowed, unless `good`."""
    if not good:
        raise ConfigError(f"{path} is {value!r}; it must be {allowed}")
