"""Class folders of files that only look like videos (manifest and plan never decode), and recipes over them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.config.load import build_recipe
from pipeline.config.recipe import Recipe
from pipeline.flow.context import Context

ROOT = Path(__file__).parents[3]


def class_folders(root: Path, classes: dict[str, int]) -> Path:
    """root/name/000.mp4, …: files of different sizes without a video in them."""
    for name, count in classes.items():
        for number in range(count):
            video(root / name / f"{number:03d}.mp4", number)
    return root


def video(path: Path, number: int = 0) -> Path:
    """A file of 10 + `number` bytes with a fixed time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * (10 + number))
    os.utime(path, ns=(1_000, 1_000))
    return path


def recipe(root: Path, workspace: Path, *sets: str, **sections: Any) -> Recipe:
    """All defaults but small shards (8 views of 2 a video) over class folders below `root`."""
    values = {
        "workspace": str(workspace),
        "manifest": {"root": str(root), "name": "small"},
        "plan": {"shard_views": 8, "micro_batch": 4},
        "views": {"size": [16, 16], "num_frames": 4, "train": {"views_per_clip": 2}, "eval": {"clips_per_video": 1}},
    }
    return build_recipe(values | sections, sets)


def context(root: Path, workspace: Path, *sets: str, **sections: Any) -> Context:
    """An open context of `recipe(…)`."""
    return Context.open(recipe(root, workspace, *sets, **sections), "small")


def tree(root: Path, *, folders: bool = False) -> dict[str, tuple[int, int]]:
    """Every file (and folder) below `root` with size and time of change: equal before and after if nothing was written.

    A folder's time changes by a temporary file, too.
    """
    paths = [path for path in sorted(root.rglob("*")) if folders or path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def python(code: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
