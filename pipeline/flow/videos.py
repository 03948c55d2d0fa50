"""The manifest as the steps read it: one row per video, classes by name, and digests of the columns that were read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.identity import digest
from pipeline.artifacts.snapshot import Snapshot


@dataclass(frozen=True)
class Videos:
    """Columns of the manifest, sorted by video_id. `labels`, `clean`: -1 where unknown; `sources`: bytes:etag; `frames`
    as headers claim, None where they are silent."""

    root: Path
    key: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    uris: tuple[str, ...]
    labels: np.ndarray
    clean: np.ndarray
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    frames: tuple[int | None, ...]

    def of(self, *splits: str) -> list[int]:
        """Positions of the videos of these splits."""
        return [row for row, split in enumerate(self.splits) if split in splits]

    def position(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.ids)}

    def label_digest(self, splits: Iterable[str]) -> str:
        """Digest of the label and split columns of the videos of these splits, and of the class names."""
        rows = [[self.ids[row], int(self.labels[row]), self.splits[row]] for row in self.of(*splits)]
        return digest([list(self.classes), rows])


@dataclass(frozen=True)
class Views:
    """The committed rasters that later steps read: folder and pinned snapshot per plan, and what was quarantined."""

    folders: dict[str, Path]
    snapshots: dict[str, Snapshot]
    keys: dict[str, str]

    def digest(self, plan: str) -> str:
        return self.snapshots[plan].digest
