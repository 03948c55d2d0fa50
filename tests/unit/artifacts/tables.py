"""Small artefacts for the tests of this folder: values follow from names, so a wrong row is seen."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import pipeline
from pipeline.artifacts.commit import DataObject, Marker, commit, new_attempt, shard_name, write_table
from pipeline.artifacts.schemas import QUARANTINE, frames_schema, targets_schema, tensor_array

T, H, W, C, DIMS = 2, 4, 6, 5, (3, 7)


def stamp(clip_id: str, view_id: int) -> int:
    """A byte that belongs to one view."""
    return hashlib.sha256(f"{clip_id}/{view_id}".encode()).digest()[0]


def keys(videos: list[str], views: int) -> list[tuple[str, str, int]]:
    """(video_id, clip_id, view_id) of one random clip per video."""
    return [(video, f"{video}#random1of1", view) for video in videos for view in range(views)]


def frames_table(videos: list[str], views: int = 3) -> pa.Table:
    rows = keys(videos, views)
    stamps = np.array([stamp(clip, view) for _, clip, view in rows], np.uint8).reshape(-1, 1, 1, 1, 1)
    frames = np.broadcast_to(stamps, (len(rows), T, H, W, 3)) + np.arange(W, dtype=np.uint8)[:, None]
    return pa.table([*_replay(rows), tensor_array(frames)], schema=frames_schema(T, H, W))


def targets_table(videos: list[str], views: int = 3, dtype: str = "float16") -> pa.Table:
    rows = keys(videos, views)
    stamps = np.array([stamp(clip, view) for _, clip, view in rows], dtype).reshape(-1, 1)
    outputs = [stamps + np.arange(n, dtype=dtype) / 8 for n in (C, *DIMS)]
    return pa.table([*_replay(rows), *map(tensor_array, outputs)], schema=targets_schema(C, DIMS, dtype))


def put(folder: Path, number: int, *tables: pa.Table, quarantined: list[str] | None = None) -> Marker:
    """Commit tables as one shard under a fresh attempt name."""
    attempt = new_attempt()
    objects = [
        write_table(folder, f"{shard_name(number)}.part-{part}.{attempt}.parquet", table)
        for part, table in enumerate(tables)
    ]
    bad = None if quarantined is None else _quarantine(folder, number, attempt, quarantined)
    marker = Marker(shard_name(number), attempt, tuple(objects), bad, {"attempt": attempt})
    assert commit(folder, marker)
    return marker


def query(sql: str) -> list[tuple[Any, ...]]:
    """The rows that DuckDB answers."""
    return duckdb.connect().execute(sql).fetchall()


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that can import the package; talks over its standard input and output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    root = Path(pipeline.__file__).parents[1]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def _replay(rows: list[tuple[str, str, int]]) -> list[pa.Array]:
    count = len(rows)
    return [
        pa.array([clip for _, clip, _ in rows], pa.string()),
        pa.array([view for _, _, view in rows], pa.int32()),
        pa.array([video for video, _, _ in rows], pa.string()),
        pa.array([[0.0, 0.5 + view] for _, _, view in rows], frames_schema(T, H, W).field("times").type),
        pa.array([[0, view] for _, _, view in rows], frames_schema(T, H, W).field("indices").type),
        tensor_array(np.tile(np.array([0, 0.25, 0.5, 1], np.float32), (count, 1))),
        pa.array([False] * count, pa.bool_()),
        pa.array(["decord"] * count, pa.string()),
    ]


def _quarantine(folder: Path, number: int, attempt: str, videos: list[str]) -> DataObject:
    facts = {"step": "decode", "reason": "deadline", "message": "", "reader": "decord", "reader_version": "0.6.0"}
    rows = [{"video_id": video, "uri": f"{video}.mp4", "attempts": 2, **facts} for video in videos]
    table = pa.Table.from_pylist(rows, schema=QUARANTINE)
    return write_table(folder, f"{shard_name(number)}.quarantine.{attempt}.parquet", table)
