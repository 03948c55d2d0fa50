"""`stagedkd precompute`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from jobs.common import DryRun, PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe

Retry = Annotated[
    list[str] | None,
    Parameter(
        name="--retry-quarantined",
        help="Try quarantined videos again: all, or those of the reasons that are named",
        negative=(),
        consume_multiple=True,
    ),
]


def main(
    recipe: RecipePath,
    /,
    *,
    sets: Sets = None,
    retry_quarantined: Retry = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
) -> None:
    """Decode the views and store the teachers' targets. Prints the folder of the training targets.

    --dry-run decodes a few videos here and estimates bytes and hours from them; the teachers are not timed.
    """

    def work(resolved: "Recipe", name: str) -> Path:
        from jobs.commands import within
        from pipeline.flow.run import precompute

        return within(resolved, name, lambda context: precompute(context, retry_quarantined))

    start(recipe, sets, dry_run, print_config, work, probe=True)
