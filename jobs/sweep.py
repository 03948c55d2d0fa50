"""`stagedkd sweep`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """Search the recipe's sweep.space, scored on the validation split. Prints the folder with results and winner."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from jobs.commands import walk
    from pipeline.flow.run import to_gate
    from pipeline.flow.sweep import sweep

    return walk(recipe, name, lambda way: sweep(to_gate(way)))
