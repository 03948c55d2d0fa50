"""Mean and standard deviation of every channel of every substage, over a snapshot's training rows as read back.

One pass in float64. Rows are taken in blocks of fixed size from the first row on, so that the result depends on the
rows and their order only, never on how the reader cut them into tables.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.artifacts.schemas import STATISTICS, check_schema, column
from pipeline.errors import InputError

BLOCK = 1024


def channel_statistics(chunks: Iterable[pa.Table], substages: int) -> pa.Table:
    """Tables with columns `substage_1` … `substage_L` in row order → a table of kind `statistics`, L·C_l rows.

    The standard deviation divides by N: over these rows the standardised feature has variance 1. InputError where there
    is no row. Of a network without substages the table is empty, and nothing is read.
    """
    if not substages:
        return STATISTICS.empty_table()
    moments = [_Moments() for _ in range(substages)]
    for table in chunks:
        for number, moment in enumerate(moments, start=1):
            moment.add(column(table, f"substage_{number}"))
    return pa.Table.from_batches([_rows(number, *moment.result()) for number, moment in enumerate(moments, start=1)])


def read_statistics(table: pa.Table) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(mean (C_1,), sd (C_1,)), …] in float64, one pair per substage. InputError for a table of another kind."""
    check_schema(table.schema, "statistics")
    ordered = table.sort_by([("substage", "ascending"), ("channel", "ascending")])
    substage, mean, sd = (column(ordered, name) for name in ("substage", "mean", "sd"))
    return [(mean[substage == number], sd[substage == number]) for number in np.unique(substage)]


class _Moments:
    """Count, mean and sum of squared deviations, block by block (Chan, Golub & LeVeque 1979, eq. 2.1).

    All of it relative to the first row, so that a constant channel has a deviation of exactly 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self.origin: np.ndarray | None = None
        self.mean: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0
        self.pending: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        if self.origin is None and len(rows):
            self.origin = rows[0]
        self.pending.append(rows if self.origin is None else rows - self.origin)
        if sum(map(len, self.pending)) >= BLOCK:
            waiting = np.concatenate(self.pending)
            whole = len(waiting) - len(waiting) % BLOCK
            for start in range(0, whole, BLOCK):
                self._absorb(waiting[start : start + BLOCK])
            self.pending = [waiting[whole:]]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        rest = np.concatenate(self.pending) if self.pending else np.empty((0, 0))
        if len(rest):
            self._absorb(rest)
        if self.origin is None:
            raise InputError("no training rows to take statistics of: does the snapshot hold a training video?")
        self.pending = []
        return self.origin + self.mean, np.sqrt(np.asarray(self.squares) / self.count)

    def _absorb(self, block: np.ndarray) -> None:
        mean, total = block.mean(axis=0), self.count + len(block)
        shift = mean - self.mean
        self.squares = self.squares + np.square(block - mean).sum(axis=0) + shift**2 * (self.count * len(block) / total)
        self.mean = self.mean + shift * (len(block) / total)
        self.count = total


def _rows(number: int, mean: np.ndarray, sd: np.ndarray) -> pa.RecordBatch:
    channels = np.arange(len(mean), dtype=np.int32)
    arrays = [np.full(len(mean), number, dtype=np.int32), channels, mean, sd]
    return pa.record_batch([pa.array(values) for values in arrays], schema=STATISTICS)
