"""`stagedkd run`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath, /, *, sets: Sets = None, dry_run: DryRun = False, print_config: PrintConfig = False
) -> None:
    """All steps in order; what is done is skipped. Prints the table of networks, then the run's folder."""
    start(recipe, sets, dry_run, print_config, _work)


def _work(recipe: "Recipe", name: str) -> Path:
    from pipeline.flow.context import Context
    from pipeline.flow.run import run
    from pipeline.flow.table import closing_lines

    context = Context.open(recipe, name)
    failed = True
    try:
        folder = run(context)
        failed = False
    finally:
        context.close(failed=failed)
    print(closing_lines(context.workspace, context.name))
    return folder
