"""Names that follow from content: canonical JSON, digests, the key of an artefact, and draws that depend on names only.

Nothing here uses Python's salted hash(), the clock or the machine: the same values give the same digest everywhere.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, InputError


def canonical_json(value: Any) -> str:
    """One text per value: keys sorted, no spaces, ASCII, floats by repr, tuples as lists.

    TypeError for a Path, a NumPy value or any other type that has no JSON form of its own; ValueError for NaN and
    infinity.
    """
    _check_plain(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artefact_key(step: str, step_version: int, fields: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The key of what `step` makes: 64 hexadecimal digits.

    `fields` are the identity fields that differ from their default, `inputs` the keys or digests of what is read;
    `step_version` is raised by hand when the step's results or a default change.
    """
    return digest({"step": step, "step_version": step_version, "fields": dict(fields), "inputs": dict(inputs)})


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes: 64 hexadecimal digits. OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(reference: str) -> str:
    """Digest of the source file behind `module:factory`; neither the module nor its parents are imported.

    ConfigError where the reference has another form, InputError where no source file is found.
    """
    module, colon, factory = reference.partition(":")
    if not colon or not module or not factory:
        raise ConfigError(f"{reference!r} is not of the form module:factory, as in my_package.nets:build")
    return file_digest(_source_file(module, reference))


def difference(a: Any, b: Any) -> list[str]:
    """Where two JSON-able values differ: `dotted.path: a != b` per place, sorted; a missing side is `absent`."""
    return sorted(_differences("", a, b))


def unit_draw(*parts: str | int) -> float:
    """A uniform number in [0, 1) that depends on `parts` alone: the first 53 bits of the sha256 of their JSON list."""
    return (_draw_bits(parts) >> 11) / 2**53


def integer(*parts: str | int) -> int:
    """A uniform integer in [0, 2^63) that depends on `parts` alone; fits NumPy's int64 and torch's seeds."""
    return _draw_bits(parts) >> 1


def _draw_bits(parts: Sequence[str | int]) -> int:
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts)).encode()).digest()[:8], "big")


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is not a string")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not (value is None or isinstance(value, str | int | float)):
        raise TypeError(f"{where}: {type(value).__name__} has no canonical JSON; give plain values")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value!r} has no canonical JSON")


def _source_file(module: str, reference: str) -> Path:
    search: Sequence[str] | None = None
    spec = None
    for depth in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:depth])
        # By its last name: a folder without __init__.py is looked up by its parent's entry among the imported modules.
        spec = _outermost(name) if depth == 1 else PathFinder.find_spec(name.rpartition(".")[2], search)
        if spec is None:
            raise InputError(f"{reference!r}: no module {name!r} on the Python path; install it or set PYTHONPATH")
        search = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        raise InputError(f"{reference!r}: module {module!r} has no Python source file to identify it by")
    return Path(str(spec.origin))


def _outermost(name: str) -> ModuleSpec | None:
    """By every finder: that of an editable install knows what is not on the path."""
    found = (finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in found if spec is not None), None)


def _differences(path: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        prefix = f"{path}." if path else ""
        sides = [(prefix + name, a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in {*a, *b}]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        sides = [(f"{path}[{index}]", x, y) for index, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return _leaf_difference(path, a, b)
    return [line for side in sides for line in _differences(*side)]


def _leaf_difference(path: str, a: Any, b: Any) -> list[str]:
    left, right = _shown(a), _shown(b)
    return [] if left == right else [f"{path or 'value'}: {left} != {right}"]


_ABSENT = object()


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else canonical_json(value)
