"""What the step commands do: walk the way up to their step and return its artefact."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe

Walk = Callable[[Any], Path]


def walk(recipe: Recipe, name: str, to: Walk, *, local: bool = False, retry: Sequence[str] | None = None) -> Path:
    """Open the context, scan, walk to a step, close; a failure closes the MLflow run as failed.

    `retry`: reasons for which quarantined videos are planned again, () for all, None for none.
    """
    from pipeline.flow.context import Context
    from pipeline.flow.run import begin

    context = Context.open(recipe, name, local=local)
    failed = True
    try:
        path = to(begin(context, retry))
        failed = False
        return path
    finally:
        context.close(failed=failed)
