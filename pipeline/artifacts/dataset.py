"""Any artefact as rows: `open_dataset(path)`. Without torch and without Ray.

Only rows that a marker names are seen. Left out everywhere: rows of tombstoned (video, shard) pairs, and of videos in
the shard's own quarantine (of which some views may have been decoded before one failed).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from pipeline.artifacts import order
from pipeline.artifacts.commit import DataObject, Marker, object_path, read_marker, read_object
from pipeline.artifacts.layout import check_version
from pipeline.artifacts.schemas import column, declaration
from pipeline.artifacts.snapshot import Snapshot, committed, load
from pipeline.errors import InputError

Columns = dict[str, np.ndarray]


def open_dataset(path: str | Path, snapshot: str | None = None, *, check: bool = False) -> "Artefact":
    """Open the artefact in a folder: as pinned in `snapshot` (a digest), else all that is committed now, no tombstones.

    check=True compares the sha256 of every file at its first read. InputError where nothing is committed.
    """
    folder = Path(path)
    found = committed(folder) if snapshot is None else load(folder, snapshot)
    if not found.shards:
        raise InputError(f"{folder} holds no committed shard: is it the folder of an artefact (store/<kind>/<key>)?")
    return Artefact(found, check=check)


class Artefact:
    """The committed rows of one snapshot."""

    def __init__(self, snapshot: Snapshot, *, check: bool = False) -> None:
        self.snapshot = snapshot
        self._markers = {marker.shard_id: marker for marker in snapshot.shards}
        self._check, self._checked = check, set[str]()
        self._hidden: dict[str, list[str]] = {}

    @property
    def shard_ids(self) -> tuple[str, ...]:
        return tuple(self._markers)

    def shard(self, shard_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one shard in their fixed order, hidden videos left out; `columns` in the order asked for."""
        hidden = self._hidden_videos(shard_id)
        wanted = list(columns) if columns is not None else None
        read = wanted if wanted is None or not hidden or "video_id" in wanted else [*wanted, "video_id"]
        table = _concatenated([self._read(obj, read) for obj in self._marker(shard_id).objects])
        if hidden:
            table = table.filter(pc.invert(pc.is_in(table["video_id"], pa.array(hidden, pa.string()))))
        return table if wanted is None else table.select(wanted)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of all shards, shard after shard."""
        return _concatenated([self.shard(shard_id, columns) for shard_id in self.shard_ids])

    def arrow(self) -> ds.Dataset:
        """A pyarrow Dataset of the same rows, to filter and scan; one more column, `shard`, says where a row lies.

        DuckDB reads half floats from the Parquet files but not from Arrow: query `self.paths` there.
        """
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form, files = ds.ParquetFileFormat(default_fragment_scan_options=options), LocalFileSystem()
        fragments = [
            form.make_fragment(
                str(object_path(self.snapshot.folder, obj)), files, partition_expression=ds.field("shard") == shard_id
            )
            for shard_id in self.shard_ids
            for obj in self._marker(shard_id).objects
        ]
        schema = pa.unify_schemas([fragment.physical_schema for fragment in fragments])
        dataset = ds.FileSystemDataset(fragments, schema.append(pa.field("shard", pa.string())), form, files)
        for shard_id in self.shard_ids:
            videos = self._hidden_videos(shard_id)
            if videos:
                dataset = dataset.filter(~((ds.field("shard") == shard_id) & ds.field("video_id").isin(videos)))
        return dataset

    @property
    def paths(self) -> list[str]:
        """The committed Parquet files, for readers of files (DuckDB, pandas, Ray); they still hold the hidden rows."""
        folder = self.snapshot.folder
        return [str(folder / obj.name) for shard_id in self.shard_ids for obj in self._marker(shard_id).objects]

    def training_rows(
        self,
        rank: int,
        world: int,
        seed: int,
        epoch: int,
        batch: int,
        *,
        columns: Sequence[str] | None = None,
        keep: Collection[str] | None = None,
        window: int = 4,
    ) -> Iterator[Columns]:
        """One epoch in training order: per step a dict of arrays (batch / world, …), this rank's part of it.

        `keep`: only these video ids. A shard is read once, and about `window` shards' chosen rows are held at a time.
        ConfigError where `batch` (global) is no multiple of `world` or larger than the number of clips.
        """
        found = [self._kept(shard_id, keep) for shard_id in self.shard_ids]
        index = order.clip_index([keys for keys, _ in found])
        steps = order.steps_per_epoch(index.clips, batch)
        positions = order.training_order(
            index,
            epoch * steps,
            (epoch + 1) * steps,
            batch_size=batch,
            rank=rank,
            world=world,
            seed=seed,
            window=window,
        )

        def read(ordinal: int, rows: np.ndarray) -> Columns:
            table = self.shard(self.shard_ids[ordinal], columns)
            return {name: column(table, name)[found[ordinal][1][rows]] for name in table.column_names}

        return gathered(index, np.stack(list(positions)), read)

    def _kept(self, shard_id: str, keep: Collection[str] | None) -> tuple[order.Keys, np.ndarray]:
        """The keys of the rows that `keep` leaves of a shard, and these rows."""
        table = self.shard(shard_id, ["clip_id", "view_id", "video_id"])
        clips, views, videos = (column(table, name) for name in table.column_names)
        wanted = frozenset(keep or ())
        kept = np.fromiter((keep is None or video in wanted for video in videos), bool, len(videos))
        return (clips[kept], views[kept]), np.flatnonzero(kept)

    def _hidden_videos(self, shard_id: str) -> list[str]:
        if shard_id not in self._hidden:
            hidden = {video_id for video_id, shard in self.snapshot.tombstones if shard == shard_id}
            quarantine = self._marker(shard_id).quarantine
            if quarantine is not None and quarantine.rows:
                hidden.update(self._read(quarantine, ["video_id"])["video_id"].to_pylist())
            self._hidden[shard_id] = sorted(hidden)
        return self._hidden[shard_id]

    def _read(self, obj: DataObject, columns: Sequence[str] | None) -> pa.Table:
        check = self._check and obj.name not in self._checked
        table = read_object(self.snapshot.folder, obj, columns, check=check)
        self._checked.add(obj.name)
        facts = declaration(table.schema)
        if facts is not None:
            check_version(facts.get("schema"), str(self.snapshot.folder / obj.name))
        return table

    def _marker(self, shard_id: str) -> Marker:
        """The snapshot's marker; where its files are gone because the shard was redone, the one of equal content."""
        marker = self._markers.get(shard_id)
        if marker is None:
            raise InputError(f"{self.snapshot.folder}: shard {shard_id} is not in snapshot {self.snapshot.digest[:8]}")
        if all((self.snapshot.folder / obj.name).exists() for obj in marker.objects):
            return marker
        redone = read_marker(self.snapshot.folder, shard_id)
        same = redone is not None and [obj.sha256 for obj in redone.objects] == [obj.sha256 for obj in marker.objects]
        return redone if redone is not None and same else marker


def gathered(
    index: order.ClipIndex, positions: np.ndarray, read: Callable[[int, np.ndarray], Columns]
) -> Iterator[Columns]:
    """Rows at `positions` (steps, b) of one epoch, one dict of (b, …) arrays per step.

    `read(ordinal of a shard, its rows in ascending order)` is called once per shard, when a step first needs it, and
    its result is held until its last row was given out.
    """
    shards, local = index.locate(positions)
    wanted = _rows_by_shard(shards.ravel(), local.ravel())
    left = {ordinal: len(rows) for ordinal, rows in wanted.items()}
    held: dict[int, Columns] = {}
    for shards_b, local_b in zip(shards, local, strict=True):
        places = {ordinal: np.flatnonzero(shards_b == ordinal) for ordinal in np.unique(shards_b).tolist()}
        for ordinal in places.keys() - held.keys():
            held[ordinal] = read(ordinal, wanted[ordinal])
        rows = {ordinal: np.searchsorted(wanted[ordinal], local_b[place]) for ordinal, place in places.items()}
        yield _assembled([(place, rows[ordinal], held[ordinal]) for ordinal, place in places.items()])
        for ordinal, place in places.items():
            left[ordinal] -= len(place)
            if not left[ordinal]:
                del held[ordinal]


def _rows_by_shard(shards: np.ndarray, local: np.ndarray) -> dict[int, np.ndarray]:
    by_shard = np.lexsort((local, shards))
    ordinals, starts = np.unique(shards[by_shard], return_index=True)
    return dict(zip(ordinals.tolist(), np.split(local[by_shard], starts[1:]), strict=True))


def _assembled(parts: Sequence[tuple[np.ndarray, np.ndarray, Columns]]) -> Columns:
    """Each part: places in the batch, rows of the held columns that belong there, the held columns."""
    back = np.argsort(np.concatenate([place for place, _, _ in parts]))
    return {name: np.concatenate([held[name][rows] for _, rows, held in parts])[back] for name in parts[0][2]}


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Shards of an older minor version lack its newer, nullable columns: they read as null."""
    return pa.concat_tables(tables, promote_options="default")
