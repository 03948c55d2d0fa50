"""`stagedkd gc`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def main(
    where: Annotated[Path, Parameter(help="A recipe (YAML), or the folder of a workspace")],
    /,
    *,
    delete: Annotated[bool, Parameter(name="--delete", negative=(), help="Remove it, instead of listing it")] = False,
    older_than: Annotated[float, Parameter(help="Hours since the last write; 0 only where nothing runs")] = 24.0,
) -> None:
    """What no marker, snapshot or run refers to: files and bytes per kind. Prints the workspace last."""
    from pipeline.artifacts.layout import Workspace
    from pipeline.config.load import read_recipe
    from pipeline.flow.collect import collect_workspace

    if where.is_dir():
        workspace = Workspace.open(where)
    else:
        recipe = read_recipe(where, [])
        workspace = Workspace.open(recipe.workspace, recipe.storage.root)
    found = collect_workspace(workspace, delete=delete, hours=older_than)
    for line in found.lines(deleted=delete):
        print(line)
    print(workspace.root)
