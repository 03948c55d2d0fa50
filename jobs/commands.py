"""What the step commands do: walk the way up to their step and return its artefact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe

Walk = Callable[[Any], Path]


def walk(recipe: Recipe, name: str, to: Walk, *, local: bool = False) -> Path:
    """Open the context, scan, walk to a step, close; a failure closes the MLflow run as failed."""
    from pipeline.flow.context import Context
    from pipeline.flow.run import begin

    context = Context.open(recipe, name, local=local)
    failed = True
    try:
        path = to(begin(context))
        failed = False
        return path
    finally:
        context.close(failed=failed)
