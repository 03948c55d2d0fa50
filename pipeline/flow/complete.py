"""targets ∪ quarantine ∪ tombstones = plan, row by row, for the shards of a job that says it is done."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.commit import Marker, read_marker, read_object
from pipeline.artifacts.places import is_remote
from pipeline.errors import JobError
from pipeline.flow.open_plan import OpenPlan, committed_shards

KEYS = ["clip_id", "view_id"]


def check_complete(opened: Iterable[OpenPlan]) -> None:
    """JobError that names the first artefact and shard in which a planned view is missing, doubled or out of its place.

    Shards that were done before this job need only be committed; those of this job are read, the key columns alone.
    """
    for plan in opened:
        folders = [*([plan.frames] if plan.cached else []), *plan.targets]
        for folder in folders:
            _check_markers(plan, folder)
        for shard in plan.todo:
            planned = plan.table(shard).select([*KEYS, "video_id"])
            for folder in folders:
                _check_rows(folder, shard, planned, plan.buried(shard))


def _check_markers(plan: OpenPlan, folder: Path) -> None:
    missing = sorted(set(plan.view.shards) - committed_shards(folder))
    missing = [shard for shard in missing if shard in plan.todo or not plan.buried(shard)]
    if missing:
        raise JobError(
            f"{folder}: {len(missing)} shards were not committed ({missing[0]} …): run the same command again"
        )


def _check_rows(folder: Path, shard: str, planned: pa.Table, buried: Collection[str]) -> None:
    """`planned` is without the videos of `buried`; rows that were made before the burial stay where they are."""
    marker = read_marker(folder, shard)
    assert marker is not None, f"{folder}: {shard} was committed a moment ago"
    gone = set(buried)
    if marker.quarantine is not None and marker.quarantine.rows:
        gone |= set(read_object(folder, marker.quarantine, ["video_id"]).column("video_id").to_pylist())
    lost = pa.array(gone, pa.string())
    wanted = _without(planned, lost)
    found = _stored(folder, marker, lost)
    held = marker.rows if found is None else found.num_rows
    if held >= wanted.num_rows if found is None else found.equals(wanted):
        return
    raise JobError(
        f"{folder}: {shard} holds {held} views, {wanted.num_rows} of the plan can be read: it is not what "
        f"was planned; delete {folder / shard}.json, and the same command makes it again"
    )


def _stored(folder: Path, marker: Marker, lost: pa.Array) -> pa.Table | None:
    """Keys of the rows that a reader sees, in the order of the plan; None for rasters in an object store, which would
    come whole. What was lost meanwhile may have left rows: decoded before another view failed, or before its burial."""
    if is_remote(folder) and any(".part-" in obj.name for obj in marker.objects):
        return None
    tables = [read_object(folder, obj, [*KEYS, "video_id"]) for obj in marker.objects]
    return _without(pa.concat_tables(tables), lost) if tables else None


def _without(rows: pa.Table, lost: pa.Array) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows.column("video_id"), lost))).select(KEYS).combine_chunks()
