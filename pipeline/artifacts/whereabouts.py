"""Where the rows of committed objects lie now, for readers that take files by name (pyarrow datasets, DuckDB, Ray).

One listing of the artefact's folder and its compaction records answer for all objects.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from pipeline.artifacts.commit import DataObject, MissingError, damaged
from pipeline.artifacts.compacted import Place, read_places
from pipeline.artifacts.files import listing
from pipeline.artifacts.places import is_remote


@dataclass(frozen=True)
class Part:
    """A file, by its address and as `file_system` knows it, and the row groups that count (None: all of them)."""

    address: str
    name: str
    path: str
    groups: list[int] | None


class Whereabouts:
    """The files of one artefact as they stand when this is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = {path.name for path in listing(folder, "*.parquet")}
        self._places = read_places(folder)

    def of(self, obj: DataObject) -> Part:
        """The object's own file, else its part of a compacted one. MissingError where neither is there."""
        if obj.name in self._names:
            return self._part(obj.name, None)
        for place in self._places.get(obj.sha256, ()):
            if place.file.name in self._names:
                return self._part(place.file.name, list(range(*place.groups)))
        raise MissingError(damaged(self.folder / obj.name, "is missing, and no compacted file holds its rows"))

    def shared(self, digests: Collection[str]) -> set[str]:
        """Names of compacted files that also hold rows of objects other than these."""
        own = frozenset(digests)
        rows: list[Place] = [place for places in self._places.values() for place in places if place.rows]
        return {place.file.name for place in rows if place.sha256 not in own}

    def _part(self, name: str, groups: list[int] | None) -> Part:
        path = self.folder / name
        return Part(str(path), name, str(path).removeprefix("s3://"), groups)


def file_system(folder: Path) -> Any:
    """The pyarrow file system in which the paths of parts are read."""
    if not is_remote(folder):
        return LocalFileSystem()
    remote: Any = folder
    return PyFileSystem(FSSpecHandler(remote.fs))
