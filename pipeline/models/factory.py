"""What `module:factory` names. Naming a factory runs its module: give only code that you trust. Without torch."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.models.hints import did_you_mean


def load_factory(name: str) -> Callable[..., Any]:
    """What `module:factory` names. Raises ConfigError where the module or the name in it is not there."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise ConfigError(f"model {name!r}: no module {module_name!r}; is its folder on PYTHONPATH?") from error
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, vars(module))
        raise ConfigError(f"model {name!r}: the module {module_name!r} has no {attribute!r}{hint}")
    return getattr(module, attribute)


def call_factory(name: str, arguments: Mapping[str, Any]) -> Any:
    """What the factory makes of these arguments. Raises ConfigError where it does not take them."""
    factory = load_factory(name)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        took = " and ".join(["num_classes"] * ("num_classes" in arguments) + ["the options given"])
        raise ConfigError(f"model {name!r} does not take {took}: {error}") from None
    return factory(**arguments)
