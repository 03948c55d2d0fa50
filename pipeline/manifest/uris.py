"""Where each video lies below the root of its manifest: two columns, for a driver that holds them for days."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Uris:
    """Columns of a manifest, sorted by id. Where every uri is the id itself, both are the same array."""

    ids: pa.Array
    uris: pa.Array

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """From the columns video_id and uri."""
        ids, uris = (table.column(name).combine_chunks() for name in ("video_id", "uri"))
        return cls(ids, ids if ids.equals(uris) else uris)

    def __call__(self, videos: pa.Array) -> pa.Array:
        """The uri of each of these ids; KeyError names one that is not among them.

        The videos of a shard mostly stand next to each other, so only what lies between the first and the last of them
        is looked through: asking for every shard of a plan costs about as much as going through the manifest once.
        """
        if not len(videos):
            return videos
        ends = pc.min_max(videos).as_py()
        first = bisect_left(self.ids, ends["min"], key=pa.StringScalar.as_py)
        after = bisect_right(self.ids, ends["max"], lo=first, key=pa.StringScalar.as_py)
        at = pc.index_in(videos, value_set=self.ids[first:after])
        if at.null_count:
            raise KeyError(videos.filter(at.is_null())[0].as_py())
        return self.uris[first:after].take(at)
