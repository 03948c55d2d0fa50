"""Any artefact as rows: `open_dataset(path)`, in a folder or an object store. Without torch and without Ray.

Only rows that a marker names are seen. Left out everywhere: rows of tombstoned (video, shard) pairs, and of videos in
the shard's own quarantine (of which some views may have been decoded before one failed). Rows are read from their
shard's own files; where these are gone, from the compacted file that holds them (compact.py), else from those of a
redone shard with equal content. Nothing is looked up before it is read.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.artifacts import order
from pipeline.artifacts.commit import DataObject, Marker, MissingError, read_marker, read_object
from pipeline.artifacts.layout import check_version
from pipeline.artifacts.places import place
from pipeline.artifacts.schemas import QUARANTINE, column, declaration
from pipeline.artifacts.snapshot import Snapshot, buried, committed, load
from pipeline.artifacts.whereabouts import Part, Whereabouts, file_system
from pipeline.errors import InputError

Columns = dict[str, np.ndarray]
T = TypeVar("T")


def open_dataset(path: str | Path, snapshot: str | None = None, *, check: bool = False) -> "Artefact":
    """Open the artefact in a folder or at an s3:// address: as pinned in `snapshot` (a digest), else all that is
    committed now, without what any snapshot of it buried.

    check=True compares the sha256 of every file at its first read. InputError where nothing is committed.
    """
    folder = place(path)
    found = committed(folder, tombstones=buried(folder)) if snapshot is None else load(folder, snapshot)
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
        return self._resolved(shard_id, lambda marker: self._rows(marker, columns))

    def _rows(self, marker: Marker, columns: Sequence[str] | None) -> pa.Table:
        hidden = self._hidden_videos(marker)
        wanted = list(columns) if columns is not None else None
        read = wanted if wanted is None or not hidden or "video_id" in wanted else [*wanted, "video_id"]
        table = _concatenated([self._read(obj, read) for obj in marker.objects])
        if hidden:
            table = table.filter(pc.invert(pc.is_in(table["video_id"], pa.array(hidden, pa.string()))))
        return table if wanted is None else table.select(wanted)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of all shards, shard after shard."""
        return _concatenated([self.shard(shard_id, columns) for shard_id in self.shard_ids])

    def quarantine(self) -> pa.Table:
        """Videos that have no rows, and why (uri, reason, message …), sorted by id, each once; of one that was planned
        anew since, only what came of it then."""
        rows: dict[str, dict[str, object]] = {}
        for shard_id in self.shard_ids:
            for row in self._resolved(shard_id, self._quarantined).to_pylist():
                if (row["video_id"], shard_id) not in self.snapshot.tombstones:
                    rows.setdefault(row["video_id"], row)
        return pa.Table.from_pylist([rows[video_id] for video_id in sorted(rows)], schema=QUARANTINE)

    def _quarantined(self, marker: Marker) -> pa.Table:
        stored = marker.quarantine
        return QUARANTINE.empty_table() if stored is None or not stored.rows else self._read(stored, None)

    def arrow(self) -> ds.Dataset:
        """A pyarrow Dataset of the same rows, to filter and scan; one more column, `shard`, says where a row lies.

        It names the files as they stand now; gc leaves them for its grace period. DuckDB reads half floats from the
        Parquet files but not from Arrow: query `self.paths` there.
        """
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form, files = ds.ParquetFileFormat(default_fragment_scan_options=options), file_system(self.snapshot.folder)
        located = self._parts()
        fragments = [
            form.make_fragment(
                part.path, files, partition_expression=ds.field("shard") == shard_id, row_groups=part.groups
            )
            for shard_id, parts in located.items()
            for part in parts
        ]
        with ThreadPoolExecutor(16) as threads:  # a footer each
            schemas = list(threads.map(lambda fragment: fragment.physical_schema, fragments))
        schema = pa.unify_schemas(schemas).append(pa.field("shard", pa.string()))
        dataset = ds.FileSystemDataset(fragments, schema, form, files)
        if any(part.groups is not None for parts in located.values() for part in parts):
            # Arrow counts all rows of a file from its footer, whatever row groups a fragment has, unless it must look.
            dataset = dataset.filter(ds.field(schema.names[0]).is_valid() | ds.field(schema.names[0]).is_null())
        for shard_id in self.shard_ids:
            videos = self._resolved(shard_id, self._hidden_videos)
            if videos:
                dataset = dataset.filter(~((ds.field("shard") == shard_id) & ds.field("video_id").isin(videos)))
        return dataset

    @property
    def paths(self) -> list[str]:
        """The Parquet files, for readers of files (DuckDB, pandas, Ray), as they stand now; they still hold the hidden
        rows.

        InputError where a compacted file holds rows of other shards than this snapshot's, too.
        """
        parts = [part for parts in self._parts().values() for part in parts]
        whereabouts = Whereabouts(self.snapshot.folder)
        shared = whereabouts.shared([obj.sha256 for marker in self.snapshot.shards for obj in marker.objects])
        for part in parts:
            if part.groups is not None and part.name in shared:
                raise InputError(
                    f"{self.snapshot.folder}: {part.name} was compacted from more shards than this snapshot's: read "
                    "arrow(), or open the artefact without a snapshot"
                )
        return list(dict.fromkeys(part.address for part in parts))

    def _parts(self) -> dict[str, list[Part]]:
        """Per shard the files, or their row groups, in which its rows lie now: one listing, no look at each file."""
        whereabouts = Whereabouts(self.snapshot.folder)
        return {
            shard_id: self._resolved(shard_id, lambda marker: [whereabouts.of(obj) for obj in marker.objects])
            for shard_id in self.shard_ids
        }

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

    def _hidden_videos(self, marker: Marker) -> list[str]:
        shard_id, quarantine = marker.shard_id, marker.quarantine
        if shard_id not in self._hidden:
            hidden = {video_id for video_id, shard in self.snapshot.tombstones if shard == shard_id}
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

    def _resolved(self, shard_id: str, read: Callable[[Marker], T]) -> T:
        """`read` of the snapshot's marker; where its files are gone because the shard was redone, of the one of equal
        content, from then on."""
        marker = self._markers.get(shard_id)
        if marker is None:
            raise InputError(f"{self.snapshot.folder}: shard {shard_id} is not in snapshot {self.snapshot.digest[:8]}")
        try:
            return read(marker)
        except MissingError:
            redone = read_marker(self.snapshot.folder, shard_id)
            same = redone is not None and [o.sha256 for o in redone.objects] == [o.sha256 for o in marker.objects]
            if redone is None or not same or redone == marker:
                raise
            self._markers[shard_id] = redone
            return read(redone)


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
        for ordinal, taken in places.items():
            left[ordinal] -= len(taken)
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
