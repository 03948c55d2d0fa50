"""What every section of a recipe shares: unknown keys are refused, and each field is identity or runtime.

An identity field changes results, so it enters keys. A runtime field (workers, paths, logging, limits) changes none.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One section of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def runtime(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes no value: it never enters a key."""
    return Field(default, json_schema_extra={"runtime": True}, **constraints)


def is_runtime(model: type[BaseModel], name: str) -> bool:
    """Whether field `name` of `model` was declared with `runtime`."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("runtime"))


def identity_fields(section: BaseModel, default: BaseModel | None = None) -> dict[str, Any]:
    """The identity fields of a section that differ from their default, nested sections included.

    `default` stands for the class's own defaults: a nested section is compared with the one its parent has by default,
    and left out where it differs in runtime fields only. A field added later with a default leaves old keys as they
    were; a changed default needs a raised step version.
    """
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, required = getattr(section, name), field.is_required() and default is None
        usual = None if required else getattr(default, name, field.get_default(call_default_factory=True))
        if is_runtime(type(section), name) or (not required and value == usual):
            continue
        same = isinstance(value, BaseModel) and type(value) is type(usual)
        plain = identity_fields(value, usual) if same else _plain(value)
        if plain or not same:
            found[name] = plain
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity_fields(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def runtime_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted paths of all runtime fields below `model`, sorted: a test lists them."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if is_runtime(model, name):
            found.append(path)
            continue
        for nested in nested_models(field.annotation):
            found += runtime_fields(nested, f"{path}.")
    return sorted(found)


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    """The section classes inside an annotation: itself, or the members of a union or container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    members = getattr(annotation, "__args__", ())
    return [model for member in members for model in nested_models(member)]
