"""Defaults and keys as they are now; `python -m tests.unit.config.golden` writes the files that the tests compare with.

Do that only after raising the step versions that the failing test names.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.artifacts.layout import Workspace
from pipeline.config.base import is_runtime, nested_models
from pipeline.config.load import read_recipe
from pipeline.config.recipe import Recipe

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))
DEFAULTS, KEYS = FOLDER / "defaults.json", FOLDER / "keys.json"
KEYED = ("debug", "ucf101", "kinetics400")


def defaults() -> dict[str, Any]:
    """Per section of a recipe the defaults of its identity fields, by dotted path; "required" where there is none."""
    sections: dict[str, Any] = {}
    for name, field in Recipe.model_fields.items():
        for model in nested_models(field.annotation):
            sections[name] = dict(sorted(_flat(model, field.get_default(), "").items()))
    return sections


def _flat(model: type[BaseModel], instance: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if is_runtime(model, name):
            continue
        own = "required" if field.is_required() else field.get_default(call_default_factory=True)
        value = getattr(instance, name, own)
        if isinstance(value, BaseModel):
            found |= _flat(type(value), value, f"{prefix}{name}.")
        else:
            found[prefix + name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def keys(recipe: Recipe) -> dict[str, str]:
    """The keys that configuration alone decides."""
    from pipeline.flow.context import Context
    from pipeline.flow.plans import manifest_step, plan_step
    from pipeline.flow.precompute import frames_step

    context = Context(recipe, Workspace(Path("nowhere")), "golden")
    steps = {"manifest": manifest_step(recipe)}
    for plan in ("train", "eval"):
        steps |= {f"plan-{plan}": plan_step(recipe, plan), f"frames-{plan}": frames_step(context, plan)}
    return {name: step.key for name, step in steps.items()}


def golden_keys() -> dict[str, dict[str, str]]:
    """Of three recipes; none of them names a folder, so they are the same on every machine."""
    return {name: keys(read_recipe(ROOT / "jobs" / "recipes" / f"{name}.yaml")) for name in KEYED}


if __name__ == "__main__":
    for path, values in ((DEFAULTS, defaults()), (KEYS, golden_keys())):
        path.write_text(json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
