"""`stagedkd manifest`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """Scan the folder of videos and extend both plans. Prints the folder of the manifest."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from jobs.commands import walk

    return walk(recipe, name, lambda way: way.context.workspace.store("manifest", way.videos.key))
