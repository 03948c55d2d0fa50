"""The cache of frames, raw against JPEG: bytes, speed, and what a student loses.

    python -m jobs.bench.frame_cache [--videos FOLDER] [--size 112] [--frames 16] [--seeds 4] [--steps 200]

Bytes and speed are those of real files where a folder of videos is named, else of simulated ones. Accuracy is that of
small students on simulated videos (class = shape × motion, in colour): the same student from the same start is trained
and tested on raw rasters and on JPEGs, and both are asked about the same videos.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import App

from jobs.bench import report
from pipeline.artifacts import jpeg
from pipeline.artifacts.commit import DataObject, read_object, write_table
from pipeline.artifacts.schemas import REPLAY, column
from pipeline.manifest.simulate import SimulateOptions, list_videos, simulate
from pipeline.video.micro_batch import frames_table
from pipeline.video.raster import RasterView, decode_views
from pipeline.video.reader import reader_named
from pipeline.video.views import ViewPolicy, draw, view_keys

QUALITIES = (None, 95, 85, 75)
BATCH = 32
SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclass(frozen=True)
class Clips:
    """Rasters (n, T, H, W, 3), and per row its video and label."""

    frames: np.ndarray
    videos: np.ndarray
    labels: np.ndarray


def name_of(quality: int | None) -> str:
    return "raw" if quality is None else f"jpeg {quality}"


def through(frames: np.ndarray, quality: int | None) -> np.ndarray:
    """The pixels that a cache of this kind gives back."""
    if quality is None:
        return frames
    flat = frames.reshape(-1, *frames.shape[2:])
    return jpeg.decode(jpeg.encode(flat, quality)).reshape(frames.shape)


def cached(views: Sequence[RasterView], quality: int | None, folder: Path, repeats: int = 3) -> list[object]:
    """Bytes of a view; ms of CPU to write and to read one; ms until a batch is there; mean error of a pixel."""
    slots = [{name: getattr(view, name, "v") for name in REPLAY} for view in views]
    frames = np.stack([view.frames for view in views])
    written, read = [], []
    for number in range(repeats):
        began = time.process_time()
        done = write_table(folder, f"{quality}-{number}.parquet", frames_table(slots, frames, quality))
        written.append((time.process_time() - began) / len(views))
        began = time.process_time()
        pixels = column(read_object(folder, done), "frames")
        read.append((time.process_time() - began) / len(views))
    error = float(np.abs(pixels.astype(np.int16) - frames).mean())
    batch = 1e3 * _batch_seconds(folder, done)
    return [name_of(quality), done.size // len(views), 1e3 * min(written), 1e3 * min(read), batch, error]


def _batch_seconds(folder: Path, stored: DataObject) -> float:
    """Wall seconds from the file to the pixels of one batch, the quickest of five."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        column(read_object(folder, stored).slice(0, BATCH), "frames")
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def some_views(paths: Sequence[Path], policy: ViewPolicy) -> list[RasterView]:
    """Views of BATCH videos in even steps through the list."""
    chosen = [paths[len(paths) * number // BATCH] for number in range(BATCH)]
    return [view for path in chosen for view in clip_views(path, policy)]


def clip_views(path: Path, policy: ViewPolicy) -> list[RasterView]:
    return decode_views(
        path, [draw(policy, *key) for key in view_keys(str(path), policy)], policy, reader_named("pyav")
    )


def simulated(root: Path, train: int, test: int) -> tuple[Clips, Clips]:
    """Rasters of the demo's size: two random views of each training video, three windows of each test video."""
    options = SimulateOptions(videos={"train": train, "val": 0, "test": test}, shapes=4, directions=5)
    simulate(root, options)
    policies = {
        "train": ViewPolicy("train", (32, 32), 8, views_per_clip=2, scale=(0.8, 1.0), ratio=(0.9, 1.11)),
        "test": ViewPolicy("eval", (32, 32), 8, clips_per_video=3),
    }
    labels = {name: number for number, name in enumerate(options.classes)}
    found: dict[str, list[tuple[np.ndarray, str, int]]] = {"train": [], "test": []}
    for video in list_videos(options):
        views = clip_views(root / video.path, policies[video.split])
        found[video.split] += [(view.frames, video.path, labels[video.label]) for view in views]
    train_clips, test_clips = (Clips(*map(np.asarray, zip(*rows, strict=True))) for rows in found.values())
    return train_clips, test_clips


def student(train: Clips, seed: int, steps: int, classes: int) -> Any:
    """A small network, trained in this process on labels alone."""
    from pipeline.distill.loop import train as train_job
    from pipeline.distill.memory import MemoryData, one_hot
    from pipeline.distill.spec import Job, Objective, Optimiser
    from pipeline.models.spec import NetworkSpec

    options = {"widths": [8, 16, 32, 32], "norm": "batch"}
    spec = NetworkSpec("compact", tuple(map(str, range(classes))), options)
    q, weight = one_hot(train.labels[::2], classes)
    data = MemoryData.from_arrays(train.frames.reshape(-1, 2, *train.frames.shape[1:]), q, weight)
    job = Job("student", f"{seed}", spec, steps, Objective("supervised"), Optimiser(lr=2e-2), seed=seed)
    return train_job(job, data).network


def right(network: Any, test: Clips, quality: int | None) -> np.ndarray:
    """Per test video whether the mean over its views is right."""
    from pipeline.evaluation.predict import by_video, predict

    ids, means = by_video(test.videos.tolist(), predict(network, through(test.frames, quality), batch=64))
    label = dict(zip(test.videos.tolist(), test.labels.tolist(), strict=True))
    return means.argmax(axis=1) == np.array([label[name] for name in ids])


def accuracies(train: Clips, test: Clips, seeds: int, steps: int) -> list[list[object]]:
    """Per cache: top-1, its difference to raw with the standard error over seeds, and what the raw student loses."""
    classes = int(train.labels.max()) + 1
    inputs = {quality: Clips(through(train.frames, quality), train.videos, train.labels) for quality in QUALITIES}
    own: dict[int | None, list[float]] = {quality: [] for quality in QUALITIES}
    moved: dict[int | None, list[float]] = {quality: [] for quality in QUALITIES}
    for seed in range(seeds):
        networks = {quality: student(inputs[quality], seed, steps, classes) for quality in QUALITIES}
        base = right(networks[None], test, None)
        for quality, network in networks.items():
            own[quality].append(100 * float(right(network, test, quality).mean()))
            moved[quality].append(100 * float(right(networks[None], test, quality).mean() - base.mean()))
        print(f"seed {seed}: { ({name_of(q): round(values[-1], 1) for q, values in own.items()}) }", file=sys.stderr)
    rows: list[list[object]] = []
    for quality in QUALITIES:
        difference = np.subtract(own[quality], own[None])
        rows.append(
            [name_of(quality), float(np.mean(own[quality])), _with_error(difference), _with_error(moved[quality])]
        )
    return rows


def _with_error(values: Any) -> str:
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}"


def main(
    *,
    videos: Path | None = None,
    size: int = 112,
    frames: int = 16,
    train: int = 800,
    test: int = 500,
    seeds: int = 4,
    steps: int = 200,
    out: Path | None = None,
) -> None:
    """Measure; the tables go to stdout, everything to a JSON file."""
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="stagedkd-frame-cache-"))
    machine = report.machine() | {"command": " ".join(["python -m jobs.bench.frame_cache", *sys.argv[1:]])}
    clips = simulated(folder / "videos", train, test)
    paths = sorted(path for path in (videos or folder / "videos").rglob("*") if path.suffix.lower() in SUFFIXES)
    views = some_views(paths, ViewPolicy("train", (size, size), frames, 2))
    head = (
        "cache",
        "bytes a view",
        "write, CPU ms a view",
        "read, CPU ms a view",
        f"batch of {BATCH}, ms",
        "mean error",
    )
    speed = [cached(views, quality, folder) for quality in QUALITIES]
    accuracy = accuracies(*clips, seeds, steps)
    columns = ("cache", "top-1, %", "minus raw, points", "raw student on this cache, points")
    tables = [report.table(head, speed), report.table(columns, accuracy)]
    result = {"machine": machine, "views": len(views), "speed": speed, "accuracy": accuracy, "seeds": seeds}
    report.finish(result, report.plain_text("cache of frames", result, tables), out or folder / "frame_cache.json")


if __name__ == "__main__":
    app = App(name="frame_cache", help=__doc__)
    app.default(main)
    app()
