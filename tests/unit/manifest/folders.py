"""Folders of files that stand for videos: a scan looks at names only."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.manifest.entries import Entry


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def write(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def entries(*rows: tuple[str, str, str | None]) -> list[Entry]:
    """(video_id, group, split) each."""
    return [Entry(name, f"{name}.mp4", "a", group, split) for name, group, split in rows]
