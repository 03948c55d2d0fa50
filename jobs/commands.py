"""What the step commands do: open the context, walk the way up to their step, return its artefact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe


def walk(recipe: Recipe, name: str, to: Callable[[Any], Path], *, local: bool = False) -> Path:
    """Scan and plan, then walk `to` a step."""
    from pipeline.flow.run import begin

    return within(recipe, name, lambda context: to(begin(context)), local=local)


def within(recipe: Recipe, name: str, work: Callable[[Any], Path], *, local: bool = False) -> Path:
    """Open the context, `work`, close; a failure closes the MLflow run as failed."""
    from pipeline.flow.context import Context

    context = Context.open(recipe, name, local=local)
    failed = True
    try:
        path = work(context)
        failed = False
        return path
    finally:
        context.close(failed=failed)
