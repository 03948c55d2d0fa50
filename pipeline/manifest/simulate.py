"""The simulated data set: real H.264 files in class folders, a manifest.csv and the parameters they were made from.

A video depends on (seed, split, number) and the look alone: more videos change no earlier one. Files are written under
a temporary name and renamed, so a file that is there is whole, and a second call writes only what is missing.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.identity import canonical_json, difference, integer
from pipeline.errors import ConfigError, InputError
from pipeline.manifest.encode import encode_mp4, versions
from pipeline.manifest.render import render
from pipeline.manifest.scene import SHAPES, Look, Ranges, draw_scene

PARAMETERS, MANIFEST_CSV = "parameters.json", "manifest.csv"
GENERATOR = 1  # raised when the same options give other videos
_CHUNK = 16


@dataclass(frozen=True)
class SimulateOptions:
    """What to simulate. Classes are the first `shapes` shapes times `directions` equal angles, in turn.

    `videos` per split; `difficulty` scales every disturbance (0 none, 1 the default look); `sides` is the range of the
    frame's sides in pixels, `lengths` of frames, `crf` of the encoder's quality; `workers`: processes, change no value.
    """

    videos: Mapping[str, int] = field(default_factory=lambda: {"train": 2000, "val": 400, "test": 800})
    shapes: int = len(SHAPES)
    directions: int = 5
    difficulty: float = 1.0
    seed: int = 0
    sides: tuple[int, int] = (40, 72)
    lengths: tuple[int, int] = (20, 30)
    crf: tuple[int, int] = (23, 35)
    workers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.shapes <= len(SHAPES) or self.directions < 1 or self.shapes * self.directions < 2:
            raise ConfigError(
                f"simulate: {self.shapes} shapes x {self.directions} directions; 1 to {len(SHAPES)} shapes and at "
                "least 2 classes are needed"
            )
        if self.difficulty < 0 or min(self.videos.values(), default=0) < 0:
            raise ConfigError("simulate.difficulty and the numbers of videos cannot be negative")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names like cross_072: shape, and direction in degrees from the right, turning upwards."""
        return tuple(f"{shape}_{round(math.degrees(angle)):03d}" for shape, angle in _classes(self))

    @property
    def look(self) -> dict[str, Any]:
        """All that decides a video, beside its split and number."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("videos", "workers")}
        return {"generator": GENERATOR, **fields}


@dataclass(frozen=True)
class Video:
    """One row of manifest.csv."""

    path: str
    label: str
    split: str
    number: int

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        name = Path(self.path).stem
        return self.path, self.label, name, self.split, name


def simulate(root: Path, options: SimulateOptions) -> list[Path]:
    """Write the videos that are missing below `root`; returns the paths of all, in the order of manifest.csv.

    InputError where `root` holds something else, or videos of another look.
    """
    _claim(root, options)
    videos = list_videos(options)
    missing = [video for video in videos if not (root / video.path).exists()]
    for folder in {(root / video.path).parent for video in missing}:
        folder.mkdir(exist_ok=True)
    _write_all(root, options, missing)
    _publish(root / MANIFEST_CSV, _listing(videos))
    return [root / video.path for video in videos]


def list_videos(options: SimulateOptions) -> list[Video]:
    """Every video of the options, classes in turn within each split."""
    names = options.classes
    return [
        Video(f"{label}/{split}-{number:05d}.mp4", label, split, number)
        for split, count in options.videos.items()
        for number, label in ((number, names[number % len(names)]) for number in range(count))
    ]


def video_bytes(options: SimulateOptions, split: str, number: int) -> bytes:
    """The file of one video: the same bytes for the same look, split, number and library versions."""
    classes = _classes(options)
    shape, angle = classes[number % len(classes)]
    ranges = Ranges(SHAPES[: options.shapes], options.sides, options.lengths, options.crf)
    rng = np.random.default_rng(integer("simulate", options.seed, split, number))
    scene = draw_scene(rng, shape, angle, Look.at(options.difficulty), ranges)
    return encode_mp4(render(scene), fps=scene.fps, crf=scene.crf, gop=scene.gop)


def _classes(options: SimulateOptions) -> list[tuple[str, float]]:
    turns = [2 * math.pi * turn / options.directions for turn in range(options.directions)]
    return [(shape, angle) for shape in SHAPES[: options.shapes] for angle in turns]


def _claim(root: Path, options: SimulateOptions) -> None:
    """Record the look in parameters.json before the first video, or check that the one recorded is ours."""
    record, look = root / PARAMETERS, json.loads(canonical_json(options.look))
    if record.is_file():
        changed = difference(json.loads(record.read_text(encoding="utf-8"))["look"], look)
        if changed:
            raise InputError(
                f"{root} holds videos simulated with other options ({'; '.join(changed)}): "
                "name another folder, or delete this one"
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise InputError(f"{root} holds files that were not simulated: name an empty folder for the simulated videos")
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"look": look, "made_with": versions()}, indent=2, sort_keys=True)
    _publish(record, f"{text}\n".encode())


def _write_all(root: Path, options: SimulateOptions, videos: list[Video]) -> None:
    chunks = [videos[start : start + _CHUNK] for start in range(0, len(videos), _CHUNK)]
    workers = min(options.workers, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            _write(root, options, chunk)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_write, root, options, chunk) for chunk in chunks]:
            done.result()


def _write(root: Path, options: SimulateOptions, videos: Iterable[Video]) -> None:
    for video in videos:
        _publish(root / video.path, video_bytes(options, video.split, video.number))


def _listing(videos: Iterable[Video]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "group", "split", "video_id"))
    writer.writerows(video.row for video in videos)
    return text.getvalue().encode()


def _publish(path: Path, data: bytes) -> None:
    """Whole or not at all, and untouched where it already says the same."""
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
