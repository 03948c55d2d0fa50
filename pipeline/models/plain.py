"""A plain labeler as a teacher: any callable from rasters to logits and features, kept by reference, without torch.

`module:factory` with factory(**options) gives an object with

    classes: tuple[str, ...]    names of the logits, in their order
    dims: tuple[int, ...]       channels of its substages, () for none
    __call__(raster uint8 (n, T, H, W, 3)) -> {"logits": (n, C), "substage_1": (n, C_1), …} float32

A row's values must follow from its own clip alone (and, where they depend on n, n is always the micro-batch's slots).
Its identity is the reference, the options and the digest of the module's source file; what that file imports or reads
is not looked at.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.identity import digest, source_digest
from pipeline.errors import ConfigError, InputError
from pipeline.models.factory import call_factory
from pipeline.models.facts import FACTS, SCHEMA, read_facts


def is_plain(facts: Mapping[str, Any]) -> bool:
    """Whether model.json describes a plain labeler."""
    return bool(facts.get("labeler"))


def make_plain(model: str, options: Mapping[str, Any]) -> Any:
    """The labeler that the factory gives. Raises ConfigError where it has not the form above."""
    made = call_factory(model, options)
    lacking = [name for name in ("classes", "dims") if not hasattr(made, name)]
    if lacking or not callable(made):
        what = f"no {' and no '.join(lacking)}" if lacking else "no __call__"
        raise ConfigError(f"the labeler {model!r} gives a {type(made).__name__} with {what} (see pipeline/README.md)")
    return made


def save_plain(folder: Path, model: str, options: Mapping[str, Any], extras: Mapping[str, Any]) -> None:
    """Write model.json of a plain labeler, and `extras` beside what it says itself."""
    made = make_plain(model, options)
    facts = _facts(model, options, [str(name) for name in made.classes], [int(dim) for dim in made.dims])
    partial = folder / f".{FACTS}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps({**facts, **extras}, indent=2, sort_keys=True, allow_nan=False) + "\n")
    os.replace(partial, folder / FACTS)


def load_plain(folder: Path) -> Any:
    """The labeler that model.json in `folder` describes. Raises InputError where its source file is another now."""
    facts = read_facts(folder)
    model, options = facts["spec"]["model"], facts["spec"]["options"]
    if source_digest(model) != facts["code"]:
        raise InputError(
            f"{model!r} is another teacher: its source file has changed since {folder / FACTS} was written"
        )
    return make_plain(model, options)


def plain_digest(model: str, options: Mapping[str, Any], code: str) -> str:
    """What identifies a plain labeler: 64 hex digits."""
    return digest({"labeler": model, "options": dict(options), "code": code})


def _facts(model: str, options: Mapping[str, Any], classes: list[str], dims: list[int]) -> dict[str, Any]:
    code = source_digest(model)
    return {
        "schema": SCHEMA,
        "labeler": True,
        "spec": {"model": model, "classes": classes, "options": dict(options), "transform": {}, "weights": None},
        "code": code,
        "classes": classes,
        "num_classes": len(classes),
        "dims": dims,
        "parameters": 0,
        "digest": plain_digest(model, options, code),
    }
