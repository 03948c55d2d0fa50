"""`stagedkd distill`"""

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
    """Train assistants, student and controls from stored targets. Prints the student's folder."""

    def work(recipe: "Recipe", name: str) -> Path:
        from jobs.commands import walk
        from pipeline.flow.run import to_student

        return walk(recipe, name, lambda way: to_student(way).cascade.student.model.folder, local=local)

    start(recipe, sets, dry_run, print_config, work)
