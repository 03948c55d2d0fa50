"""Words for error messages: the nearest known name, and the refusal of an unknown one."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import ConfigError


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The at most `count` members of `known` that look most like `name`, best first; the case of letters is ignored."""
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), list(by_fold), n=count, cutoff=0.5)
    return [by_fold[folded] for folded in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest known name, or an empty string where none is near."""
    found = nearest(name, known)
    return f"; did you mean {found[0]!r}?" if found else ""


def read_options(given: Mapping[str, Any], defaults: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`given` over `defaults`. Raises ConfigError for an option that `defaults` does not have."""
    for name in given:
        if name not in defaults:
            allowed = ", ".join(sorted(defaults))
            raise ConfigError(
                f"model {model!r} has no option {name!r}{did_you_mean(name, defaults)} (its options: {allowed})"
            )
    return {**defaults, **given}


def one_of(value: Any, allowed: Iterable[str], what: str) -> str:
    """`value`, where it is one of `allowed`. Raises ConfigError otherwise; `what` names the option."""
    names = list(allowed)
    if value not in names:
        raise ConfigError(f"{what} is {value!r}{did_you_mean(str(value), names)}; allowed: {', '.join(names)}")
    return value


def whole(value: Any, what: str, least: int = 1) -> int:
    """`value` as an integer of at least `least`. Raises ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{what} is {value!r}; it must be a whole number of at least {least}")
    return value


def triple(value: Any, what: str) -> tuple[int, int, int]:
    """A number, or three, as (time, height, width). Raises ConfigError otherwise."""
    items = [value] * 3 if isinstance(value, int) else value
    if not isinstance(items, (list, tuple)) or len(items) != 3:
        raise ConfigError(f"{what} is {value!r}; it must be one number, or three for time, height and width")
    return whole(items[0], what), whole(items[1], what), whole(items[2], what)
