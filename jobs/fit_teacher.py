"""`stagedkd fit-teacher`"""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import DryRun, Local, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe


def main(
    recipe: RecipePath,
    /,
    *,
    sets: Sets = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    local: Local = False,
) -> None:
    """Fit the teacher on the refined labels (or take the given one). Prints its folder."""

    def work(recipe: "Recipe", name: str) -> Path:
        from jobs.commands import walk
        from pipeline.flow.run import to_teacher

        return walk(recipe, name, lambda way: to_teacher(way).teacher.folder, local=local)

    start(recipe, sets, dry_run, print_config, work)
