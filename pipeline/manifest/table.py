"""The manifest as an artefact: growing, in versions. An equal rescan adds none; readers take the newest.

The clean labels (known where noise was injected on purpose) lie in a table of their own, for scoring only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_markers, read_object, write_table
from pipeline.artifacts.schemas import CLEAN, MANIFEST

_VERSION = "version-"


@dataclass(frozen=True)
class Manifest:
    """One version: `table` (schema MANIFEST, sorted by video_id), `clean` (schema CLEAN), class names by label."""

    table: pa.Table
    clean: pa.Table
    classes: tuple[str, ...]
    version: int


def read_manifest(folder: Path) -> Manifest | None:
    """The newest version, None where there is none yet."""
    markers = read_markers(folder, _VERSION)
    if not markers:
        return None
    name, marker = list(markers.items())[-1]
    table, clean = (read_object(folder, obj) for obj in marker.objects)
    return Manifest(table, clean, tuple(marker.facts["classes"]), int(name.removeprefix(_VERSION)))


def write_manifest(folder: Path, table: pa.Table, clean: pa.Table, classes: Sequence[str]) -> Manifest:
    """Commit a new version, unless the newest one says the same; returns what stands then."""
    table = table.select(MANIFEST.names).sort_by("video_id").cast(MANIFEST)
    clean = clean.select(CLEAN.names).sort_by("video_id").cast(CLEAN)
    before = read_manifest(folder)
    if (
        before is not None
        and before.table.equals(table)
        and before.clean.equals(clean)
        and before.classes == tuple(classes)
    ):
        return before
    version = 1 if before is None else before.version + 1
    attempt = new_attempt()
    objects = (
        write_table(folder, f"manifest-{version:08d}.{attempt}.parquet", table),
        write_table(folder, f"clean-{version:08d}.{attempt}.parquet", clean),
    )
    commit(folder, Marker(f"{_VERSION}{version:08d}", attempt, objects, facts={"classes": list(classes)}))
    found = read_manifest(folder)
    assert found is not None
    return found


def class_names(found: Sequence[str], before: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names by label: those known before keep their number, new ones follow sorted."""
    return (*before, *sorted(set(found) - set(before)))
