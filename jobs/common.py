"""The arguments that all recipe commands share, and what `--print-config` and `--dry-run` do with them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.config.load import read_recipe, recipe_yaml
from pipeline.config.recipe import Recipe

RecipePath = Annotated[Path, Parameter(help="YAML file, for example jobs/recipes/demo.yaml")]
Sets = Annotated[
    list[str] | None,
    Parameter(
        name="--set", help="Override one field: --set train.steps=100 (repeatable)", negative=(), consume_multiple=False
    ),
]
DryRun = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Say what would be done, and do nothing")]
PrintConfig = Annotated[bool, Parameter(name="--print-config", negative=(), help="Print the resolved recipe and stop")]
Local = Annotated[bool, Parameter(name="--local", negative=(), help="Train in this process, without Ray")]


def start(
    recipe: Path,
    sets: list[str] | None,
    dry_run: bool,
    print_config: bool,
    work: Callable[[Recipe, str], object],
    *,
    probe: bool = False,
) -> None:
    """Read the recipe and do what was asked; `work(recipe, name)` returns the artefact's path, printed last.

    `probe`: a dry run decodes a few videos to estimate the cost of decoding all.
    """
    resolved = read_recipe(recipe, sets or [])
    if print_config:
        print(recipe_yaml(resolved), end="")
        return
    if dry_run:
        from pipeline.flow.dry_run import describe

        print(describe(resolved, recipe.stem, probe=probe))
        return
    print(work(resolved, recipe.stem))
    sys.stdout.flush()
