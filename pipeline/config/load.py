"""From a YAML file and `--set a.b=value` to a Recipe; errors name the dotted path and the nearest known one."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from pipeline.config.base import nested_models
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides ("a.b.c=value", YAML values) in order.

    Errors: ConfigError for a missing or malformed file, an unknown key (its dotted path and the nearest known one), or
    a value out of range.
    """
    return build_recipe(_read_yaml(Path(path)), overrides, origin=str(path))


def build_recipe(values: dict[str, Any], overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """As `read_recipe`, from a plain dictionary."""
    merged: Any = OmegaConf.create(values)
    for override in overrides:
        merged = OmegaConf.merge(merged, _override(override))
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin}: {error}") from None


MOVED = {
    "distill.control_lambda_kd": "distill.controls.kd: [{lambda_kd: …}]",
    "distill.room": "distill.controls.cross_entropy: [1, 2], or [1] without the control of twice the steps",
}


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML: what `--print-config` prints and a run keeps."""
    return OmegaConf.to_yaml(OmegaConf.create(recipe.model_dump(mode="json")))


def known_paths(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """All dotted paths that a recipe may hold."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(f"{prefix}{name}")
        for nested in nested_models(field.annotation):
            paths += known_paths(nested, f"{prefix}{name}.")
    return paths


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"recipe {path} not found: name a YAML file, for example jobs/recipes/demo.yaml")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read as YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"recipe {path} must be a mapping of sections, not a {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _override(text: str) -> Any:
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {text}: write it as section.field=value")
    try:
        return OmegaConf.from_dotlist([f"{path.strip()}={value}"])
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--set {text}: the value cannot be read ({error})") from None


def _explain(error: ValidationError, origin: str) -> str:
    lines = [_explain_one(dict(entry)) for entry in error.errors()]
    return f"{origin}: " + "; ".join(lines)


def _explain_one(entry: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden" and path in MOVED:
        return f"unknown key {path}: it is {MOVED[path]} now"
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, known_paths(), n=1, cutoff=0.5)
        return f"unknown key {path}" + (f" (did you mean {near[0]}?)" if near else "")
    return f"{path} = {entry.get('input')!r}: {entry['msg']}"
