"""`stagedkd verify`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from jobs.common import PrintConfig, RecipePath, Sets, start

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe

Sample = Annotated[int, Parameter(help="About how many views of each artefact are recomputed, in whole micro-batches")]
Seed = Annotated[int, Parameter(help="Which ones")]


def main(
    recipe: RecipePath,
    /,
    *,
    sample: Sample = 64,
    seed: Seed = 0,
    sets: Sets = None,
    print_config: PrintConfig = False,
) -> None:
    """Check stored targets: checksums, schema and keys of all shards, values of a sample. Prints the folder
    they are in; exit 1 where something is not as it should be."""

    def work(recipe: "Recipe", name: str) -> Path:
        from pipeline.errors import JobError
        from pipeline.flow.context import Context
        from pipeline.flow.verify import verify

        context = Context.open(recipe, name)
        found = verify(context, sample=sample, seed=seed)
        _show(found)
        if found.findings:
            raise JobError(
                f"{len(found.findings)} findings (above): not all is known to be what the recorded teachers say"
            )
        return found.folders[0].parent

    start(recipe, sets, False, print_config, work)


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("checked", "how many", title="verify")
    for what, count in found.checked.items():
        table.add_row(what, f"{count:,}")
    Console(file=sys.stdout).print(table)
    for finding in found.findings:
        print(finding)
