"""`stagedkd export`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """Write the student as safetensors and torch.export program with a model card. Prints their folder."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from jobs.commands import walk
    from pipeline.flow.run import export_step

    return walk(recipe, name, export_step)
