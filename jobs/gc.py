"""`stagedkd gc`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number


def main(
    where: Annotated[Path, Parameter(help="A recipe (YAML), or the folder of a workspace")],
    /,
    *,
    delete: Annotated[bool, Parameter(name="--delete", negative=(), help="Remove it, instead of listing it")] = False,
    older_than: Annotated[
        float, Parameter(help="Hours since the last write; 0 only where nothing runs", validator=Number(gte=0))
    ] = 24.0,
) -> None:
    """What no marker, snapshot or run refers to: files and bytes per kind. Prints the workspace last."""
    from pipeline.config.load import read_recipe
    from pipeline.errors import JobError
    from pipeline.flow.collect import collect_workspace, existing

    if where.is_dir():
        workspace = existing(where.absolute())
    else:
        recipe = read_recipe(where, [])
        workspace = existing(Path(recipe.workspace).absolute(), recipe.storage.root)
    found = collect_workspace(workspace, delete=delete, hours=older_than)
    for line in found.lines(deleted=delete):
        print(line)
    print(workspace.root)
    if found.damaged:
        raise JobError(f"{len(found.damaged)} artefacts are damaged and were left alone (see above)")
