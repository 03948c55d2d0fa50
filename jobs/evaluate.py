"""`stagedkd evaluate`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """Read the evaluation split once, from stored targets. Prints the folder of the metrics."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from jobs.commands import walk
    from pipeline.flow.run import to_evaluation
    from pipeline.flow.step import inside

    return walk(recipe, name, lambda way: inside(to_evaluation(way).evaluation))
