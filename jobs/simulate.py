"""`stagedkd simulate`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """Write the simulated videos of the recipe. Prints their folder."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from pipeline.flow.plans import simulate_videos

    return simulate_videos(recipe)
