"""`stagedkd compact`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

MEGABYTE = 1 << 20


def main(
    where: Annotated[
        str, Parameter(help="An artefact's folder or s3:// address, or a recipe (YAML) whose run to take")
    ],
    /,
    *,
    small: Annotated[float, Parameter(help="Megabytes up to which a file is small", validator=Number(gt=0))] = 128,
    large: Annotated[float, Parameter(help="Megabytes of the files that are written", validator=Number(gt=0))] = 512,
) -> None:
    """Gather the small files of frames and targets in large ones. Prints the folder."""
    from pipeline.artifacts.places import place
    from pipeline.config.load import read_recipe
    from pipeline.errors import ConfigError
    from pipeline.flow.compact import compact_folder, compact_run

    if small > large:
        raise ConfigError(f"--small {small:g} must not be larger than --large {large:g}: what is written stays large")
    sizes = {"small": int(small * MEGABYTE), "large": int(large * MEGABYTE)}
    if not where.endswith((".yaml", ".yml")):
        print(compact_folder(place(where), **sizes))
        return
    from pipeline.flow.collect import existing
    from pipeline.flow.context import run_name

    recipe = read_recipe(Path(where), [])
    workspace = existing(Path(recipe.workspace).absolute(), recipe.storage.root)
    print(compact_run(workspace, run_name(recipe, Path(where).stem), **sizes))
